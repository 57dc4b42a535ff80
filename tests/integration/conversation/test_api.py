"""The gRPC API in one process, on a real PostgreSQL and Valkey: conversations, messages, feedback, tenancy."""

from collections.abc import Awaitable
from typing import Any

import pytest
from google.protobuf import field_mask_pb2

from parley.conversation.v1 import conversation_pb2, message_pb2
from parley.conversation.v1 import conversation_service_pb2 as pb
from parley.conversation.v1 import turn_service_pb2 as turns_pb
from parley.conversation.v1.turn_service_pb2_grpc import TurnServiceStub
from services.mesh.client import unary
from services.mesh.errors import CredentialsInvalid, EtagMismatch, MeshError, ScopeMissing
from services.mesh.ids import new_id
from tests.support.conversation_api import User, other


async def test_a_conversation_goes_over_the_wire_and_back(ada: User) -> None:
    created = await ada.create(
        title="T",
        model="openai/x",
        system_prompt="Be brief",
        examples=[conversation_pb2.Example(user="q", assistant="a")],
        knowledge_base_id="kb_1",
        messages=[pb.ImportedMessage(role=message_pb2.ROLE_USER, text="hello 🙂")],
    )

    request = pb.GetConversationRequest(conversation_id=created.id)
    assert (await ada.call("GetConversation", request)).conversation == created
    assert created.retrieval_mode == conversation_pb2.RETRIEVAL_MODE_SELECTIVE
    listed = await ada.call("ListMessages", pb.ListMessagesRequest(conversation_id=created.id))
    assert [message.parts[0].text.text for message in listed.messages] == ["hello 🙂"]
    assert listed.messages[0].id == created.leaf_message_id


async def test_an_update_changes_what_the_mask_names(ada: User) -> None:
    created = await ada.create(title="old", model="a/b")
    body = conversation_pb2.Conversation(title="new", etag=created.etag)

    by_mask = pb.UpdateConversationRequest(
        conversation_id=created.id, conversation=body, update_mask=field_mask_pb2.FieldMask(paths=["title", "model"])
    )
    updated = (await ada.call("UpdateConversation", by_mask)).conversation
    by_body = pb.UpdateConversationRequest(
        conversation_id=created.id, conversation=conversation_pb2.Conversation(system_prompt="Be brief")
    )
    again = (await ada.call("UpdateConversation", by_body)).conversation

    assert (updated.title, updated.model) == ("new", "")
    assert (again.title, again.system_prompt) == ("new", "Be brief")
    with pytest.raises(EtagMismatch):
        await ada.call("UpdateConversation", by_mask)


async def test_pages_hold_everything_once(ada: User) -> None:
    created = [(await ada.create(title=str(number))).id for number in range(3)]

    first = await ada.call("ListConversations", pb.ListConversationsRequest(page_size=2))
    rest = await ada.call(
        "ListConversations", pb.ListConversationsRequest(page_size=2, page_token=first.next_page_token)
    )

    assert [conversation.id for conversation in [*first.conversations, *rest.conversations]] == created[::-1]
    assert rest.next_page_token == ""


@pytest.mark.parametrize("tree", [False, True])
async def test_pages_of_messages_hold_everything_once(ada: User, *, tree: bool) -> None:
    roles = [message_pb2.ROLE_USER, message_pb2.ROLE_ASSISTANT]
    messages = [pb.ImportedMessage(role=roles[number % 2], text=str(number)) for number in range(5)]
    created = await ada.create(messages=messages)

    found: list[str] = []
    token = ""
    while not found or token:
        request = pb.ListMessagesRequest(conversation_id=created.id, tree=tree, page_size=2, page_token=token)
        page = await ada.call("ListMessages", request)
        found += [message.parts[0].text.text for message in page.messages]
        token = page.next_page_token

    assert found == ["0", "1", "2", "3", "4"]


async def test_feedback_goes_over_the_wire_and_back(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)
    request = pb.SetFeedbackRequest(message_id=turn.assistant_message_id, rating=message_pb2.RATING_BAD, comment="no")

    told = (await ada.call("SetFeedback", request)).feedback

    found = await ada.call("GetFeedback", pb.GetFeedbackRequest(message_id=turn.assistant_message_id))
    assert found.feedback == told
    assert (told.rating, told.comment) == (message_pb2.RATING_BAD, "no")


async def test_without_a_token_or_a_scope_nothing_answers(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)
    reader = other(ada, scopes=("conversations:read",))

    with pytest.raises(ScopeMissing):
        await reader.call("CancelTurn", turns_pb.CancelTurnRequest(turn_id=turn.id))
    stub = TurnServiceStub(ada.channel)
    with pytest.raises(CredentialsInvalid):
        await unary(stub.GetTurn(turns_pb.GetTurnRequest(turn_id=turn.id), timeout=20.0))


Refusal = tuple[str, str, dict[str, str]]


async def refusal(attempt: Awaitable[Any]) -> Refusal:  # Any: whatever it would give
    with pytest.raises(MeshError) as refused:
        await attempt
    return refused.value.reason, refused.value.message, dict(refused.value.metadata)


@pytest.mark.parametrize("changes", [{"organization_id": "org_globex"}, {"user_id": "usr_bob"}], ids=["other", "bob"])
async def test_somebody_elses_id_and_a_random_one_are_refused_alike(ada: User, changes: dict[str, str]) -> None:
    turn = await ada.ask((await ada.create()).id)
    stranger = other(ada, **changes)

    async def refusals(conversation_id: str, message_id: str, turn_id: str) -> list[Refusal]:
        body = conversation_pb2.Conversation(title="mine")
        requests: list[tuple[str, Any]] = [  # Any: requests of all methods
            ("GetConversation", pb.GetConversationRequest(conversation_id=conversation_id)),
            ("UpdateConversation", pb.UpdateConversationRequest(conversation_id=conversation_id, conversation=body)),
            ("DeleteConversation", pb.DeleteConversationRequest(conversation_id=conversation_id)),
            ("ListMessages", pb.ListMessagesRequest(conversation_id=conversation_id)),
            ("ListMessages", pb.ListMessagesRequest(conversation_id=conversation_id, leaf_message_id=message_id)),
            ("ListMessages", pb.ListMessagesRequest(conversation_id=conversation_id, tree=True)),
            ("GetMessage", pb.GetMessageRequest(message_id=message_id)),
            ("SetFeedback", pb.SetFeedbackRequest(message_id=message_id, rating=message_pb2.RATING_BAD)),
            ("GetFeedback", pb.GetFeedbackRequest(message_id=message_id)),
            ("ListTurns", turns_pb.ListTurnsRequest(conversation_id=conversation_id)),
            ("GetTurn", turns_pb.GetTurnRequest(turn_id=turn_id)),
            ("CancelTurn", turns_pb.CancelTurnRequest(turn_id=turn_id)),
            ("RetryTurn", turns_pb.RetryTurnRequest(turn_id=turn_id)),
        ]
        refused = [await refusal(stranger.call(name, request)) for name, request in requests]
        refused.append(await refusal(stranger.ask(conversation_id)))
        refused.append(await refusal(stranger.look(turn_id)))
        return refused

    foreign = await refusals(turn.conversation_id, turn.assistant_message_id, turn.id)
    random = await refusals(new_id("conv"), new_id("msg"), new_id("turn"))

    assert foreign == random
    assert {reason for reason, _, _ in foreign} == {"NOT_FOUND"}
    assert (await ada.call("GetTurn", turns_pb.GetTurnRequest(turn_id=turn.id))).turn == turn


async def test_a_deleted_conversation_is_gone_at_once(ada: User) -> None:
    turn = await ada.ask((await ada.create()).id)

    await ada.call("DeleteConversation", pb.DeleteConversationRequest(conversation_id=turn.conversation_id))

    for attempt in (
        ada.call("GetTurn", turns_pb.GetTurnRequest(turn_id=turn.id)),
        ada.call("GetMessage", pb.GetMessageRequest(message_id=turn.user_message_id)),
        ada.look(turn.id),
    ):
        assert (await refusal(attempt))[0] == "NOT_FOUND"
