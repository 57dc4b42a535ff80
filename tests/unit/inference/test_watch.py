"""Waits with one timer: each is held to its own time, and whoever is cancelled by others stays cancelled."""

import asyncio
from time import monotonic

import pytest

from services.inference.providers.watch import Watch

LONG_S = 3_600.0


async def test_what_comes_in_time_is_given() -> None:
    with Watch() as watch:
        found = [await watch.wait(asyncio.sleep(0, number), until=monotonic() + LONG_S) for number in range(3)]

    assert found == [0, 1, 2]


async def test_what_does_not_come_in_time_is_cancelled() -> None:
    never = asyncio.get_running_loop().create_future()

    with Watch() as watch, pytest.raises(TimeoutError):
        await watch.wait(never, until=monotonic() + 0.01)

    assert never.cancelled()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


@pytest.mark.parametrize("first_s", [0.01, LONG_S], ids=["the timer is set already", "the timer is set for later"])
async def test_each_wait_has_its_own_time(first_s: float) -> None:
    with Watch() as watch:
        await watch.wait(asyncio.sleep(0), until=monotonic() + first_s)
        # Longer than the first wait may take: only the second one's time counts now.
        await watch.wait(asyncio.sleep(0.05), until=monotonic() + LONG_S)
        with pytest.raises(TimeoutError):
            await watch.wait(asyncio.Event().wait(), until=monotonic() + 0.01)
        assert await watch.wait(asyncio.sleep(0, "again"), until=monotonic() + LONG_S) == "again"


async def test_time_between_waits_is_nobodys() -> None:
    with Watch() as watch:
        await watch.wait(asyncio.sleep(0), until=monotonic() + 0.01)
        await asyncio.sleep(0.05)

        assert await watch.wait(asyncio.sleep(0, "later"), until=monotonic() + LONG_S) == "later"


async def test_time_that_is_over_before_the_wait_is_over_for_it() -> None:
    with Watch() as watch, pytest.raises(TimeoutError):
        await watch.wait(asyncio.Event().wait(), until=monotonic() - 1)


async def test_task_that_others_cancel_is_cancelled() -> None:
    async def wait() -> None:
        with Watch() as watch:
            await watch.wait(asyncio.Event().wait(), until=monotonic() + LONG_S)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_task_that_others_cancel_when_its_time_is_over_is_cancelled() -> None:
    async def swallow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            me.cancel()  # as somebody else would, in the very moment
            raise

    async def wait() -> None:
        with Watch() as watch:
            await watch.wait(swallow(), until=monotonic() + 0.01)

    me = asyncio.create_task(wait())

    with pytest.raises(asyncio.CancelledError):
        await me


async def test_error_of_what_is_awaited_is_raised() -> None:
    async def fail() -> None:
        raise LookupError

    with Watch() as watch, pytest.raises(LookupError):
        await watch.wait(fail(), until=monotonic() + LONG_S)
