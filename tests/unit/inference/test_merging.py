import asyncio
from collections.abc import AsyncGenerator

import pytest

from services.inference.generating.merging import Merging
from services.mesh.errors import ProviderUnavailable


async def numbers(count: int, *, error: Exception | None = None) -> AsyncGenerator[int, None]:
    for number in range(count):
        yield number
    if error is not None:
        raise error


async def test_what_is_ready_together_comes_together() -> None:
    async with Merging(numbers(5)) as batches:
        assert [batch async for batch in batches] == [[0, 1, 2, 3, 4]]


async def test_idle_reader_gets_each_item_at_once() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def gated() -> AsyncGenerator[int, None]:
        for number, gate in enumerate(gates):
            await gate.wait()
            yield number

    found = []
    async with Merging(gated()) as batches:
        for gate in gates:
            gate.set()
            found.append(await anext(batches))

    assert found == [[0], [1], [2]]


async def test_item_that_waits_comes_with_the_next_one() -> None:
    is_alone, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncGenerator[int, None]:
        yield 0
        is_alone.set()
        await may_go_on.wait()
        yield 1

    async with Merging(slow(), waits=lambda number: number == 0) as batches:
        reading = asyncio.ensure_future(anext(batches))
        await is_alone.wait()
        may_go_on.set()

        assert await reading == [0, 1]


@pytest.mark.parametrize("error", [None, ProviderUnavailable()])
async def test_item_that_waits_comes_before_an_end_without_another_one(error: Exception | None) -> None:
    async with Merging(numbers(1, error=error), waits=lambda _: True) as batches:
        assert await anext(batches) == [0]
        with pytest.raises(StopAsyncIteration if error is None else ProviderUnavailable):
            await anext(batches)


async def test_items_that_all_wait_come_at_the_bound() -> None:
    async with Merging(numbers(5), waits=lambda _: True, ahead_max=2) as batches:
        assert [number async for batch in batches for number in batch] == list(range(5))


async def test_error_comes_after_the_items_before_it() -> None:
    found: list[list[int]] = []

    async def read() -> None:
        async with Merging(numbers(2, error=ProviderUnavailable())) as batches:
            async for batch in batches:
                found.append(batch)  # noqa: PERF401 - those before the error are wanted

    with pytest.raises(ProviderUnavailable):
        await read()

    assert found == [[0, 1]]


@pytest.mark.parametrize(("count", "batches_expected"), [(3, 1), (4, 1), (5, 2)])
async def test_source_is_ahead_by_no_more_than_the_bound(count: int, batches_expected: int) -> None:
    async with Merging(numbers(count), ahead_max=4) as batches:
        found = [batch async for batch in batches]

    assert [number for batch in found for number in batch] == list(range(count))
    assert len(found) >= batches_expected
    assert all(len(batch) <= 5 for batch in found)


async def test_leaving_early_closes_the_source() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    async with Merging(endless()) as batches:
        await anext(batches)

    assert closed.is_set()


async def test_cancelled_reader_closes_the_source() -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def silent() -> AsyncGenerator[int, None]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield 1
        finally:
            closed.set()

    async def read() -> None:
        async with Merging(silent()) as batches:
            await anext(batches)

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert closed.is_set()


async def test_end_follows_the_last_items_within_the_same_turn_of_the_loop() -> None:
    turns: list[str] = []
    async with Merging(numbers(3)) as batches:
        assert await anext(batches) == [0, 1, 2]
        asyncio.get_running_loop().call_soon(turns.append, "another turn")
        assert [batch async for batch in batches] == []

    assert turns == []


async def test_source_is_closed_even_if_its_reader_is_cancelled_twice() -> None:
    begun, closing, may_close, closed = (asyncio.Event() for _ in range(4))

    async def slow_to_close() -> AsyncGenerator[int, None]:
        try:
            yield 1
            begun.set()
            await asyncio.Event().wait()
        finally:
            closing.set()
            await may_close.wait()
            closed.set()

    async def read() -> None:
        async with Merging(slow_to_close()) as batches:
            async for _ in batches:
                pass

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    await closing.wait()
    reading.cancel()
    may_close.set()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert closed.is_set()
