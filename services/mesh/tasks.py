"""Tasks with an owner: background loops that are named, watched and restarted, and threads that are bounded."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

from services.mesh import telemetry
from services.mesh.errors import MeshError, Overloaded

BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 5.0
"""A platform whose database is back has to be healthy within 30 seconds, and the reaper is one of these loops."""
CANCEL_AGAIN_S: Final = 1.0
"""For a loop to end after it was cancelled: longer than any takes to clean up."""
STEADY_S: Final = 60.0
"""A loop that ran this long before it failed starts again with the shortest pause."""

P = ParamSpec("P")
T = TypeVar("T")

_log = telemetry.logger("mesh.tasks")
_RESTARTS: Final = telemetry.counter(
    "parley_mesh_loop_restarts", "Background loops that failed and were started again.", ["loop"]
)
_RUNNING: Final = telemetry.gauge("parley_mesh_loop_running_count", "Background loops that run now.", ["loop"])
_QUEUED: Final = telemetry.gauge(
    "parley_mesh_executor_queued_count", "Jobs of a bounded executor that run or wait.", ["executor"]
)


async def _nothing_to_drain() -> None:
    """A loop that may be cancelled anywhere."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A background loop of a process.

    Attributes:
        name: from a closed set; label of its metrics.
        run: runs until cancelled. When it raises, it is started again after a jittered pause; when it returns, the
            loop has done what it was for.
        drain: called once at shutdown before `run` is cancelled; returns when no work is in hand. Bounded by the
            process's drain time.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]] = _nothing_to_drain


def periodic(
    name: str, work: Callable[[], Awaitable[None]], *, every_s: float, jitter: Callable[[], float] = random.random
) -> Loop:
    """A loop that does `work`, pauses `every_s` seconds give or take a tenth, and repeats.

    The jitter keeps replicas from working in step. A failure of `work` is handled as a failure of the loop.
    """

    async def run() -> None:
        while True:
            await work()
            await asyncio.sleep(every_s * (0.9 + 0.2 * jitter()))

    return Loop(name, run)


@asynccontextmanager
async def supervised(
    loops: tuple[Loop, ...], *, drain_s: float, jitter: Callable[[], float] = random.random
) -> AsyncIterator[None]:
    """Runs `loops` while the body runs; on leaving, drains them together for at most `drain_s`, then cancels them."""
    owner = asyncio.TaskGroup()
    await owner.__aenter__()
    tasks = [owner.create_task(_supervise(loop, jitter), name=loop.name) for loop in loops]
    try:
        yield
    finally:
        try:
            await _drain(loops, drain_s)
        finally:
            await _cancelled(tasks)
            # Not handed the body's error: the group would wrap it, and whoever catches it would no longer know it.
            await owner.__aexit__(None, None, None)


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels until they have ended.

    Python 3.11's `wait_for`, by which drivers wait, loses a cancellation that comes at the same moment as its result.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)


async def _drain(loops: tuple[Loop, ...], drain_s: float) -> None:
    try:
        async with asyncio.timeout(drain_s), asyncio.TaskGroup() as group:
            for loop in loops:
                group.create_task(_drain_one(loop), name=f"drain {loop.name}")
    except TimeoutError:
        _log.warning("loops_not_drained", drain_s=drain_s)


async def _drain_one(loop: Loop) -> None:
    try:
        await loop.drain()
    except Exception:  # noqa: BLE001 - one loop's failure must not keep the others from draining
        _log.exception("drain_failed", loop=loop.name)


async def _supervise(loop: Loop, jitter: Callable[[], float]) -> None:
    clock = asyncio.get_running_loop().time
    failures = 0
    _RESTARTS.labels(loop.name)  # so that the series exists before the first failure
    with _RUNNING.labels(loop.name).track_inprogress():
        while True:
            started = clock()
            try:
                await loop.run()
            except Exception as error:  # noqa: BLE001 - the supervisor: whatever ends a loop, it is logged and started again
                failures = 1 if clock() - started > STEADY_S else failures + 1
                pause_s = backoff_s(failures, jitter())
                _RESTARTS.labels(loop.name).inc()
                _log_failure(loop, failures, pause_s, error)
                await asyncio.sleep(pause_s)
            else:
                return


def _log_failure(loop: Loop, failures: int, pause_s: float, error: Exception) -> None:
    restart_in_s = round(pause_s, 3)
    if isinstance(error, MeshError):  # expected trouble, such as a database that is away
        cause = repr(error.__cause__ or error)
        _log.warning("loop_failed", loop=loop.name, failures=failures, restart_in_s=restart_in_s, error=cause)
    else:
        _log.error("loop_failed", loop=loop.name, failures=failures, restart_in_s=restart_in_s, exc_info=error)


def backoff_s(failures: int, chance: float) -> float:
    """Pause after the n-th failure in a row (n >= 1), with full jitter: `chance` is uniform in [0, 1).

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; never less than the shortest pause.
    """
    ceiling = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(failures, 20))
    return BACKOFF_S_MIN + (ceiling - BACKOFF_S_MIN) * chance


class BoundedExecutor:
    """Threads for work that would block the event loop; a full queue refuses instead of growing.

    Args:
        name: from a closed set; label of its metrics.
        threads: jobs that run at once.
        queue_max: jobs that may wait beyond those.
    """

    def __init__(self, name: str, *, threads: int, queue_max: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._jobs_max = threads + queue_max
        self._jobs = 0
        self._gauge = _QUEUED.labels(name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does `work` in a thread. A cancelled caller leaves at once; its job keeps its place until it is done.

        Raises:
            Overloaded: as many jobs run and wait as are allowed.
        """
        if self._jobs >= self._jobs_max:
            raise Overloaded(f"too many jobs wait for {self._name}", retry_after_s=1.0)
        loop = asyncio.get_running_loop()
        self._count(1)
        try:
            job = self._pool.submit(work, *args, **kwargs)
        except BaseException:
            self._count(-1)
            raise
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count, -1))
        return await asyncio.wrap_future(job)

    def _count(self, change: int) -> None:
        self._jobs += change
        self._gauge.set(self._jobs)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
