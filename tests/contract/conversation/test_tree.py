"""What every store makes of edited questions and further answers: a tree whose branches can be read."""

from dataclasses import replace

import pytest

from services.conversation.model import FinishReason, MessageId, MessageState, Owner, Turn, TurnState
from services.conversation.store import Store
from services.conversation.store.turns import NewTurn
from services.conversation.store.work import Ending, Fold
from services.mesh.errors import NotFound
from services.mesh.ids import new_id
from tests.support.conversation import ADA, BOB, EVE, another_answer, new_conversation, new_turn
from tests.support.conversation_turns import claimed

FOLD = Fold(last_sequence=3, text="Notes", citations=(), retrieval=None, usage=None, model="m")
STOPPED = Ending(TurnState.CANCELLED, FinishReason.CANCELLED)


async def ended(store: Store, new: NewTurn) -> Turn:
    turn = await store.create_turn(new)
    assert await store.finish((await claimed(store, turn)).hold, FOLD, STOPPED)
    return turn


async def branch(store: Store, turn: Turn) -> list[MessageId]:
    """The ids of the branch that ends in the turn's answer, read in pages of two."""
    found: list[MessageId] = []
    depth_max = 0
    while len(found) <= depth_max:
        messages, depth_max = await store.branch(
            ADA, turn.conversation_id, leaf_id=turn.assistant_message_id, after_depth=len(found) - 1, size=2
        )
        found += [message.id for message in messages]
    return found


async def test_every_branch_of_a_grown_tree_is_read_from_its_root(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await ended(store, new_turn(conversation.id))
    second = await ended(store, new_turn(conversation.id))
    edit = new_turn(conversation.id, parent_id=first.assistant_message_id)
    edited = await ended(store, replace(edit, revision_of=second.user_message_id))
    again = await ended(store, another_answer(first))
    after = await ended(store, new_turn(conversation.id))
    anew = await ended(store, another_answer(after))

    start = [first.user_message_id, first.assistant_message_id]
    other = [first.user_message_id, again.assistant_message_id, after.user_message_id]
    assert await branch(store, second) == [*start, second.user_message_id, second.assistant_message_id]
    assert await branch(store, edited) == [*start, edited.user_message_id, edited.assistant_message_id]
    assert await branch(store, after) == [*other, after.assistant_message_id]
    assert await branch(store, anew) == [*other, anew.assistant_message_id]
    assert len(await store.tree(ADA, conversation.id, size=100, after_id="")) == 10


async def test_a_further_answer_adds_one_message_and_leads_the_conversation(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await ended(store, new_turn(conversation.id))
    before = await store.message(ADA, first.assistant_message_id)

    again = await store.create_turn(another_answer(first))

    answer = await store.message(ADA, again.assistant_message_id)
    assert (answer.parent_id, answer.revision_of) == (first.user_message_id, first.assistant_message_id)
    assert (answer.state, answer.text, answer.turn_id) == (MessageState.IN_PROGRESS, None, again.id)
    assert await store.message(ADA, first.assistant_message_id) == before
    assert (await store.message(ADA, first.user_message_id)).turn_id == first.id
    assert (await store.conversation(ADA, conversation.id)).leaf_message_id == answer.id
    assert (await claimed(store, again)).question.id == first.user_message_id


async def test_an_edit_marks_the_question_and_not_its_answer(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await ended(store, new_turn(conversation.id))

    edit = replace(new_turn(conversation.id, parent_id=""), revision_of=first.user_message_id)
    edited = await store.create_turn(edit)

    assert (await store.message(ADA, edited.user_message_id)).revision_of == first.user_message_id
    assert (await store.message(ADA, edited.assistant_message_id)).revision_of == ""


async def test_a_claim_holds_the_answer_that_is_gone_on_with(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await ended(store, new_turn(conversation.id))
    plain = await ended(store, another_answer(first))

    longer = await store.create_turn(another_answer(first, continue_of=first.assistant_message_id))

    claim = await claimed(store, longer)
    assert claim.continued == await store.message(ADA, first.assistant_message_id)
    assert claim.answer.text is None
    assert plain.user_message_id == longer.user_message_id


async def test_a_question_that_is_not_there_gets_no_further_answer(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    elsewhere = await store.create_conversation(new_conversation())
    first, second = await ended(store, new_turn(conversation.id)), await ended(store, new_turn(elsewhere.id))

    for question_id in (second.user_message_id, MessageId(new_id("msg"))):
        with pytest.raises(NotFound) as refused:
            await store.create_turn(replace(another_answer(first), user_message_id=question_id))
        assert refused.value.metadata == {"resource": "message"}


@pytest.mark.parametrize("other", [BOB, EVE], ids=["colleague", "stranger"])
async def test_nobody_else_adds_an_answer(store: Store, other: Owner) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await ended(store, new_turn(conversation.id))

    with pytest.raises(NotFound) as refused:
        await store.create_turn(another_answer(first, owner=other))
    assert refused.value.metadata == {"resource": "conversation"}
