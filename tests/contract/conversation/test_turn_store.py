"""What every store does with turns, as their owners see them."""

from dataclasses import replace

import pytest

from services.conversation.model import ConversationSettings, MessageState, Owner, Repeat, TurnState
from services.conversation.store import Store
from services.conversation.store.work import Hold
from services.mesh.errors import IdempotencyMismatch, NotFound, TurnAlreadyRunning
from services.mesh.ids import new_id
from tests.support.conversation import ADA, BOB, EVE, new_conversation, new_turn
from tests.support.conversation_turns import DONE, FOLD, asked, claimed, ref_of

REPEAT = Repeat(method="CreateTurn", request_id="r1", body_hash=b"one")


async def test_a_turn_comes_with_its_messages_and_its_place_in_the_outbox(store: Store) -> None:
    turn = await asked(store)

    question = await store.message(ADA, turn.user_message_id)
    answer = await store.message(ADA, turn.assistant_message_id)
    async with store.outbox(limit=10) as waiting:
        assert waiting == [ref_of(turn)]
    assert (turn.state, turn.attempt, turn.last_sequence) == (TurnState.QUEUED, 0, 0)
    assert (question.state, question.text) == (MessageState.COMPLETE, "What did Ada write?")
    assert (answer.state, answer.text, answer.parent_id) == (MessageState.IN_PROGRESS, None, question.id)
    assert (await store.conversation(ADA, turn.conversation_id)).leaf_message_id == answer.id


async def test_the_first_question_gives_the_title(store: Store) -> None:
    turn = await asked(store)

    assert (await store.conversation(ADA, turn.conversation_id)).settings.title == "What did Ada write?"


async def test_a_given_title_stays(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation(title="Mine"))
    await store.create_turn(new_turn(conversation.id))

    assert (await store.conversation(ADA, conversation.id)).settings.title == "Mine"


async def test_a_repeat_gives_the_same_turn(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))

    again = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))

    assert again == first
    assert len(await store.tree(ADA, conversation.id, size=10, after_id="")) == 2


async def test_a_repeat_after_the_end_gives_the_ended_turn(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))
    await store.finish((await claimed(store, first)).hold, FOLD, DONE)

    again = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))

    assert (again.id, again.state) == (first.id, TurnState.COMPLETED)


async def test_a_request_id_with_another_body_is_refused(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    await store.create_turn(new_turn(conversation.id, repeat=REPEAT))

    with pytest.raises(IdempotencyMismatch):
        await store.create_turn(new_turn(conversation.id, repeat=replace(REPEAT, body_hash=b"two")))


async def test_a_second_turn_is_refused_while_one_is_active(store: Store) -> None:
    turn = await asked(store)
    for _ in ("queued", "running"):
        with pytest.raises(TurnAlreadyRunning) as refused:
            await store.create_turn(new_turn(turn.conversation_id, repeat=REPEAT))
        assert refused.value.metadata["turn_id"] == turn.id
        await store.claim(ref_of(turn), lease_s=30.0, epoch="", spend_attempt=True)


async def test_a_refused_turn_leaves_nothing_behind(store: Store) -> None:
    turn = await asked(store)
    with pytest.raises(TurnAlreadyRunning):
        await store.create_turn(new_turn(turn.conversation_id, repeat=REPEAT))
    await store.finish((await claimed(store, turn)).hold, FOLD, DONE)

    accepted = await store.create_turn(new_turn(turn.conversation_id, repeat=REPEAT))

    assert accepted.id != turn.id
    assert len(await store.tree(ADA, turn.conversation_id, size=10, after_id="")) == 4


async def test_options_are_settled_when_the_turn_is_accepted(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation(model="a/b", knowledge_base_id="kb_1"))
    turn = await store.create_turn(new_turn(conversation.id))
    await store.update_conversation(ADA, conversation.id, ConversationSettings(model="c/d"), etag=conversation.etag)

    claim = await claimed(store, turn)

    assert (claim.turn.options.model, claim.turn.options.knowledge_base_id) == ("a/b", "kb_1")


async def test_an_unknown_parent_is_not_found(store: Store) -> None:
    first, second = await asked(store), await asked(store)
    await store.finish((await claimed(store, first)).hold, FOLD, DONE)

    for parent_id in (new_id("msg"), second.user_message_id):
        with pytest.raises(NotFound) as refused:
            await store.create_turn(new_turn(first.conversation_id, parent_id=parent_id))
        assert refused.value.metadata["resource"] == "message"


async def test_an_empty_parent_begins_a_new_first_branch(store: Store) -> None:
    first = await asked(store)
    await store.finish((await claimed(store, first)).hold, FOLD, DONE)

    second = await store.create_turn(new_turn(first.conversation_id, parent_id=""))

    assert (await store.message(ADA, second.user_message_id)).parent_id == ""


async def test_pages_of_turns_hold_each_once_newest_first(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    created = []
    for _ in range(3):
        turn = await store.create_turn(new_turn(conversation.id))
        await store.finish((await claimed(store, turn)).hold, FOLD, DONE)
        created.append(turn.id)

    first = await store.list_turns(ADA, conversation.id, size=2, before_id="")
    rest = await store.list_turns(ADA, conversation.id, size=2, before_id=first[-1].id)

    # Ids sort by their millisecond, and several of these turns share one.
    assert [turn.id for turn in [*first, *rest]] == sorted(created, reverse=True)


async def test_a_cancelled_turn_is_unwanted(store: Store) -> None:
    turn, other = await asked(store), await asked(store)
    holds = [(await claimed(store, each)).hold for each in (turn, other)]
    assert await store.unwanted(holds) == set()

    await store.request_cancel(ADA, turn.id)

    assert await store.unwanted(holds) == {turn.id}
    assert await store.unwanted([]) == set()


async def test_cancelling_an_ended_turn_changes_nothing(store: Store) -> None:
    turn = await asked(store)
    await store.finish((await claimed(store, turn)).hold, FOLD, DONE)

    assert (await store.request_cancel(ADA, turn.id)).state is TurnState.COMPLETED


async def test_old_request_ids_are_forgotten(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))
    await store.finish((await claimed(store, turn)).hold, FOLD, DONE)

    assert await store.prune(older_s=60.0, limit=10) == 0
    assert await store.prune(older_s=0.0, limit=10) == 1

    assert (await store.create_turn(new_turn(conversation.id, repeat=REPEAT))).id != turn.id


@pytest.mark.parametrize("other", [BOB, EVE], ids=["colleague", "stranger"])
async def test_nobody_else_sees_or_stops_a_turn(store: Store, other: Owner) -> None:
    turn = await asked(store)
    await claimed(store, turn)

    for turn_id in (turn.id, new_id("turn")):
        for attempt in (
            store.turn(other, turn_id),
            store.answer(other, turn_id),
            store.request_cancel(other, turn_id),
        ):
            with pytest.raises(NotFound) as refused:
                await attempt
            assert refused.value.metadata == {"resource": "turn"}
    assert not (await store.unwanted([Hold(ref_of(turn), 1)]))
