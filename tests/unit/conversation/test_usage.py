"""What a turn says it has consumed: what came to nothing was paid for, too."""

from dataclasses import replace
from typing import Any

import pytest

from services.conversation.asking.actions import Continue
from services.conversation.events import UsageUpdated
from services.conversation.model import FinishReason, Turn, TurnState, Usage
from services.conversation.running.accounts import together
from services.conversation.store.work import Ending, Finished, Fold, Hold
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import ContentFiltered, MeshError, Unavailable
from tests.support.conversation import ADA, ending
from tests.support.conversation_fakes import FINISHED, INPUT_TOKENS, Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

LEASE_S = 30.0
WROTE = Usage(input_tokens=INPUT_TOKENS, output_tokens=3, estimated=True)
"""Of an attempt that broke off after "Ada wrote"."""


async def consumed(rig: Rig, turn: Turn) -> Usage | None:
    return (await rig.store.message(ADA, turn.assistant_message_id)).usage


def breaking_off(rig: Rig, error: MeshError, *, times: int) -> None:
    async def fail(index: int) -> None:
        if index == 2 and rig.inference.starts <= times:
            raise error

    rig.inference.gate = fail


@pytest.mark.parametrize("times", [0, 1, 2])
async def test_attempts_that_broke_off_are_part_of_what_an_answer_consumed(times: int) -> None:
    rig = memory_rig(MemoryStore())
    breaking_off(rig, Unavailable(), times=times)
    async with running(rig):
        turn = await rig.ask()
        events = await rig.watch(turn)

    usage = await consumed(rig, turn)
    assert usage == Usage(
        input_tokens=FINISHED.usage.input_tokens + times * INPUT_TOKENS,
        output_tokens=FINISHED.usage.output_tokens + times * 3,
        estimated=times > 0,
    )
    assert [event.payload.usage for event in events if isinstance(event.payload, UsageUpdated)][-1] == usage


async def test_a_failed_turn_says_what_it_consumed() -> None:
    rig = memory_rig(MemoryStore())
    breaking_off(rig, ContentFiltered(), times=1)
    async with running(rig):
        turn = await rig.ask()
        assert ending(await rig.watch(turn)).state is TurnState.FAILED

    assert await consumed(rig, turn) == WROTE


async def test_a_turn_that_asked_no_model_consumed_nothing() -> None:
    rig = memory_rig(MemoryStore())
    rig.retrieval.failure = ContentFiltered()
    async with running(rig):
        turn = await rig.ask(knowledge_base_id="kb_1")
        await rig.watch(turn)

    assert await consumed(rig, turn) is None


async def test_a_cancelled_turn_says_what_it_consumed() -> None:
    rig = memory_rig(MemoryStore())
    rig.inference.gate = stop = Stop(before=2)
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
        await rig.turns.cancel(ADA, turn.id)
        await rig.watch(turn)

    assert await consumed(rig, turn) == WROTE


async def test_what_a_dead_worker_is_known_to_have_written_counts() -> None:
    clock = ManualClock()
    rig = memory_rig(MemoryStore(clock), lease_s=LEASE_S)
    rig.inference.gate = stop = Stop(before=2)
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
        await until_journalled(rig, turn, "Ada wrote")
    rig.inference.gate = None

    await brought_to_its_end(rig, clock)

    assert await consumed(rig, turn) == together(WROTE, FINISHED.usage)


class NeverFinishes(MemoryStore):
    """A database that is away whenever an answer is to be stored, until it is healed."""

    is_healed = False
    asked = 0

    async def finish(self, hold: Hold, fold: Fold, ending: Ending) -> Finished:
        self.asked += 1
        if not self.is_healed:
            raise Unavailable
        return await super().finish(hold, fold, ending)


async def test_what_was_settled_before_a_worker_died_counts() -> None:
    clock = ManualClock()
    store = NeverFinishes(clock)
    rig = memory_rig(store, lease_s=LEASE_S)
    async with running(rig):
        turn = await rig.ask()
        await until(lambda: store.asked, within_s=60.0)
    store.is_healed = True

    await brought_to_its_end(rig, clock)

    assert await consumed(rig, turn) == together(FINISHED.usage, FINISHED.usage)


async def test_the_answer_that_a_turn_goes_on_with_is_not_counted_again() -> None:
    rig = memory_rig(MemoryStore())
    rig.inference.finished = replace(FINISHED, finish_reason=FinishReason.LENGTH)
    async with running(rig):
        first = await rig.ask()
        await rig.watch(first)
        breaking_off(rig, Unavailable(), times=2)
        rig.inference.words = [" And", " more", "!"]
        turn = await rig.act(first.conversation_id, Continue(first.assistant_message_id))
        await rig.watch(turn)

    assert await consumed(rig, turn) == together(WROTE, FINISHED.usage)


async def until_journalled(rig: Rig, turn: Turn, text: str) -> None:
    journal: Any = rig.journal  # Any: the journal in memory, read at a border that the port does not have

    def shown() -> str:
        return "".join(getattr(event.payload, "text", "") for event in journal._events.get(turn.id, []))

    await until(lambda: shown() == text, within_s=60.0)


async def brought_to_its_end(rig: Rig, clock: ManualClock) -> None:
    store = rig.store
    assert isinstance(store, MemoryStore)
    clock.advance(LEASE_S + 1.0)
    await rig.reaper.reap()
    async with running(rig):
        await until(lambda: all(row.turn.state.has_ended for row in store.tables.turns.values()), within_s=60.0)


def test_a_cost_is_known_where_all_of_it_is() -> None:
    known, unknown = Usage(cost_micros=2), Usage()

    assert together(known, known).cost_micros == 4
    assert together(known, unknown).cost_micros is None
    assert together(unknown, known).cost_micros is None
