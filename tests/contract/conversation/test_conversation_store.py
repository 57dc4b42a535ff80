"""What every store does with conversations, messages and feedback."""

from dataclasses import replace
from datetime import datetime

import pytest

from services.conversation.model import ConversationSettings, Example, MessageId, Owner, Rating, Repeat, Role
from services.conversation.store import Store
from services.conversation.store.conversations import NewMessage
from services.mesh.errors import EtagMismatch, IdempotencyMismatch, MeshError, NotFound
from services.mesh.ids import new_id
from tests.support.conversation import ADA, BOB, EVE, new_conversation, new_turn

REPEAT = Repeat(method="CreateConversation", request_id="r1", body_hash=b"one")
OTHERS = pytest.mark.parametrize("other", [BOB, EVE], ids=["colleague", "stranger"])


def imported(*texts: str) -> tuple[NewMessage, ...]:
    roles = [Role.USER, Role.ASSISTANT]
    return tuple(
        NewMessage(id=MessageId(new_id("msg")), role=roles[index % 2], text=text) for index, text in enumerate(texts)
    )


async def test_a_conversation_is_what_was_created(store: Store) -> None:
    settings = ConversationSettings(
        title="T", model="openai/x", system_prompt="Be brief", examples=(Example("q", "a"),), knowledge_base_id="kb_1"
    )
    new = replace(new_conversation(), settings=settings)

    created = await store.create_conversation(new)

    assert created == await store.conversation(ADA, new.id)
    assert (created.settings, created.leaf_message_id) == (settings, "")


async def test_a_repeated_creation_gives_the_first_conversation(store: Store) -> None:
    first = await store.create_conversation(replace(new_conversation(), repeat=REPEAT))

    again = await store.create_conversation(replace(new_conversation(), repeat=REPEAT))

    assert again == first


async def test_a_repeat_is_known_to_its_owner_alone(store: Store) -> None:
    assert not await store.is_repeat(ADA, REPEAT)

    await store.create_conversation(replace(new_conversation(), repeat=REPEAT))

    assert await store.is_repeat(ADA, replace(REPEAT, body_hash=b"two"))
    assert not await store.is_repeat(BOB, REPEAT)
    assert not await store.is_repeat(ADA, replace(REPEAT, method="CreateTurn"))


async def test_a_request_id_with_another_body_is_refused(store: Store) -> None:
    await store.create_conversation(replace(new_conversation(), repeat=REPEAT))

    with pytest.raises(IdempotencyMismatch):
        await store.create_conversation(replace(new_conversation(), repeat=replace(REPEAT, body_hash=b"two")))


async def test_request_ids_of_different_users_do_not_meet(store: Store) -> None:
    first = await store.create_conversation(replace(new_conversation(ADA), repeat=REPEAT))
    second = await store.create_conversation(replace(new_conversation(BOB), repeat=REPEAT))
    third = await store.create_conversation(replace(new_conversation(EVE), repeat=REPEAT))

    assert len({first.id, second.id, third.id}) == 3


async def test_a_repeat_after_deletion_finds_nothing(store: Store) -> None:
    first = await store.create_conversation(replace(new_conversation(), repeat=REPEAT))
    await store.delete_conversation(ADA, first.id)

    with pytest.raises(NotFound):
        await store.create_conversation(replace(new_conversation(), repeat=REPEAT))


async def test_pages_of_conversations_hold_each_once_newest_first(store: Store) -> None:
    created = [(await store.create_conversation(new_conversation(title=str(number)))).id for number in range(5)]
    await store.create_conversation(new_conversation(BOB))

    found: list[str] = []
    after: tuple[datetime, str] | None = None
    while page := await store.list_conversations(ADA, size=2, after=after):
        found += [conversation.id for conversation in page]
        after = (page[-1].update_time, page[-1].id)

    assert found == created[::-1]


async def test_an_update_changes_settings_and_etag(store: Store) -> None:
    before = await store.create_conversation(new_conversation(title="old"))

    after = await store.update_conversation(ADA, before.id, ConversationSettings(title="new"), etag=before.etag)

    assert after.settings.title == "new"
    assert after.etag != before.etag


async def test_an_update_of_an_older_version_is_refused(store: Store) -> None:
    before = await store.create_conversation(new_conversation())
    present = await store.update_conversation(ADA, before.id, ConversationSettings(title="one"), etag=before.etag)

    with pytest.raises(EtagMismatch) as refused:
        await store.update_conversation(ADA, before.id, ConversationSettings(title="two"), etag=before.etag)

    assert refused.value.metadata["etag"] == present.etag


async def test_a_deleted_conversation_takes_everything_along(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id))
    await store.set_feedback(ADA, turn.assistant_message_id, Rating.GOOD, "")

    assert await store.delete_conversation(ADA, conversation.id) == [turn.id]

    for look in (
        store.conversation(ADA, conversation.id),
        store.message(ADA, turn.user_message_id),
        store.turn(ADA, turn.id),
        store.feedback(ADA, turn.assistant_message_id),
        store.delete_conversation(ADA, conversation.id),
    ):
        with pytest.raises(NotFound):
            await look
    async with store.outbox(limit=10) as waiting:
        assert waiting == []


async def test_imported_messages_are_the_first_branch(store: Store) -> None:
    messages = imported("one", "two", "three")
    conversation = await store.create_conversation(replace(new_conversation(), messages=messages))

    found, depth = await store.branch(
        ADA, conversation.id, leaf_id=conversation.leaf_message_id, after_depth=-1, size=10
    )

    assert [(message.text, message.role) for message in found] == [
        ("one", Role.USER),
        ("two", Role.ASSISTANT),
        ("three", Role.USER),
    ]
    assert [message.parent_id for message in found] == ["", messages[0].id, messages[1].id]
    assert depth == 2


async def fork(store: Store) -> tuple[str, list[str], list[str]]:
    """A conversation of four messages with a second branch of two that leaves it after the second message."""
    messages = imported("a", "b", "c", "d")
    conversation = await store.create_conversation(replace(new_conversation(), messages=messages))
    trunk = [str(message.id) for message in messages]
    turn = await store.create_turn(new_turn(conversation.id, "e", parent_id=trunk[1]))
    return conversation.id, trunk, [*trunk[:2], turn.user_message_id, turn.assistant_message_id]


async def test_branches_share_their_beginning_only(store: Store) -> None:
    conversation_id, trunk, side = await fork(store)

    for path in (trunk, side):
        found, depth = await store.branch(ADA, conversation_id, leaf_id=path[-1], after_depth=-1, size=10)
        assert ([message.id for message in found], depth) == (path, 3)


async def test_pages_of_a_branch_hold_each_message_once_oldest_first(store: Store) -> None:
    conversation_id, _, side = await fork(store)

    found: list[str] = []
    for after_depth in (-1, 0, 1, 2):
        page, _ = await store.branch(ADA, conversation_id, leaf_id=side[-1], after_depth=after_depth, size=1)
        found += [message.id for message in page]

    assert found == side


async def test_the_end_of_a_branch_is_bounded(store: Store) -> None:
    conversation_id, trunk, side = await fork(store)

    end = await store.branch_end(ADA, conversation_id, leaf_id=side[-1], size=3)

    assert [message.id for message in end] == side[1:]
    assert [m.id for m in await store.branch_end(ADA, conversation_id, leaf_id=trunk[0], size=3)] == trunk[:1]


async def test_the_tree_holds_all_branches_in_pages(store: Store) -> None:
    conversation_id, trunk, side = await fork(store)

    first = await store.tree(ADA, conversation_id, size=4, after_id="")
    rest = await store.tree(ADA, conversation_id, size=4, after_id=first[-1].id)

    assert {message.id for message in [*first, *rest]} == {*trunk, *side}
    assert len(first) + len(rest) == 6


async def test_a_leaf_of_another_conversation_is_not_found(store: Store) -> None:
    conversation_id, _, _ = await fork(store)
    _, elsewhere, _ = await fork(store)

    with pytest.raises(NotFound):
        await store.branch(ADA, conversation_id, leaf_id=elsewhere[-1], after_depth=-1, size=10)
    with pytest.raises(NotFound):
        await store.branch_end(ADA, conversation_id, leaf_id=elsewhere[-1], size=10)


async def test_feedback_replaces_the_one_before(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id))
    await store.set_feedback(ADA, turn.assistant_message_id, Rating.GOOD, "fine")

    await store.set_feedback(ADA, turn.assistant_message_id, Rating.BAD, "wrong")

    found = await store.feedback(ADA, turn.assistant_message_id)
    assert (found.rating, found.comment) == (Rating.BAD, "wrong")


async def test_only_answers_have_feedback(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id))

    with pytest.raises(NotFound) as on_question:
        await store.set_feedback(ADA, turn.user_message_id, Rating.GOOD, "")
    with pytest.raises(NotFound) as not_yet:
        await store.feedback(ADA, turn.assistant_message_id)

    assert on_question.value.metadata["resource"] == "message"
    assert not_yet.value.metadata["resource"] == "feedback"


@OTHERS
async def test_nobody_else_sees_or_changes_a_conversation(store: Store, other: Owner) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id))
    conversation_id, leaf_id = conversation.id, turn.assistant_message_id
    settings = ConversationSettings(title="mine now")

    async def refusals(conversation_id: str, message_id: str) -> list[tuple[str, dict[str, str]]]:
        refused = []
        for attempt in (
            store.conversation(other, conversation_id),
            store.update_conversation(other, conversation_id, settings, etag="1"),
            store.delete_conversation(other, conversation_id),
            store.message(other, message_id),
            store.branch(other, conversation_id, leaf_id=message_id, after_depth=-1, size=10),
            store.branch_end(other, conversation_id, leaf_id=message_id, size=10),
            store.tree(other, conversation_id, size=10, after_id=""),
            store.set_feedback(other, message_id, Rating.BAD, "mine"),
            store.feedback(other, message_id),
            store.list_turns(other, conversation_id, size=10, before_id=""),
            store.create_turn(new_turn(conversation_id, owner=other)),
        ):
            with pytest.raises(MeshError) as error:
                await attempt
            refused.append((repr(error.value), dict(error.value.metadata)))
        return refused

    assert await refusals(conversation_id, leaf_id) == await refusals(new_id("conv"), new_id("msg"))
    assert await store.list_conversations(other, size=10, after=None) == []
    assert (await store.conversation(ADA, conversation_id)).settings.title == "What did Ada write?"
