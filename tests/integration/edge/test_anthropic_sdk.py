"""The official anthropic SDK, unmodified, against the edge: errors, headers, counts and models."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest

from edge.app import SESSION_PATH
from services.mesh.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    Internal,
    MeshError,
    ModelUnknown,
    ModelUnpriced,
    Overloaded,
    ProviderMisconfigured,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestTooLarge,
    ScopeMissing,
    Unavailable,
)
from tests.support.edge import EdgeUnderTest, running_edge
from tests.support.fakes.auth import API_KEY

ASKED: dict[str, Any] = {  # Any: the SDK's typed dictionaries
    "model": "fake/one",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "two words"}],
}


def nested(levels: int) -> dict[str, Any]:  # Any: JSON
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"items": found}
    return found


@pytest.fixture
async def client(listening_edge: EdgeUnderTest) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=f"{listening_edge.url}/anthropic", api_key=API_KEY, max_retries=0
    ) as sdk:
        yield sdk


async def test_a_message_is_answered(client: anthropic.AsyncAnthropic) -> None:
    raw = await client.messages.with_raw_response.create(**ASKED)
    message: Any = await raw.parse()

    assert (message.content[0].text, message.stop_reason, message.model) == ("TWO WORDS", "max_tokens", "fake/one")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 2)
    assert message.id.startswith("msg_")
    assert message._request_id == raw.headers["request-id"] == raw.headers["x-request-id"]
    assert message.model_extra["parley"] == {"model": "fake/one", "finish_reason": "length"}


async def test_a_message_is_streamed(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(**ASKED) as stream:
        text = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()

    assert "".join(text) == "TWO WORDS"
    assert (message.stop_reason, message.usage.input_tokens) == ("max_tokens", 3)
    assert stream.response.headers["request-id"]


async def test_a_bearer_token_is_as_good_as_a_key(listening_edge: EdgeUnderTest) -> None:
    url = f"{listening_edge.url}/anthropic"
    async with anthropic.AsyncAnthropic(base_url=url, auth_token=API_KEY, max_retries=0) as sdk:
        assert (await sdk.messages.create(**ASKED)).content


async def test_nothing_is_stored(listening_edge: EdgeUnderTest, client: anthropic.AsyncAnthropic) -> None:
    await client.messages.create(**ASKED)

    assert not listening_edge.fakes.conversations.requests


async def test_system_messages_and_parameters_arrive(
    listening_edge: EdgeUnderTest, client: anthropic.AsyncAnthropic
) -> None:
    await client.messages.create(
        **ASKED | {"model": "default"},
        system=[{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be short."}],
        stop_sequences=["END"],
        extra_body={"temperature": 0.5, "top_p": 0.9},
        metadata={"user_id": "u"},
    )
    request = listening_edge.fakes.generations.requests[0]

    assert (request.model, request.prompt.system) == ("", "Be kind.\n\nBe short.")
    assert (request.parameters.output_tokens_max, list(request.parameters.stop)) == (100, ["END"])
    assert (request.parameters.temperature, round(request.parameters.top_p, 6)) == (0.5, 0.9)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ScopeMissing(), anthropic.PermissionDeniedError, "permission_error"),
        (ModelUnknown("no such model"), anthropic.NotFoundError, "not_found_error"),
        (RateLimited("slow down", retry_after_s=1.5), anthropic.RateLimitError, "rate_limit_error"),
        (
            QuotaExhausted("the budget of the day is spent", retry_after_s=60),
            anthropic.RateLimitError,
            "rate_limit_error",
        ),
        (Overloaded(), anthropic.OverloadedError, "overloaded_error"),
        (RequestTooLarge(), anthropic.ContentTooLargeError, "request_too_large"),
        (ContextLengthExceeded("too long"), anthropic.BadRequestError, "invalid_request_error"),
        (ContentFiltered("filtered"), anthropic.BadRequestError, "invalid_request_error"),
        (ProviderUnavailable("gone"), anthropic.ServiceUnavailableError, "api_error"),
        (Unavailable("gone"), anthropic.ServiceUnavailableError, "api_error"),
        (ProviderTimeout("late"), anthropic.GatewayTimeoutError, "timeout_error"),
        (ProviderMisconfigured("no"), anthropic.ServiceUnavailableError, "api_error"),
        (ModelUnpriced(), anthropic.PermissionDeniedError, "permission_error"),
        (Internal("secret"), anthropic.InternalServerError, "api_error"),
    ],
)
async def test_errors_have_the_vendors_classes(
    error: MeshError,
    kind: type[anthropic.APIStatusError],
    words: str,
    listening_edge: EdgeUnderTest,
    client: anthropic.AsyncAnthropic,
) -> None:
    listening_edge.fakes.generations.refusal = error
    with pytest.raises(kind) as caught:
        await client.messages.create(**ASKED)
    headers = caught.value.response.headers

    assert type(caught.value) is kind
    assert caught.value.type == words
    assert caught.value.request_id == headers["x-request-id"]
    assert caught.value.error_code == error.reason.value.lower()
    assert headers["x-should-retry"] in {"true", "false"}
    assert "secret" not in str(caught.value)
    if error.retry_after_s is not None:
        assert float(headers["retry-after-ms"]) == error.retry_after_s * 1000
        assert float(headers["retry-after"]) >= error.retry_after_s


async def test_a_limit_of_the_platform_is_retried_and_a_providers_is_not(
    listening_edge: EdgeUnderTest, client: anthropic.AsyncAnthropic
) -> None:
    hints = []
    for metadata in ({}, {"model": "openai/gpt-test"}):
        listening_edge.fakes.generations.refusal = RateLimited("slow down", retry_after_s=1, metadata=metadata)
        with pytest.raises(anthropic.RateLimitError) as caught:
            await client.messages.create(**ASKED)
        hints.append(caught.value.response.headers["x-should-retry"])

    assert hints == ["true", "false"]


async def test_an_error_within_a_stream_is_its_last_event(
    listening_edge: EdgeUnderTest, client: anthropic.AsyncAnthropic
) -> None:
    listening_edge.fakes.generations.failure = ProviderUnavailable("gone")
    text: list[str] = []
    with pytest.raises(anthropic.APIStatusError, match="gone") as caught:
        await _read(client, text)

    assert text == ["TWO"]
    assert caught.value.type == "api_error"


async def _read(client: anthropic.AsyncAnthropic, text: list[str]) -> None:
    async with client.messages.stream(**ASKED) as stream:
        async for piece in stream.text_stream:
            text.append(piece)  # noqa: PERF401 - those before the error are wanted


async def test_an_error_before_a_stream_is_an_ordinary_answer(
    listening_edge: EdgeUnderTest, client: anthropic.AsyncAnthropic
) -> None:
    listening_edge.fakes.generations.refusal = ModelUnknown("no such model")
    with pytest.raises(anthropic.NotFoundError):
        await _read(client, [])


async def test_a_bad_key_is_an_authentication_error(listening_edge: EdgeUnderTest) -> None:
    url = f"{listening_edge.url}/anthropic"
    async with anthropic.AsyncAnthropic(base_url=url, api_key="wrong", max_retries=0) as sdk:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await sdk.messages.create(**ASKED)

    assert caught.value.type == "authentication_error"
    assert caught.value.request_id


async def test_an_unknown_path_is_not_found_in_the_vendors_form(listening_edge: EdgeUnderTest) -> None:
    answer = await listening_edge.client.get("/anthropic/v1/files", headers={"x-api-key": API_KEY})
    elsewhere = await listening_edge.client.delete(SESSION_PATH + "/x")

    assert answer.json()["error"]["type"] == "not_found_error"
    assert "reason" in elsewhere.json()


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    async with running_edge(prompt_bytes_max=2_000) as edge:
        answers = [await _sized(edge.client, size) for size in (1_999, 2_000, 2_001)]

    assert [answer.status_code for answer in answers] == [200, 200, 413]
    assert answers[2].json()["error"]["type"] == "request_too_large"


async def _sized(client: httpx.AsyncClient, size: int) -> httpx.Response:
    head = '{"model": "fake/one", "max_tokens": 9, "messages": [{"role": "user", "content": "'
    body = head + "x" * (size - len(head) - 4) + '"}]}'
    assert len(body) == size
    headers = {"x-api-key": API_KEY, "content-type": "application/json"}
    return await client.post("/anthropic/v1/messages", content=body, headers=headers)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [*ASKED["messages"], {"role": "assistant", "content": "Well,"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content[0].source.type",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": {"maximum": 1 << 70}}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": nested(300)}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "endless"}}, "output_config.effort"),
        ({"stop_sequences": ["a"] * 5}, "stop_sequences"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"extra_body": {"knowledge": 1}}, "knowledge"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(
    change: dict[str, Any], field: str, client: anthropic.AsyncAnthropic
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await client.messages.create(**ASKED | change)

    assert caught.value.type == "invalid_request_error"
    assert (caught.value.api_message or "").startswith(f"{field}: ")
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_tokens_are_counted_and_said_to_be_estimated(
    listening_edge: EdgeUnderTest, client: anthropic.AsyncAnthropic
) -> None:
    raw = await client.messages.with_raw_response.count_tokens(
        model="fake/one", messages=ASKED["messages"], tools=[{"name": "f", "input_schema": {"type": "object"}}]
    )

    assert (await raw.parse()).input_tokens == 9
    assert raw.headers["x-parley-estimated"] == "true"
    assert listening_edge.fakes.generations.counted[0].prompt.tools[0].name == "f"


async def test_models_are_listed_in_pages_and_found_by_names_with_slashes(client: anthropic.AsyncAnthropic) -> None:
    listed = [model.id async for model in client.models.list(limit=1)]
    last = await client.models.list(limit=1, before_id="openai/gpt-test")
    found = await client.models.retrieve("openai/gpt-test")
    default = await client.models.retrieve("default")

    assert listed == ["extractive", "openai/gpt-test"]
    assert ([model.id for model in last.data], last.has_more) == (["extractive"], False)
    assert (found.id, found.display_name, found.type) == ("openai/gpt-test", "GPT Test", "model")
    assert (default.id, default.max_input_tokens) == ("extractive", 8192)
    with pytest.raises(anthropic.NotFoundError):
        await client.models.retrieve("nobody/knows")
    with pytest.raises(anthropic.BadRequestError):
        await client.models.list(after_id="nobody/knows")
