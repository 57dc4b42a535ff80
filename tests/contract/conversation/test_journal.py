"""What every journal does."""

import asyncio

import pytest

from services.conversation.events import TextDelta, TurnEvent
from services.conversation.journal.port import Batch, Journal, Receipt, Tail
from tests.contract.conversation.conftest import Hot

TURN = "turn_1"
TAKEN, OUTDATED, DETACHED = Receipt.TAKEN, Receipt.OUTDATED, Receipt.DETACHED


@pytest.fixture
def journal(hot: Hot) -> Journal:
    return hot.journal


@pytest.fixture
def tail(hot: Hot) -> Tail:
    return hot.tail


def events(first: int, last: int) -> tuple[TurnEvent, ...]:
    return tuple(TurnEvent(number, 1, TextDelta("p1", number - 1, "x")) for number in range(first, last + 1))


async def append(journal: Journal, fence: int, first: int, last: int, *, turn: str = TURN) -> Receipt:
    """As a worker does that has just joined."""
    (receipt,) = await journal.append([Batch(turn, fence, await journal.epoch(), events(first, last))])
    return receipt


def sequences(found: list[TurnEvent]) -> list[int]:
    return [event.sequence for event in found]


async def test_what_is_appended_is_read_from_any_point(journal: Journal) -> None:
    epoch = await journal.epoch()
    batches = [Batch(TURN, 1, epoch, events(1, 3)), Batch("turn_2", 1, epoch, events(1, 1))]

    assert await journal.append(batches) == [TAKEN, TAKEN]

    assert await journal.read(TURN, after=0, limit=10) == list(events(1, 3))
    assert sequences(await journal.read(TURN, after=1, limit=1)) == [2]
    assert await journal.read(TURN, after=3, limit=10) == []
    assert await journal.last_sequence(TURN) == 3


async def test_a_repeated_append_adds_nothing(journal: Journal) -> None:
    await append(journal, 1, 1, 3)

    await append(journal, 1, 2, 5)

    assert sequences(await journal.read(TURN, after=0, limit=10)) == [1, 2, 3, 4, 5]


async def test_a_lower_fence_is_refused_and_changes_nothing(journal: Journal) -> None:
    await append(journal, 2, 1, 2)

    epoch = await journal.epoch()
    batches = [Batch(TURN, 1, epoch, events(3, 4)), Batch("turn_2", 1, epoch, events(1, 1))]

    assert await journal.append(batches) == [OUTDATED, TAKEN]

    assert await journal.last_sequence(TURN) == 2


async def test_a_seized_journal_refuses_the_worker_before(journal: Journal) -> None:
    await append(journal, 1, 1, 2)

    await journal.seize(TURN, 2)

    assert await append(journal, 1, 3, 3) is OUTDATED
    assert await append(journal, 2, 3, 3) is TAKEN


async def test_a_late_seizure_does_not_lower_the_fence(journal: Journal) -> None:
    await journal.seize(TURN, 3)
    await journal.seize(TURN, 2)

    assert await append(journal, 2, 1, 1) is OUTDATED


async def test_a_batch_after_a_hole_begins_the_journal_anew(journal: Journal) -> None:
    await append(journal, 1, 1, 3)

    await append(journal, 1, 7, 8)

    assert sequences(await journal.read(TURN, after=0, limit=10)) == [7, 8]


async def test_what_was_sent_before_a_wipe_is_refused_after_it(hot: Hot) -> None:
    journal = hot.journal
    await append(journal, 1, 1, 3)
    late = Batch(TURN, 1, await journal.epoch(), events(4, 4))
    await journal.seize(TURN, 2)
    hot.wipe()

    assert await journal.append([late]) == [DETACHED]
    assert await journal.last_sequence(TURN) == 0
    await journal.seize(TURN, 2)
    assert await append(journal, 2, 4, 5) is TAKEN
    assert await journal.append([late]) == [OUTDATED]
    assert sequences(await journal.read(TURN, after=0, limit=10)) == [4, 5]


async def test_a_first_batch_that_comes_after_a_wipe_is_refused(hot: Hot) -> None:
    first = Batch(TURN, 1, await hot.journal.epoch(), events(1, 1))
    hot.wipe()

    assert await hot.journal.append([first]) == [DETACHED]


async def test_nothing_is_taken_without_an_epoch(journal: Journal) -> None:
    assert await journal.append([Batch(TURN, 1, "", events(1, 1))]) == [DETACHED]


async def test_a_turn_that_the_journal_does_not_know_is_taken_from_its_beginning_or_when_it_was_seized(
    journal: Journal,
) -> None:
    assert await append(journal, 1, 2, 3) is DETACHED

    await journal.seize(TURN, 1)

    assert await append(journal, 1, 2, 3) is TAKEN


async def test_a_forgotten_turn_takes_nothing_more(journal: Journal) -> None:
    await append(journal, 1, 1, 3)

    await journal.forget([TURN])

    assert await append(journal, 1, 4, 5) is DETACHED
    assert await journal.last_sequence(TURN) == 0


async def test_a_forgotten_turn_has_no_events(journal: Journal) -> None:
    await append(journal, 1, 1, 3)
    await journal.expire(TURN, keep_s=60)

    await journal.forget([TURN])
    await journal.forget([])

    assert await journal.last_sequence(TURN) == 0


async def test_the_epoch_stays_the_same_while_nothing_is_lost(journal: Journal) -> None:
    before = await journal.epoch()
    await append(journal, 1, 1, 3)

    assert before
    assert await journal.epoch() == before


async def test_the_tail_tells_of_all_turns_that_have_news(journal: Journal, tail: Tail) -> None:
    await append(journal, 1, 1, 3)
    await append(journal, 1, 1, 1, turn="turn_2")

    found = await tail.wait({TURN: 1, "turn_2": 0, "turn_3": 0}, wait_s=1.0)

    assert {turn_id: sequences(news) for turn_id, news in found.items()} == {TURN: [2, 3], "turn_2": [1]}


async def test_the_tail_waits_for_news(journal: Journal, tail: Tail) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(tail.wait({TURN: 0}, wait_s=1.5))
        await asyncio.sleep(0)
        await append(journal, 1, 1, 1)

    assert sequences(waiting.result()[TURN]) == [1]


async def test_the_tail_gives_nothing_when_nothing_comes(tail: Tail) -> None:
    assert await tail.wait({TURN: 0}, wait_s=0.02) == {}


async def test_an_interrupted_tail_returns_at_once(tail: Tail) -> None:
    async with asyncio.timeout(1.0), asyncio.TaskGroup() as group:
        waiting = group.create_task(tail.wait({TURN: 0}, wait_s=1.5))
        await asyncio.sleep(0)
        await tail.interrupt()

    assert waiting.result() == {}


async def test_the_tail_tells_of_news_of_turns_that_it_knows(journal: Journal, tail: Tail) -> None:
    await append(journal, 1, 1, 1)
    await append(journal, 1, 1, 1, turn="turn_2")
    first = await tail.wait({TURN: 0, "turn_2": 0}, wait_s=1.0)
    await append(journal, 1, 2, 2)

    found = await tail.wait({TURN: 1, "turn_2": 1}, fresh=(), wait_s=1.0)

    assert first.keys() == {TURN, "turn_2"}
    assert {turn_id: sequences(news) for turn_id, news in found.items()} == {TURN: [2]}


async def test_the_tail_tells_of_what_a_fresh_turn_had_before(journal: Journal, tail: Tail) -> None:
    await append(journal, 1, 1, 2)
    assert await tail.wait({"turn_2": 0}, wait_s=0.02) == {}

    found = await tail.wait({TURN: 1, "turn_2": 0}, fresh=[TURN], wait_s=1.0)

    assert {turn_id: sequences(news) for turn_id, news in found.items()} == {TURN: [2]}


async def test_the_tail_tells_all_of_a_turn_that_has_much_to_say(journal: Journal, tail: Tail) -> None:
    await tail.wait({TURN: 0}, wait_s=0.02)
    for first in (1, 251, 501):
        await append(journal, 1, first, first + 249)

    seen: list[int] = []
    while len(seen) < 750:
        found = await tail.wait({TURN: len(seen)}, fresh=(), wait_s=1.0)
        seen += sequences(found[TURN])

    assert seen == list(range(1, 751))
