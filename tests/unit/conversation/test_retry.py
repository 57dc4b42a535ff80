"""Failed turns that are tried again, and the time that a turn may take."""

from dataclasses import replace

import pytest

from services.conversation.asking.actions import NewQuestion
from services.conversation.asking.turns import Ask
from services.conversation.model import (
    GenerationParameters,
    OnConflict,
    Repeat,
    RetrievalMode,
    Turn,
    TurnOverrides,
    TurnState,
)
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import (
    IdempotencyMismatch,
    InvalidArgument,
    NotFound,
    ProviderRejected,
    TurnAlreadyRunning,
)
from services.mesh.ids import new_id
from tests.support.conversation import ADA, BOB, EVE, ending, new_conversation, text_of
from tests.support.conversation_fakes import Stop
from tests.support.conversation_rig import Rig, memory_rig

OVERRIDES = TurnOverrides(
    model="a/b",
    knowledge_base_id="kb_1",
    retrieval_mode=RetrievalMode.ALWAYS,
    parameters=GenerationParameters(temperature=0.5, stop=("x",)),
)
REPEAT = Repeat(method="RetryTurn", request_id="r1", body_hash=b"one")


async def failed(rig: Rig) -> Turn:
    async def refuses(index: int) -> None:
        if index == 1:
            raise ProviderRejected("no")

    rig.inference.gate = refuses
    conversation = await rig.store.create_conversation(new_conversation())
    ask = Ask(conversation_id=conversation.id, action=NewQuestion("one", None), overrides=OVERRIDES)
    turn = await rig.turns.create(ADA, ask, repeat=None)
    await rig.relay.relay_once()
    assert ending(await rig.watch(turn)).state is TurnState.FAILED
    rig.inference.gate = None
    return turn


async def retried(rig: Rig, turn_id: str, *, repeat: Repeat | None = None) -> Turn:
    turn = await rig.turns.retry(ADA, turn_id, on_conflict=OnConflict.REJECT, repeat=repeat)
    await rig.relay.relay_once()
    return turn


async def test_a_failed_turn_is_answered_anew_with_its_own_options(at_work: Rig) -> None:
    first = await failed(at_work)
    before = await at_work.store.answer(ADA, first.id)

    again = await retried(at_work, first.id)
    events = await at_work.watch(again)

    answer = await at_work.store.message(ADA, again.assistant_message_id)
    assert (ending(events).state, text_of(events)) == (TurnState.COMPLETED, "Ada wrote notes.")
    assert (again.options, again.user_message_id) == (first.options, first.user_message_id)
    assert answer.revision_of == first.assistant_message_id
    assert await at_work.store.answer(ADA, first.id) == before


async def test_a_repeated_retry_gives_the_same_turn(at_work: Rig) -> None:
    first = await failed(at_work)

    turns = [await retried(at_work, first.id, repeat=REPEAT) for _ in range(2)]

    assert turns[0].id == turns[1].id
    with pytest.raises(IdempotencyMismatch):
        await retried(at_work, first.id, repeat=replace(REPEAT, body_hash=b"two"))


async def test_a_retry_meets_other_turns_as_any_turn_does(at_work: Rig) -> None:
    first = await failed(at_work)
    at_work.inference.gate = Stop(before=0)
    await at_work.act(first.conversation_id, NewQuestion("two", None))

    with pytest.raises(TurnAlreadyRunning):
        await retried(at_work, first.id)

    waits = await at_work.turns.retry(ADA, first.id, on_conflict=OnConflict.QUEUE, repeat=None)
    assert waits.state is TurnState.WAITING


async def test_a_turn_that_has_not_failed_is_not_retried(at_work: Rig) -> None:
    at_work.inference.gate = stop = Stop(before=1)
    turn = await at_work.ask()
    await stop.reached.wait()
    for _ in ("running", "completed"):
        with pytest.raises(InvalidArgument) as refused:
            await retried(at_work, turn.id)
        assert refused.value.fields[0].field == "turn_id"
        stop.opened.set()
        await at_work.watch(turn)


async def test_turns_of_others_are_not_retried(at_work: Rig) -> None:
    turn = await failed(at_work)

    for owner in (BOB, EVE):
        for turn_id in (turn.id, new_id("turn")):
            with pytest.raises(NotFound) as refused:
                await at_work.turns.retry(owner, turn_id, on_conflict=OnConflict.REJECT, repeat=None)
            assert refused.value.metadata == {"resource": "turn"}


@pytest.mark.parametrize(
    ("time_s", "is_accepted"), [(0.0, False), (-1.0, False), (0.1, True), (600.0, True), (600.1, False)]
)
async def test_a_turn_may_take_more_than_nothing_and_at_most_the_limit(*, time_s: float, is_accepted: bool) -> None:
    rig = memory_rig(MemoryStore(), turn_s_max=600.0)
    conversation = await rig.store.create_conversation(new_conversation())
    ask = Ask(conversation_id=conversation.id, action=NewQuestion("?", None), overrides=TurnOverrides(), time_s=time_s)

    if is_accepted:
        assert (await rig.turns.create(ADA, ask, repeat=None)).state is TurnState.QUEUED
        return
    with pytest.raises(InvalidArgument) as refused:
        await rig.turns.create(ADA, ask, repeat=None)
    assert refused.value.fields[0].field == "time_max"


async def test_a_turn_past_the_time_that_was_asked_for_fails_with_the_text_so_far(at_work: Rig) -> None:
    at_work.inference.gate = Stop(before=1)
    conversation = await at_work.store.create_conversation(new_conversation())
    ask = Ask(conversation_id=conversation.id, action=NewQuestion("?", None), overrides=TurnOverrides(), time_s=0.2)
    turn = await at_work.turns.create(ADA, ask, repeat=None)
    await at_work.relay.relay_once()

    message = ending(await at_work.watch(turn)).message

    assert message is not None
    assert message.error is not None
    assert (message.error.reason, message.text) == ("DEADLINE_EXCEEDED", "Ada")
