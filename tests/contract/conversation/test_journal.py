"""What every journal does."""

import asyncio

from services.conversation.events import TextDelta, TurnEvent
from services.conversation.journal.port import Batch, Journal, Tail

TURN = "turn_1"
Pair = tuple[Journal, Tail]


def events(first: int, last: int) -> tuple[TurnEvent, ...]:
    return tuple(TurnEvent(number, 1, TextDelta("p1", number - 1, "x")) for number in range(first, last + 1))


def sequences(found: list[TurnEvent]) -> list[int]:
    return [event.sequence for event in found]


async def test_what_is_appended_is_read_from_any_point(journal_and_tail: Pair) -> None:
    journal, _ = journal_and_tail

    assert await journal.append([Batch(TURN, 1, events(1, 3)), Batch("turn_2", 1, events(1, 1))]) == [True, True]

    assert await journal.read(TURN, after=0, limit=10) == list(events(1, 3))
    assert sequences(await journal.read(TURN, after=1, limit=1)) == [2]
    assert await journal.read(TURN, after=3, limit=10) == []
    assert await journal.last_sequence(TURN) == 3


async def test_a_repeated_append_adds_nothing(journal_and_tail: Pair) -> None:
    journal, _ = journal_and_tail
    await journal.append([Batch(TURN, 1, events(1, 3))])

    await journal.append([Batch(TURN, 1, events(2, 5))])

    assert sequences(await journal.read(TURN, after=0, limit=10)) == [1, 2, 3, 4, 5]


async def test_a_lower_fence_is_refused_and_changes_nothing(journal_and_tail: Pair) -> None:
    journal, _ = journal_and_tail
    await journal.append([Batch(TURN, 2, events(1, 2))])

    assert await journal.append([Batch(TURN, 1, events(3, 4)), Batch("turn_2", 1, events(1, 1))]) == [False, True]

    assert await journal.last_sequence(TURN) == 2


async def test_a_seized_journal_refuses_the_worker_before(journal_and_tail: Pair) -> None:
    journal, _ = journal_and_tail
    await journal.append([Batch(TURN, 1, events(1, 2))])

    await journal.seize(TURN, 2)

    assert await journal.append([Batch(TURN, 1, events(3, 3))]) == [False]
    assert await journal.append([Batch(TURN, 2, events(3, 3))]) == [True]


async def test_a_late_seizure_does_not_lower_the_fence(journal_and_tail: Pair) -> None:
    journal, _ = journal_and_tail
    await journal.seize(TURN, 3)
    await journal.seize(TURN, 2)

    assert await journal.append([Batch(TURN, 2, events(1, 1))]) == [False]


async def test_a_batch_after_a_hole_begins_the_journal_anew(journal_and_tail: Pair) -> None:
    journal, _ = journal_and_tail
    await journal.append([Batch(TURN, 1, events(1, 3))])

    await journal.append([Batch(TURN, 1, events(7, 8))])

    assert sequences(await journal.read(TURN, after=0, limit=10)) == [7, 8]


async def test_a_forgotten_turn_has_no_events(journal_and_tail: Pair) -> None:
    journal, _ = journal_and_tail
    await journal.append([Batch(TURN, 1, events(1, 3))])
    await journal.expire(TURN, keep_s=60)

    await journal.forget([TURN])
    await journal.forget([])

    assert await journal.last_sequence(TURN) == 0


async def test_the_epoch_stays_the_same_while_nothing_is_lost(journal_and_tail: Pair) -> None:
    journal, _ = journal_and_tail
    before = await journal.epoch()
    await journal.append([Batch(TURN, 1, events(1, 3))])

    assert before
    assert await journal.epoch() == before


async def test_the_tail_tells_of_all_turns_that_have_news(journal_and_tail: Pair) -> None:
    journal, tail = journal_and_tail
    await journal.append([Batch(TURN, 1, events(1, 3)), Batch("turn_2", 1, events(1, 1))])

    found = await tail.wait({TURN: 1, "turn_2": 0, "turn_3": 0}, wait_s=1.0)

    assert {turn_id: sequences(news) for turn_id, news in found.items()} == {TURN: [2, 3], "turn_2": [1]}


async def test_the_tail_waits_for_news(journal_and_tail: Pair) -> None:
    journal, tail = journal_and_tail
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(tail.wait({TURN: 0}, wait_s=1.5))
        await asyncio.sleep(0)
        await journal.append([Batch(TURN, 1, events(1, 1))])

    assert sequences(waiting.result()[TURN]) == [1]


async def test_the_tail_gives_nothing_when_nothing_comes(journal_and_tail: Pair) -> None:
    _, tail = journal_and_tail

    assert await tail.wait({TURN: 0}, wait_s=0.02) == {}


async def test_an_interrupted_tail_returns_at_once(journal_and_tail: Pair) -> None:
    _, tail = journal_and_tail
    async with asyncio.timeout(1.0), asyncio.TaskGroup() as group:
        waiting = group.create_task(tail.wait({TURN: 0}, wait_s=1.5))
        await asyncio.sleep(0)
        await tail.interrupt()

    assert waiting.result() == {}
