import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from services.mesh.errors import Overloaded, Unavailable
from services.mesh.tasks import BACKOFF_S_MAX, BACKOFF_S_MIN, BoundedExecutor, Loop, backoff_s, periodic, supervised
from tests.support.waiting import until


async def hang() -> None:
    await asyncio.Event().wait()


async def test_failed_loop_is_started_again_and_its_failure_is_told() -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("a bug")
        if runs == 2:
            raise Unavailable("the database cannot be reached now")
        await hang()

    with capture_logs() as lines:
        async with supervised((Loop("shaky", run),), drain_s=1.0, jitter=lambda: 0.0):
            await until(lambda: runs == 3)
    assert [(line["log_level"], line["loop"], line["failures"]) for line in lines] == [
        ("error", "shaky", 1),
        ("warning", "shaky", 2),
    ]


async def test_failure_of_one_loop_leaves_the_others_alone() -> None:
    ticks = 0

    async def fail() -> None:
        raise RuntimeError

    async def tick() -> None:
        nonlocal ticks
        ticks += 1

    async with supervised((Loop("failing", fail), periodic("ticking", tick, every_s=0.0)), drain_s=1.0):
        await until(lambda: ticks > 20)


async def test_loop_that_returns_is_done() -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1

    async with supervised((Loop("once", run),), drain_s=1.0):
        await until(lambda: runs == 1)
        await asyncio.sleep(0)
    assert runs == 1


async def test_loop_that_misses_its_cancellation_is_cancelled_again() -> None:
    missed = asyncio.Event()

    async def run() -> None:
        try:
            await hang()
        except asyncio.CancelledError:  # as `wait_for` of Python 3.11 does, when its result is there
            missed.set()
        await hang()

    async with asyncio.timeout(60.0), supervised((Loop("deaf", run),), drain_s=1.0):
        await asyncio.sleep(0)
    assert missed.is_set()


async def test_work_in_hand_is_finished_before_the_loop_is_cancelled() -> None:
    events: list[str] = []
    stop = asyncio.Event()

    async def run() -> None:
        try:
            await stop.wait()
            await asyncio.sleep(0)
            events.append("work done")
            await hang()
        finally:
            events.append("ended")

    async def drain() -> None:
        stop.set()
        await until(lambda: "work done" in events)

    async with supervised((Loop("worker", run, drain),), drain_s=10.0):
        await asyncio.sleep(0)
    assert events == ["work done", "ended"]


async def test_drain_that_hangs_is_bounded() -> None:
    with capture_logs() as lines:
        async with supervised((Loop("stuck", hang, hang),), drain_s=0.01):
            pass
    assert [line["event"] for line in lines] == ["loops_not_drained"]


async def test_drain_that_fails_does_not_keep_others_from_draining() -> None:
    drained = asyncio.Event()

    async def fail() -> None:
        raise RuntimeError

    async def drain() -> None:
        await asyncio.sleep(0)
        drained.set()

    with capture_logs():
        async with supervised((Loop("a", hang, fail), Loop("b", hang, drain)), drain_s=1.0):
            pass
    assert drained.is_set()


@pytest.mark.parametrize(("failures", "ceiling"), [(1, 0.2), (2, 0.4), (5, 3.2), (6, 5.0), (1_000_000, 5.0)])
def test_pause_grows_and_is_bounded(failures: int, ceiling: float) -> None:
    assert backoff_s(failures, 0.0) == BACKOFF_S_MIN
    assert backoff_s(failures, 1.0) == pytest.approx(ceiling)
    assert backoff_s(failures, 1.0) <= BACKOFF_S_MAX


async def test_executor_runs_in_a_thread_and_gives_result_or_exception() -> None:
    async with BoundedExecutor("test", threads=1, queue_max=1) as executor:
        assert await executor.run(threading.get_ident) != threading.get_ident()
        assert await executor.run(int, "ff", base=16) == 255
        with pytest.raises(ValueError, match="invalid literal"):
            await executor.run(int, "x")


@pytest.mark.parametrize("jobs", [2, 3, 4])
async def test_full_executor_refuses(jobs: int) -> None:
    gate = threading.Event()
    async with BoundedExecutor("test", threads=1, queue_max=2) as executor:
        tasks = [asyncio.ensure_future(executor.run(gate.wait, 10)) for _ in range(jobs)]
        await asyncio.sleep(0)
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results].count(Overloaded) == max(0, jobs - 3)


async def test_cancelled_job_keeps_its_place_until_it_is_done() -> None:
    gate, started = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        gate.wait(10)

    async with BoundedExecutor("test", threads=1, queue_max=0) as executor:
        task = asyncio.ensure_future(executor.run(work))
        await until(started.is_set)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(Overloaded):
            await executor.run(int)
        gate.set()
        await until(lambda: executor._jobs == 0)
        assert await executor.run(int) == 0


def test_long_outage_is_over_soon_after_its_end() -> None:
    assert backoff_s(1_000, 1.0) <= 5.0
