import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mesh.errors import Overloaded, Unavailable
from services.mesh.groupcommit import GroupCommit


class Line:
    """A slow outlet: it notes each batch, and holds it until the test lets go."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.started = asyncio.Semaphore(0)
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()

    async def send(self, batch: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(batch))
        self.started.release()
        await self.gate.wait()
        if any(item < 0 for item in batch):
            raise ConnectionResetError("the line is cut")
        return [item * 10 for item in batch]


async def test_idle_writer_sends_at_once_and_a_busy_one_merges() -> None:
    line = Line()
    async with GroupCommit(line.send, name="test") as commit, asyncio.TaskGroup() as group:
        first = group.create_task(commit.add(1))
        await line.started.acquire()
        others = [group.create_task(commit.add(item)) for item in (2, 3, 4)]
        await asyncio.sleep(0)
        assert line.batches == [[1]]
        line.gate.set()
        assert [await task for task in (first, *others)] == [10, 20, 30, 40]
    assert line.batches == [[1], [2, 3, 4]]


async def test_failure_reaches_every_waiter_of_its_batch_and_no_other() -> None:
    line = Line()
    async with GroupCommit(line.send, name="test") as commit:
        first = asyncio.ensure_future(commit.add(1))
        await line.started.acquire()
        failing = [asyncio.ensure_future(commit.add(item)) for item in (2, -3)]
        await asyncio.sleep(0)
        line.gate.set()
        results = await asyncio.gather(first, *failing, return_exceptions=True)
        assert results[0] == 10
        assert [type(result) for result in results[1:]] == [ConnectionResetError] * 2
        assert await commit.add(4) == 40


async def test_cancelled_waiter_takes_its_item_back() -> None:
    line = Line()
    async with GroupCommit(line.send, name="test") as commit:
        first = asyncio.ensure_future(commit.add(1))
        await line.started.acquire()
        waiting = [asyncio.ensure_future(commit.add(item)) for item in (2, 3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        line.gate.set()
        assert await first == 10
        assert await waiting[1] == 30
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
    assert line.batches == [[1], [3]]


async def test_waiter_cancelled_during_the_send_disturbs_nobody() -> None:
    line = Line()
    async with GroupCommit(line.send, name="test") as commit:
        tasks = [asyncio.ensure_future(commit.add(item)) for item in (1, 2)]
        await line.started.acquire()
        tasks[0].cancel()
        line.gate.set()
        assert await tasks[1] == 20
    assert line.batches == [[1, 2]]


@pytest.mark.parametrize("waiting", [2, 3, 4])
async def test_full_queue_refuses(waiting: int) -> None:
    line = Line()
    async with GroupCommit(line.send, name="test", pending_max=3) as commit:
        first = asyncio.ensure_future(commit.add(0))
        await line.started.acquire()
        tasks = [asyncio.ensure_future(commit.add(item)) for item in range(waiting)]
        await asyncio.sleep(0)
        line.gate.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [type(result) for result in results].count(Overloaded) == max(0, waiting - 3)


async def test_leaving_sends_what_waits() -> None:
    line = Line()
    async with GroupCommit(line.send, name="test") as commit:
        tasks = [asyncio.ensure_future(commit.add(1))]
        await line.started.acquire()
        tasks.append(asyncio.ensure_future(commit.add(2)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(line.gate.set)
    assert [task.result() for task in tasks] == [10, 20]


async def test_leaving_by_an_exception_gives_up_what_waits_and_keeps_the_exception() -> None:
    line = Line()
    tasks: list[asyncio.Future[int]] = []

    async def fail_inside() -> None:
        async with GroupCommit(line.send, name="test") as commit:
            tasks.append(asyncio.ensure_future(commit.add(1)))
            await line.started.acquire()
            tasks.append(asyncio.ensure_future(commit.add(2)))
            await asyncio.sleep(0)
            raise LookupError

    with pytest.raises(LookupError):
        await fail_inside()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]


async def test_closed_batcher_refuses() -> None:
    commit = GroupCommit(Line(is_open=True).send, name="test")
    with pytest.raises(Unavailable):
        await commit.add(1)
    async with commit:
        await commit.add(1)
    with pytest.raises(Unavailable):
        await commit.add(1)


async def test_sender_that_loses_count_is_an_error_of_the_batch() -> None:
    async def send(_batch: Sequence[int]) -> Sequence[int]:
        return []

    async with GroupCommit(send, name="test") as commit:
        with pytest.raises(ValueError, match="1 items"):
            await commit.add(1)


@given(
    bursts=st.lists(st.integers(min_value=0, max_value=12), max_size=12),
    batch_max=st.integers(min_value=1, max_value=5),
)
def test_every_item_is_sent_once_and_in_order_and_answered(bursts: list[int], batch_max: int) -> None:
    async def scenario() -> None:
        sent: list[int] = []

        async def send(batch: Sequence[int]) -> Sequence[int]:
            assert 1 <= len(batch) <= batch_max
            await asyncio.sleep(0)
            sent.extend(batch)
            return [-item for item in batch]

        async with GroupCommit(send, name="test", batch_max=batch_max) as commit:
            tasks: list[asyncio.Future[int]] = []
            for burst in bursts:
                tasks += [asyncio.ensure_future(commit.add(len(tasks) + number)) for number in range(burst)]
                await asyncio.sleep(0)
        assert [task.result() for task in tasks] == [-number for number in range(len(tasks))]
        assert sent == list(range(len(tasks)))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("items", "batches"),
    [
        ([4, 3, 3], [[4, 3, 3]]),
        ([4, 3, 4], [[4, 3], [4]]),
        ([11, 1], [[11], [1]]),
        ([1, 11, 1], [[1], [11], [1]]),
    ],
)
async def test_batch_holds_as_many_items_as_it_bears(items: list[int], batches: list[list[int]]) -> None:
    line = Line(is_open=True)
    async with GroupCommit(line.send, name="test", batch_max=10, weigh=lambda item: item) as commit:
        await asyncio.gather(*(commit.add(item) for item in items))

    assert line.batches == batches
