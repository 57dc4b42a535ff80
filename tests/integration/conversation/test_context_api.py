"""Conversations that name a prompt, and summaries of long ones, as users see them."""

from typing import Any

import grpc.aio
import pytest
from google.protobuf import field_mask_pb2

from parley.conversation.v1 import (
    conversation_pb2,
    conversation_service_pb2_grpc,
    turn_service_pb2,
    turn_service_pb2_grpc,
)
from parley.conversation.v1 import conversation_service_pb2 as pb
from parley.inference.v1 import generation_pb2, generation_service_pb2
from services.mesh.errors import InvalidArgument, NotFound
from services.mesh.ids import new_id
from tests.integration.conversation.conftest import Processes
from tests.support.conversation_api import User
from tests.support.conversation_peers import Peers

Reference = conversation_pb2.PromptReference


async def test_a_conversation_keeps_changes_and_loses_its_prompt(ada: User) -> None:
    reference = Reference(prompt="support", alias="staging", variables={"name": "Ada"})
    created = await ada.create(prompt=reference)
    numbered = Reference(prompt="prm_1", revision=4)

    async def update(reference: Reference | None) -> conversation_pb2.Conversation:
        request = pb.UpdateConversationRequest(
            conversation_id=created.id,
            conversation=conversation_pb2.Conversation(prompt=reference),
            update_mask=field_mask_pb2.FieldMask(paths=["prompt"]),
        )
        changed: conversation_pb2.Conversation = (await ada.call("UpdateConversation", request)).conversation
        return changed

    assert created.prompt == reference
    assert (await update(numbered)).prompt == numbered
    assert not (await update(None)).HasField("prompt")


@pytest.mark.parametrize(
    ("reference", "field"),
    [
        (Reference(), "prompt.prompt"),
        (Reference(prompt="p" * 201), "prompt.prompt"),
        (Reference(prompt="p", alias="a" * 201), "prompt.alias"),
        (Reference(prompt="p", revision=0), "prompt.revision"),
        (Reference(prompt="p", variables={f"v{number}": "" for number in range(65)}), "prompt.variables"),
        (Reference(prompt="p", variables={"v": "x" * 10_001}), "prompt.variables['v']"),
    ],
)
async def test_a_reference_out_of_bounds_is_refused(ada: User, reference: Reference, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await ada.create(prompt=reference)
    assert refused.value.fields[0].field == field


async def test_a_reference_at_its_bounds_is_kept(ada: User) -> None:
    reference = Reference(prompt="p" * 200, variables={f"v{number}": "x" * 10_000 for number in range(64)})

    assert (await ada.create(prompt=reference)).prompt == reference


async def test_a_summary_that_is_not_there_is_not_found(ada: User) -> None:
    with pytest.raises(NotFound):
        await ada.call("GetSummary", pb.GetSummaryRequest(summary_id=new_id("sum")))


async def test_a_long_conversation_goes_on_with_a_summary_that_can_be_read(
    processes: Processes, api: grpc.aio.Channel, peers: Peers
) -> None:
    peers.generation.words = ["word " * 200]
    peers.generation.told = generation_service_pb2.Started(
        model="m", context=generation_pb2.ContextReport(summary_tokens=4), prompt_revision="prm_1/2"
    )
    processes.start(
        "worker",
        PARLEY_CONVERSATION_SUMMARY_MODEL="cheap/one",
        PARLEY_CONVERSATION_SUMMARY_ABOVE_TOKENS="400",
        PARLEY_CONVERSATION_SUMMARY_KEEP_TOKENS="300",
    )
    metadata = peers.metadata("org_acme", "usr_ada")
    conversations = conversation_service_pb2_grpc.ConversationServiceStub(api)
    messages = conversation_service_pb2_grpc.MessageServiceStub(api)
    turns = turn_service_pb2_grpc.TurnServiceStub(api)
    created = await conversations.CreateConversation(
        pb.CreateConversationRequest(prompt=Reference(prompt="support")), metadata=metadata, wait_for_ready=True
    )
    conversation_id = created.conversation.id

    async def answered(text: str) -> Any:  # Any: a message
        question = turn_service_pb2.NewMessage(text=text)
        request = turn_service_pb2.CreateTurnRequest(conversation_id=conversation_id, new=question)
        turn = (await turns.CreateTurn(request, metadata=metadata)).turn
        watch = turn_service_pb2.StreamTurnEventsRequest(turn_id=turn.id)
        async for response in turns.StreamTurnEvents(watch, metadata=metadata):
            for event in response.events:
                if event.HasField("turn_finished"):
                    return event.turn_finished.message
        raise AssertionError(text)

    answer = await answered("Q0")
    for number in range(1, 200):
        if answer.context.summary_id:
            break
        answer = await answered(f"Q{number}")
    found = await messages.GetSummary(pb.GetSummaryRequest(summary_id=answer.context.summary_id), metadata=metadata)

    assert found.summary.text == "They spoke."
    assert found.summary.messages_covered == answer.context.messages_summarised >= 2
    assert answer.context.prompt_revision == "prm_1/2"
    assert answer.context.summary_tokens == 4
    assert peers.generation.requests[-1].prompt.summary == "They spoke."
    assert peers.generation.requests[-1].prompt_ref.prompt == "support"
