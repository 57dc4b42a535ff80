"""Moments between two steps, each found by a seed of the simulation."""

import asyncio
from dataclasses import replace

from services.conversation.events import PartStarted, TurnEvent, TurnStarted
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Batch
from services.conversation.model import FinishReason, Turn, TurnState
from services.conversation.queue.memory import MemoryQueue
from services.conversation.store.work import Claim, Ending, Fold, TurnRef
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from tests.support.conversation import ADA, ending, replayed
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

DONE = Ending(TurnState.COMPLETED, FinishReason.STOP)


class Doors:
    """A gate with a door of its own for each answer, before its third word."""

    def __init__(self) -> None:
        self.doors: list[asyncio.Event] = []

    async def __call__(self, index: int) -> None:
        if index == 2:
            self.doors.append(asyncio.Event())
            await self.doors[-1].wait()


class ShortLived(MemoryJournal):
    """A journal that is wiped right after it was asked for its epoch for the last time."""

    wiped_after = 0

    async def epoch(self) -> str:
        answer = await super().epoch()
        self.wiped_after -= 1
        if self.wiped_after == 0:
            self.lose_everything()
        return answer


async def test_a_worker_that_takes_its_own_lapsed_turn_again_still_sees_it_cancelled() -> None:
    clock = ManualClock()
    rig = memory_rig(MemoryStore(clock))
    rig.inference.gate = doors = Doors()
    async with running(rig):
        turn = await rig.ask()
        await until(lambda: len(doors.doors) == 1)
        clock.advance(rig.lease_s + 1)
        await rig.reaper.reap()
        await until(lambda: len(doors.doors) == 2)
        doors.doors[0].set()
        await until(lambda: rig.inference.open == 1)
        await rig.turns.cancel(ADA, turn.id)
        await until(lambda: rig.inference.open == 0)
        await until(lambda: _state(rig, turn) is TurnState.CANCELLED)


async def test_a_journal_wiped_while_it_is_taken_over_does_not_count_as_whole() -> None:
    rig, journal = _rig()
    _, claim = await _shown(rig)
    await rig.store.release(claim.hold, spend_attempt=False)
    epoch = await rig.recovery.epoch()
    again = await rig.store.claim(claim.hold.ref, lease_s=30, epoch=epoch, spend_attempt=True)
    assert again is not None
    journal.lose_everything()

    recovered = await rig.recovery.take_over(again, epoch)

    assert recovered is not None
    assert recovered.draft.last_sequence == again.sequence_limit


async def test_a_journal_wiped_while_a_watcher_comes_back_does_not_refuse_it() -> None:
    rig, journal = _rig()
    turn, _ = await _shown(rig)
    journal.wiped_after = 1

    assert await rig.look(turn, after=1) == []


async def test_a_watcher_of_what_the_journal_has_lost_sees_the_end() -> None:
    rig, journal = _rig()
    turn, claim = await _shown(rig)
    async with asyncio.TaskGroup() as group:
        feeds = group.create_task(rig.feeds.run())
        early = group.create_task(rig.watch(turn, after=1))
        await until(lambda: turn.id in rig.feeds._feeds)
        part = (TurnEvent(2, 1, PartStarted("p1")),)
        await rig.journal.append([Batch(turn.id, claim.hold.fence, await rig.journal.epoch(), part)])
        await until(lambda: rig.feeds._feeds[turn.id].position == 2)
        journal.lose_everything()
        late = group.create_task(rig.watch(turn))
        await until(lambda: rig.feeds._feeds[turn.id].watchers == 2)
        draft = replayed([_started(turn), TurnEvent(2, 1, PartStarted("p1"))])
        assert await rig.store.finish(claim.hold, replace(Fold.of(draft), last_sequence=3), DONE)

        assert ending(await early).state is TurnState.COMPLETED
        assert ending(await late).state is TurnState.COMPLETED
        feeds.cancel()


def _rig() -> tuple[Rig, ShortLived]:
    journal = ShortLived()
    return Rig(MemoryStore(), MemoryQueue(), journal, journal), journal


async def _shown(rig: Rig) -> tuple[Turn, Claim]:
    """A turn whose first event is journalled, and not folded yet."""
    turn = await rig.ask()
    ref = TurnRef(ADA.organization_id, turn.conversation_id, turn.id)
    epoch = await rig.recovery.epoch()
    claim = await rig.store.claim(ref, lease_s=30, epoch=epoch, spend_attempt=True)
    assert claim is not None
    await rig.journal.append([Batch(turn.id, claim.hold.fence, epoch, (_started(turn),))])
    return turn, claim


def _started(turn: Turn) -> TurnEvent:
    started = TurnStarted(turn.id, turn.conversation_id, turn.user_message_id, turn.assistant_message_id)
    return TurnEvent(1, 1, started)


def _state(rig: Rig, turn: Turn) -> TurnState:
    assert isinstance(rig.store, MemoryStore)
    return rig.store.tables.turns[turn.id].turn.state
