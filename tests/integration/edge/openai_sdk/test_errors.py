"""What the SDK raises, and which failures it never hears of."""

import asyncio
from typing import Any

import openai
import pytest

from edge.compat.openai.turns import RESUMES_MAX
from parley.conversation.v1 import turn_pb2
from services.mesh.errors import (
    HTTP_STATUS,
    ContentFiltered,
    ContextLengthExceeded,
    Internal,
    MeshError,
    ModelUnknown,
    ModelUnpriced,
    NotFound,
    Overloaded,
    ProviderMisconfigured,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestTooLarge,
    ScopeMissing,
    TurnAlreadyRunning,
    Unavailable,
)
from tests.integration.edge.openai_sdk.conftest import QUESTION
from tests.support.edge import EdgeUnderTest
from tests.support.fakes.conversation import Told, delta, finished, started
from tests.support.waiting import until


async def test_a_wrong_base_url_and_a_surface_that_is_not_served_are_told(client: openai.AsyncOpenAI) -> None:
    root = client.with_options(base_url=str(client.base_url).removesuffix("/v1/"))

    with pytest.raises(openai.NotFoundError) as astray:
        await root.chat.completions.create(model="default", messages=QUESTION)
    assert "nothing is served at '/chat/completions'" in astray.value.response.text
    with pytest.raises(openai.NotFoundError, match="nothing is served at '/v1/responses'"):
        await client.responses.create(model="default", input="who?")


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "store": True}, "store"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning_effort": "endless"}, "reasoning_effort"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"extra_body": {"knowledgebase": "kb_1"}}, "knowledgebase"),
        ({"extra_body": {"store": "no"}}, "store"),
        ({"extra_body": {"stream_options": {"include": 1}}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "content": "hi", "name": "f"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0].type",
        ),
        ({"store": False, "extra_body": {"knowledge_base_id": "kb_1"}}, "store"),
        ({"extra_headers": {"idempotency-key": "a b"}}, "idempotency-key"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(
    client: openai.AsyncOpenAI,
    parameters: dict[str, Any],
    param: str,
) -> None:
    given: dict[str, Any] = {"model": "default", "messages": QUESTION, **parameters}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**given)

    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_header_and_body_must_name_the_same_knowledge_base(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model="default",
            messages=QUESTION,
            extra_headers={"X-Parley-Knowledge-Base": "kb_1"},
            extra_body={"knowledge_base_id": "kb_2"},
        )

    assert caught.value.param == "knowledge_base_id"


async def test_a_bad_key_is_an_authentication_error(listening_edge: EdgeUnderTest) -> None:
    async with openai.AsyncOpenAI(base_url=f"{listening_edge.url}/v1", api_key="wrong", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk.chat.completions.create(model="default", messages=QUESTION)

    assert caught.value.code == "invalid_api_key"


async def test_errors_of_services_have_openais_names(listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    listening_edge.fakes.turns.failure = ModelUnknown("no such model", metadata={"model": "x"})
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="x/y", messages=QUESTION)
    listening_edge.fakes.turns.failure = TurnAlreadyRunning()
    with pytest.raises(openai.ConflictError) as running:
        await client.chat.completions.create(model="default", messages=QUESTION)

    assert unknown.value.code == "model_not_found"
    assert running.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("error", "kind", "code", "is_repeated"),
    [
        (ScopeMissing(), openai.PermissionDeniedError, "scope_missing", False),
        (ModelUnpriced(), openai.PermissionDeniedError, "model_unpriced", False),
        (RateLimited("slow down", retry_after_s=1.5), openai.RateLimitError, "rate_limit_exceeded", True),
        (QuotaExhausted("the day is spent", retry_after_s=60), openai.RateLimitError, "insufficient_quota", False),
        (Overloaded(retry_after_s=1), openai.InternalServerError, "overloaded", True),
        (Unavailable("gone"), openai.InternalServerError, "unavailable", True),
        (ProviderUnavailable("gone", retry_after_s=2), openai.InternalServerError, "provider_unavailable", False),
        (ProviderMisconfigured("no"), openai.InternalServerError, "provider_misconfigured", False),
        (ProviderTimeout("late"), openai.InternalServerError, "provider_timeout", False),
        (RequestTooLarge(), openai.APIStatusError, "request_too_large", False),
        (ContextLengthExceeded("too long"), openai.BadRequestError, "context_length_exceeded", False),
        (ContentFiltered("filtered"), openai.BadRequestError, "content_filter", False),
        (Internal("secret"), openai.InternalServerError, "internal_error", False),
    ],
)
async def test_errors_of_inference_have_the_vendors_classes(
    error: MeshError,
    kind: type[openai.APIStatusError],
    code: str,
    is_repeated: bool,  # noqa: FBT001 - pytest passes parameters by name
    listening_edge: EdgeUnderTest,
    client: openai.AsyncOpenAI,
) -> None:
    listening_edge.fakes.generations.refusal = error
    with pytest.raises(kind) as caught:
        await client.chat.completions.create(model="default", messages=QUESTION, store=False)
    headers = caught.value.response.headers

    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.status_code) == (code, HTTP_STATUS[error.reason])
    assert caught.value.request_id == headers["x-request-id"]
    assert headers["x-should-retry"] == ("true" if is_repeated else "false")
    assert "secret" not in str(caught.value)
    if error.retry_after_s is not None:
        assert float(headers["retry-after-ms"]) == error.retry_after_s * 1000
        assert float(headers["retry-after"]) >= error.retry_after_s


async def test_a_conversation_in_which_no_turn_could_begin_is_removed(
    listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    listening_edge.fakes.turns.failure = NotFound.of("knowledge_base")
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="default", messages=QUESTION)
    assert not listening_edge.fakes.conversations.stored

    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="default", messages=QUESTION, extra_headers={"Idempotency-Key": "k"})
    assert listening_edge.fakes.conversations.stored


def failed(turn: Told) -> turn_pb2.TurnEvent:
    event = finished(turn, "half", turn_pb2.TURN_STATE_FAILED)
    event.turn_finished.message.error.reason = "PROVIDER_UNAVAILABLE"
    event.turn_finished.message.error.message = "no provider could answer"
    return event


async def test_a_failed_turn_is_an_error(listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    async def fail(turn: Told) -> None:
        await turn.tell(started(turn), failed(turn))

    listening_edge.fakes.turns.script = fail
    with pytest.raises(openai.InternalServerError, match="no provider could answer") as caught:
        await client.chat.completions.create(model="default", messages=QUESTION)

    assert caught.value.status_code == 503
    assert caught.value.code == "provider_unavailable"


async def text_of(stream: openai.AsyncStream[Any], gate: asyncio.Event, text: list[str]) -> None:
    async for chunk in stream:
        text.append(chunk.choices[0].delta.content or "")
        gate.set()


async def test_a_turn_that_fails_within_a_stream_is_its_last_event(
    listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    gate, text = asyncio.Event(), list[str]()

    async def fail_later(turn: Told) -> None:
        await turn.tell(started(turn), delta(0, "half"))
        await gate.wait()
        await turn.tell(failed(turn))

    listening_edge.fakes.turns.script = fail_later
    stream = await client.chat.completions.create(model="default", messages=QUESTION, stream=True)
    with pytest.raises(openai.APIError, match="no provider could answer"):
        await text_of(stream, gate, text)

    assert text == ["half"]


async def test_a_generation_that_fails_within_a_stream_is_its_last_event(
    listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    listening_edge.fakes.generations.failure = ProviderUnavailable("gone")
    stream = await client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "two words"}], stream=True, store=False
    )

    with pytest.raises(openai.APIError, match="gone"):
        await text_of(stream, asyncio.Event(), [])


async def test_a_broken_event_stream_is_resumed_unseen(
    listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    turns = listening_edge.fakes.turns

    async def with_breaks(turn: Told) -> None:
        await turn.tell(started(turn))
        await until(lambda: len(turns.watched) > 1)
        await turn.tell(delta(0, "one "))
        await until(lambda: len(turns.watched) > 2)
        await turn.tell(delta(4, "two"), finished(turn, "one two"))

    turns.script, turns.breaks = with_breaks, [Unavailable(), Unavailable()]
    completion = await client.chat.completions.create(model="default", messages=QUESTION)

    assert completion.choices[0].message.content == "one two"
    assert turns.watched == [0, 1, 2]


async def test_a_stream_that_breaks_again_and_again_is_given_up(
    listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    listening_edge.fakes.turns.refusal = Unavailable()
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="default", messages=QUESTION)

    assert caught.value.status_code == 503
    assert len(listening_edge.fakes.turns.watched) > RESUMES_MAX  # and what the channel repeats by itself


async def test_an_interrupted_worker_repeats_nothing(listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    async def interrupted(turn: Told) -> None:
        again = turn_pb2.TurnEvent(attempt_started=turn_pb2.AttemptStarted(attempt=2, resume_offset=3))
        await turn.tell(started(turn), delta(0, "abcdef"), again, delta(3, "defg"), finished(turn, "abcdefg"))

    listening_edge.fakes.turns.script = interrupted
    stream = await client.chat.completions.create(model="default", messages=QUESTION, stream=True)

    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "abcdefg"
