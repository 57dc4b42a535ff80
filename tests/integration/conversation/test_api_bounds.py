"""What the gRPC API accepts and refuses: each bound, and what is malformed."""

from typing import Any

import pytest
from google.protobuf import field_mask_pb2

from parley.conversation.v1 import conversation_pb2, message_pb2
from parley.conversation.v1 import conversation_service_pb2 as pb
from parley.conversation.v1 import turn_service_pb2 as turns_pb
from services.mesh.errors import InvalidArgument
from tests.support.conversation_api import User


def _message(text: str, role: message_pb2.Role.ValueType = message_pb2.ROLE_USER) -> pb.ImportedMessage:
    return pb.ImportedMessage(role=role, text=text)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"title": "x" * 201}, "title"),
        ({"system_prompt": "x" * 32_001}, "system_prompt"),
        ({"system_prompt": "a\0b"}, "system_prompt"),
        ({"model": "x" * 201}, "model"),
        ({"knowledge_base_id": "x" * 201}, "knowledge_base_id"),
        ({"examples": [conversation_pb2.Example(user="q", assistant="a")] * 33}, "examples"),
        ({"examples": [conversation_pb2.Example(user="q")]}, "examples[0].assistant"),
        ({"retrieval_mode": 9}, "retrieval_mode"),
        ({"messages": [_message("x")] * 1_001}, "messages"),
        ({"messages": [_message("x", message_pb2.ROLE_UNSPECIFIED)]}, "messages[0].role"),
        ({"messages": [_message("")]}, "messages[0].text"),
        ({"messages": [_message("x" * 100_001)]}, "messages[0].text"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": "ä"}, "request_id"),
    ],
)
async def test_a_conversation_out_of_bounds_is_refused(ada: User, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await ada.create(**fields)

    assert refused.value.fields[0].field == field


async def test_a_conversation_at_its_bounds_is_accepted(ada: User) -> None:
    await ada.create(
        title="x" * 200,
        system_prompt="x" * 32_000,
        examples=[conversation_pb2.Example(user="q", assistant="a")] * 32,
        messages=[_message("x")] * 999 + [_message("🙂" * 100_000)],
        request_id="x" * 128,
    )


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"temperature": 2.1}, "parameters.temperature"),
        ({"temperature": float("nan")}, "parameters.temperature"),
        ({"top_p": -0.1}, "parameters.top_p"),
        ({"output_tokens_max": 0}, "parameters.output_tokens_max"),
        ({"stop": ["x"] * 5}, "parameters.stop"),
        ({"stop": [""]}, "parameters.stop[0]"),
    ],
)
async def test_parameters_out_of_bounds_are_refused(ada: User, parameters: dict[str, Any], field: str) -> None:
    conversation = await ada.create()
    with pytest.raises(InvalidArgument) as refused:
        await ada.ask(conversation.id, parameters=turns_pb.GenerationParameters(**parameters))

    assert refused.value.fields[0].field == field


@pytest.mark.parametrize("text", ["", "x" * 100_001, "a\0b"])
async def test_a_question_out_of_bounds_is_refused(ada: User, text: str) -> None:
    conversation = await ada.create()
    with pytest.raises(InvalidArgument) as refused:
        await ada.ask(conversation.id, text)

    assert refused.value.fields[0].field == "new.text"


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("CreateTurn", turns_pb.CreateTurnRequest(conversation_id="c")),
        (
            "CreateTurn",
            turns_pb.CreateTurnRequest(
                conversation_id="c",
                new=turns_pb.NewMessage(text="?"),
                on_conflict=99,  # type: ignore[arg-type] # a value of a later contract
            ),
        ),
        ("ListConversations", pb.ListConversationsRequest(page_size=201)),
        ("ListConversations", pb.ListConversationsRequest(page_token="x")),
        ("ListMessages", pb.ListMessagesRequest(conversation_id="c", tree=True, leaf_message_id="m")),
        ("SetFeedback", pb.SetFeedbackRequest(message_id="m")),
        ("SetFeedback", pb.SetFeedbackRequest(message_id="m", rating=message_pb2.RATING_BAD, comment="x" * 2_001)),
        (
            "UpdateConversation",
            pb.UpdateConversationRequest(
                conversation_id="c", update_mask=field_mask_pb2.FieldMask(paths=["leaf_message_id"])
            ),
        ),
    ],
)
async def test_a_malformed_request_is_refused(ada: User, name: str, request_: Any) -> None:  # Any: any request
    with pytest.raises(InvalidArgument):
        await ada.call(name, request_)
