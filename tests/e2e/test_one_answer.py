"""One question gives one stored answer by curl, gRPC and the OpenAI SDK, and a cut stream goes on where it was."""

import asyncio
import json
import subprocess
import uuid
from collections.abc import Iterator
from typing import Final

import grpc.aio
import openai
import pytest

from parley.conversation.v1 import (
    conversation_service_pb2,
    conversation_service_pb2_grpc,
    turn_pb2,
    turn_service_pb2,
    turn_service_pb2_grpc,
)
from tests.support.rest import Rest, ServerSentEvent, Watcher, parse, text_of
from tests.support.stack import Stack
from tests.support.tenants import FACTS, QUESTION, exchange, knowledge_base

STREAM_SCRIPT: Final = "scripted/slow"


@pytest.fixture(scope="module")
def knowledge_base_id(stack: Stack) -> str:
    with Rest(stack.url, stack.api_key) as rest:
        return knowledge_base(rest, "Lighthouses")[0]


def test_curl_grpc_and_openai_sdk_get_the_same_stored_answer(stack: Stack, knowledge_base_id: str) -> None:
    token = exchange(stack.targets["auth"], stack.api_key, "conversation")
    answers = {
        "curl": by_curl(stack, knowledge_base_id),
        "grpc": asyncio.run(by_grpc(stack, token, knowledge_base_id)),
        "openai": by_openai(stack, knowledge_base_id),
    }

    assert "Alan Stevenson" in answers["curl"]
    assert set(answers.values()) == {answers["curl"]}


def test_citations_resolve_to_the_very_text(stack: Stack, knowledge_base_id: str) -> None:
    with Rest(stack.url, stack.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"knowledge_base_id": knowledge_base_id})
        watcher = rest.ask(conversation["id"], QUESTION)
        assert watcher.message is not None
        stored = rest.get(f"/api/v1/messages/{watcher.message['id']}")

        assert stored["citations"] == watcher.citations
        assert watcher.citations
        for citation in stored["citations"]:
            source = rest.get(
                f"/api/v1/documents/{citation['document_id']}/text",
                start=citation["source_start"],
                end=citation["source_end"],
            )
            assert source["text"] == citation["quote"]
            assert citation["quote"] in FACTS


def test_client_that_left_in_mid_answer_goes_on_without_gap_or_repeat(stack: Stack) -> None:
    with Rest(stack.url, stack.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"model": STREAM_SCRIPT})
        watcher = Watcher()
        path = f"/api/v1/conversations/{conversation['id']}/turns"
        with rest.events("POST", path, {"new": {"text": "Go"}}) as events:
            turn_id = _see_until(watcher, events, deltas=3)
        assert "turn_finished" not in watcher.kinds

        while "turn_finished" not in watcher.kinds:
            last = {"last-event-id": str(watcher.sequence)}
            with rest.events("GET", f"/api/v1/turns/{turn_id}/events", None, **last) as events:
                _see_until(watcher, events, deltas=40)

        assert "snapshot" not in watcher.kinds
        assert watcher.message is not None
        assert watcher.text == text_of(rest.get(f"/api/v1/messages/{watcher.message['id']}"))


def test_answer_is_completed_when_nobody_watches(stack: Stack) -> None:
    with Rest(stack.url, stack.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"model": STREAM_SCRIPT})
        watcher = Watcher()
        path = f"/api/v1/conversations/{conversation['id']}/turns"
        with rest.events("POST", path, {"new": {"text": "Go"}}) as events:
            turn_id = _see_until(watcher, events, deltas=1)

        late = Watcher()
        with rest.events("GET", f"/api/v1/turns/{turn_id}/events") as events:
            for event in events:
                late.see(event)

        assert late.message is not None
        assert late.message["state"] == "complete"
        assert late.text.startswith(watcher.text)


def by_curl(stack: Stack, knowledge_base_id: str) -> str:
    with Rest(stack.url, stack.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"knowledge_base_id": knowledge_base_id})
        command = [
            *("curl", "--silent", "--no-buffer", "--fail", "--max-time", "30"),
            *("--header", f"Authorization: Bearer {stack.api_key}"),
            *("--header", "Accept: text/event-stream"),
            *("--json", json.dumps({"new": {"text": QUESTION}})),
            f"{stack.url}/api/v1/conversations/{conversation['id']}/turns",
        ]
        printed = subprocess.run(command, check=True, capture_output=True, text=True)
        watcher = Watcher()
        for event in parse(iter(printed.stdout.splitlines())):
            watcher.see(event)
        assert watcher.message is not None
        assert watcher.text == text_of(watcher.message)
        return text_of(rest.get(f"/api/v1/messages/{watcher.message['id']}"))


async def by_grpc(stack: Stack, token: str, knowledge_base_id: str) -> str:
    metadata = (("authorization", f"Bearer {token}"),)
    request_id = str(uuid.uuid4())
    async with grpc.aio.insecure_channel(stack.targets["conversation"]) as channel:
        conversations = conversation_service_pb2_grpc.ConversationServiceStub(channel)
        turns = turn_service_pb2_grpc.TurnServiceStub(channel)
        created = await conversations.CreateConversation(
            conversation_service_pb2.CreateConversationRequest(
                request_id=request_id, knowledge_base_id=knowledge_base_id
            ),
            metadata=metadata,
        )
        question = turn_service_pb2.CreateTurnRequest(
            conversation_id=created.conversation.id,
            request_id=request_id,
            new=turn_service_pb2.NewMessage(text=QUESTION),
        )
        accepted = await turns.CreateTurn(question, metadata=metadata)
        watched = turns.StreamTurnEvents(
            turn_service_pb2.StreamTurnEventsRequest(turn_id=accepted.turn.id), metadata=metadata
        )
        events = [event async for response in watched for event in response.events]
    finished = events[-1].turn_finished
    assert finished.state == turn_pb2.TURN_STATE_COMPLETED
    text = "".join(event.text_delta.text for event in events)
    assert text == "".join(part.text.text for part in finished.message.parts)
    return text


def by_openai(stack: Stack, knowledge_base_id: str) -> str:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key)
    with client:
        whole = client.chat.completions.create(
            model="extractive",
            messages=[{"role": "user", "content": QUESTION}],
            extra_headers={"X-Parley-Knowledge-Base": knowledge_base_id},
        )
        stream = client.chat.completions.create(
            model="extractive",
            messages=[{"role": "user", "content": QUESTION}],
            extra_headers={"X-Parley-Knowledge-Base": knowledge_base_id},
            stream=True,
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert whole.choices[0].message.content == streamed
    return streamed


def _see_until(watcher: Watcher, events: Iterator[ServerSentEvent], *, deltas: int) -> str:
    turn_id = ""
    seen = 0
    for event in events:
        watcher.see(event)
        if event.event == "turn_started":
            turn_id = event.data["turn_started"]["turn_id"]
        seen += event.event == "text_delta"
        if seen == deltas:
            break
    return turn_id
