"""A journal that is lost, or comes late: who still has the turn joins the next one, and nobody else writes in it."""

import pytest

from services.conversation.events import TurnEvent
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Batch, Receipt
from services.conversation.model import TurnState
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from tests.support.conversation import ADA, ending, has_snapshot, text_of
from tests.support.conversation_fakes import Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

LEASE_S = 30.0


class Stops:
    """A gate that holds each answer before its third word, and again before its fourth."""

    def __init__(self) -> None:
        self.first, self.second = Stop(before=2), Stop(before=3)

    async def __call__(self, index: int) -> None:
        await self.first(index)
        await self.second(index)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def rig(clock: ManualClock) -> Rig:
    return memory_rig(MemoryStore(clock), lease_s=LEASE_S)


@pytest.fixture
def journal(rig: Rig) -> MemoryJournal:
    assert isinstance(rig.journal, MemoryJournal)
    return rig.journal


async def test_who_joins_the_next_journal_is_taken_over_whole(
    rig: Rig, journal: MemoryJournal, clock: ManualClock
) -> None:
    rig.inference.gate = stops = Stops()
    async with running(rig):
        turn = await rig.ask()
        await stops.first.reached.wait()
        await until(lambda: _text(journal, turn.id) == "Ada wrote", within_s=60.0)
        seen = await rig.look(turn)
        journal.lose_everything()
        stops.first.opened.set()
        await until(lambda: bool(journal._events.get(turn.id)), within_s=60.0)
    rig.inference.gate = None
    clock.advance(LEASE_S + 1)
    await rig.reaper.reap()

    async with running(rig):
        rest = await rig.watch(turn, seen[-1].sequence)

    assert not has_snapshot(rest)
    assert text_of([*seen, *rest]) == "Ada wrote notes."


async def test_what_a_lapsed_worker_sent_before_the_loss_is_not_taken_after_it(
    rig: Rig, journal: MemoryJournal, clock: ManualClock
) -> None:
    rig.inference.gate = stops = Stops()
    async with running(rig):
        turn = await rig.ask()
        await stops.first.reached.wait()
        await until(lambda: _text(journal, turn.id) == "Ada wrote", within_s=60.0)
        sequence = await journal.last_sequence(turn.id)
    late = Batch(turn.id, 1, await journal.epoch(), (TurnEvent(sequence + 1, 1, journal._events[turn.id][-1].payload),))
    clock.advance(LEASE_S + 1)
    await rig.reaper.reap()
    async with running(rig):
        await stops.first.reached.wait()
        await until(lambda: journal._fences[turn.id] == 2, within_s=60.0)
        journal.lose_everything()

        assert await journal.append([late]) == [Receipt.DETACHED]

        stops.first.opened.set()
        stops.second.opened.set()
        events = await rig.watch(turn, sequence)

    assert ending(events).state is TurnState.COMPLETED
    assert (await rig.store.answer(ADA, turn.id)).message.text == "Ada wrote notes."


async def test_a_journal_that_comes_late_is_written_from_then_on(rig: Rig, journal: MemoryJournal) -> None:
    journal.is_away = True
    rig.inference.gate = stop = Stop(before=2)
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
        journal.is_away = False
        await until(lambda: _text(journal, turn.id) == "Ada wrote", within_s=60.0)


async def test_an_end_is_told_in_a_journal_that_was_lost_just_before(rig: Rig, journal: MemoryJournal) -> None:
    rig.inference.gate = stop = Stop(before=4)
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
        await until(lambda: _text(journal, turn.id) == "Ada wrote notes.", within_s=60.0)
        journal.lose_everything()
        stop.opened.set()
        await until(lambda: bool(journal._events.get(turn.id)), within_s=60.0)
        assert (await rig.watch(turn))[-1].sequence == await journal.last_sequence(turn.id)


def _text(journal: MemoryJournal, turn_id: str) -> str:
    return text_of(journal._events.get(turn_id, []))
