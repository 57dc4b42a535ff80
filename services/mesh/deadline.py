"""How much time the work at hand still has, carried by a contextvar from the border inwards.

Outgoing calls take `budget_s(own)`: never more than the caller has left minus a shave, so that the answer to "too
late" still reaches the caller; work that cannot finish is refused before it starts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from time import monotonic
from typing import Final

from services.mesh.errors import DeadlineExceeded

SHAVE_S: Final = 0.020
"""Kept back at every hop for the way home."""
MINIMUM_S: Final = 0.005
"""Below this an outgoing call is refused: a unary hop costs about 1 ms unloaded, several under load."""

_DEADLINE: Final[ContextVar[float | None]] = ContextVar("parley_deadline", default=None)


class within:  # noqa: N801 - used as a function is; a generator would cost three times as much, on every call
    """Bounds the work inside to `seconds` from now, or less where an outer bound is nearer; None adds no bound."""

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        nearest = _DEADLINE.get()
        if self._seconds is not None:
            own = monotonic() + self._seconds
            if nearest is None or own < nearest:
                nearest = own
        self._token: Token[float | None] = _DEADLINE.set(nearest)

    def __exit__(self, *_ended: object) -> None:
        _DEADLINE.reset(self._token)


@contextmanager
def detached() -> Iterator[None]:
    """Work inside outlives the caller's deadline: background work that a call merely starts."""
    token = _DEADLINE.set(None)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def remaining_s() -> float | None:
    """Seconds left, never negative; None when the work at hand has no deadline."""
    deadline = _DEADLINE.get()
    return None if deadline is None else max(0.0, deadline - monotonic())


def budget_s(own_s: float) -> float:
    """Timeout for an outgoing call: `own_s`, or what the caller has left minus the shave if that is less.

    Raises:
        DeadlineExceeded: there is too little left for the call to be worth its start.
    """
    left = remaining_s()
    if left is None:
        return own_s
    budget = min(own_s, left - SHAVE_S)
    if budget < MINIMUM_S:
        raise DeadlineExceeded("too little time is left to start the work")
    return budget
