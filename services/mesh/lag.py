"""How late the event loop runs what is due: the figure that tells a process which is too busy from one that waits."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from services.mesh import telemetry

EVERY_S: Final = 0.5

# A timer of libuv is exact to a millisecond; past a quarter of a second people notice.
_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

_LAG: Final = telemetry.histogram(
    "parley_mesh_event_loop_lag_seconds",
    "How much later than it was due the event loop ran a timer.",
    buckets=_BUCKETS_S,
)


@contextmanager
def measured() -> Iterator[None]:
    """Measures the running loop twice a second while the body runs; a timer, because a task would cost more."""
    loop = asyncio.get_running_loop()
    due_at = 0.0
    timer: asyncio.TimerHandle

    def schedule() -> None:
        nonlocal due_at, timer
        due_at = monotonic() + EVERY_S
        timer = loop.call_later(EVERY_S, tick)

    def tick() -> None:
        # Not the loop's own clock: uvloop's stands still for as long as one round of it takes.
        _LAG.observe(max(0.0, monotonic() - due_at))
        schedule()

    schedule()
    try:
        yield
    finally:
        timer.cancel()
