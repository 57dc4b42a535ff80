"""The official openai SDK, unmodified, against the edge: sync, async and streamed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from edge.compat.openai.turns import RESUMES_MAX
from parley.conversation.v1 import message_pb2, turn_pb2
from services.mesh.errors import ModelUnknown, NotFound, ProviderUnavailable, TurnAlreadyRunning, Unavailable
from tests.support.edge import EdgeUnderTest, running_edge
from tests.support.fake_services import ANSWER, API_KEY, Told, delta, finished, started
from tests.support.waiting import until

QUESTION: list[Any] = [{"role": "user", "content": "who?"}]  # Any: the SDK's typed dictionaries


@pytest.fixture
async def under_test() -> AsyncIterator[EdgeUnderTest]:
    async with running_edge(listens=True) as edge:
        yield edge


@pytest.fixture
async def client(under_test: EdgeUnderTest) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{under_test.url}/v1", api_key=API_KEY, max_retries=0) as sdk:
        yield sdk


def extension(value: Any) -> dict[str, Any]:  # Any: what the SDK keeps of members that it does not know
    return dict(value.model_extra["parley"])


async def test_a_chat_is_answered_and_stored(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="default", messages=QUESTION)
    completion = raw.parse()
    choice = completion.choices[0]

    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
    assert completion.model == "extractive"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (
        20,
        7,
        27,
    )
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 4
    assert extension(choice.message)["citations"][0]["quote"] == "Ada Lovelace wrote notes"
    assert extension(choice.message)["cost_micros"] == 12
    conversation = raw.headers["x-parley-conversation"]
    assert conversation in under_test.fakes.conversations.stored
    assert raw.headers["x-parley-turn"] in under_test.fakes.turns.told
    assert completion.id == f"chatcmpl-{raw.headers['x-parley-turn']}"
    assert completion._request_id == raw.headers["x-request-id"]


async def test_the_sync_client_works_too(under_test: EdgeUnderTest) -> None:
    def ask() -> str | None:
        with openai.OpenAI(base_url=f"{under_test.url}/v1", api_key=API_KEY, max_retries=0) as sdk:
            whole = sdk.chat.completions.create(model="default", messages=QUESTION).choices[0].message.content
            pieces = sdk.chat.completions.create(model="default", messages=QUESTION, stream=True)
            assert whole == "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
            return whole

    assert await asyncio.to_thread(ask) == ANSWER


async def test_a_streamed_chat_ends_with_citations_and_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="default", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert extension(chunks[-2])["citations"][0]["document_name"] == "notes.md"
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 27
    assert len({chunk.id for chunk in chunks}) == 1


async def test_usage_comes_only_when_it_is_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="default", messages=QUESTION, stream=True)

    assert all(chunk.usage is None for chunk in [chunk async for chunk in stream])


async def test_the_sdks_stream_helper_works(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="default", messages=QUESTION) as stream:
        completion = await stream.get_final_completion()

    assert completion.choices[0].message.content == ANSWER


async def test_the_whole_chat_becomes_the_conversation(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "be kind"},
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "short"}]},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "who?"}]},
    ]
    await client.chat.completions.create(
        model="openai/gpt-test",
        messages=messages,
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=50,
        stop=["END"],
        seed=7,
        extra_body={"knowledge_base_id": "kb_1"},
    )
    conversation, turn = under_test.fakes.conversations.requests[0], under_test.fakes.turns.requests[0]

    assert (conversation.system_prompt, conversation.model) == ("be kind\n\nbe short", "openai/gpt-test")
    assert conversation.knowledge_base_id == turn.knowledge_base_id == "kb_1"
    assert [(message.role, message.text) for message in conversation.messages] == [
        (message_pb2.ROLE_USER, "hello"),
        (message_pb2.ROLE_ASSISTANT, "hi"),
    ]
    assert turn.new.text == "who?"
    assert not turn.new.HasField("parent_id")
    assert (turn.parameters.temperature, turn.parameters.output_tokens_max) == (0.5, 50)
    assert (list(turn.parameters.stop), turn.parameters.seed) == (["END"], 7)


async def test_the_default_model_is_an_empty_name(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(model="default", messages=QUESTION)

    assert under_test.fakes.turns.requests[0].model == ""


async def test_a_header_goes_on_with_a_conversation(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="default", messages=QUESTION)
    conversation = raw.headers["x-parley-conversation"]
    await client.chat.completions.create(
        model="default",
        messages=[*QUESTION, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": "and then?"}],
        extra_headers={"X-Parley-Conversation": conversation, "X-Parley-Knowledge-Base": "kb_2"},
    )
    turn = under_test.fakes.turns.requests[1]

    assert len(under_test.fakes.conversations.requests) == 1
    assert (turn.conversation_id, turn.new.text, turn.knowledge_base_id) == (conversation, "and then?", "kb_2")


async def test_an_idempotency_key_makes_one_turn(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = await client.chat.completions.create(model="default", messages=QUESTION, extra_headers=headers)
    again = await client.chat.completions.create(model="default", messages=QUESTION, extra_headers=headers)
    conversations = under_test.fakes.conversations.requests

    assert first.id == again.id
    assert len(under_test.fakes.turns.told) == 1
    assert conversations[0].request_id == conversations[1].request_id != under_test.fakes.turns.requests[0].request_id


async def test_without_store_nothing_is_stored(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello there"}]
    raw = await client.chat.completions.with_raw_response.create(model="fake/one", messages=messages, store=False)
    stream = await client.chat.completions.create(model="fake/one", messages=messages, store=False, stream=True)
    completion, request = raw.parse(), under_test.fakes.generations.requests[0]

    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("HELLO THERE", "length")
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "HELLO THERE"
    assert (request.model, request.prompt.system) == ("fake/one", "s")
    assert not under_test.fakes.conversations.requests
    assert "x-parley-turn" not in raw.headers


async def test_a_chat_that_no_conversation_can_hold_is_answered_and_forgotten(
    under_test: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    completion = await client.chat.completions.create(
        model="fake/one", messages=QUESTION, tools=[{"type": "function", "function": {"name": "look"}}]
    )

    assert completion.choices[0].message.content == "WHO?"
    assert not under_test.fakes.conversations.requests


async def test_a_refusal_of_the_past_is_stored_in_its_words(
    under_test: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    past: list[Any] = [{"role": "user", "content": "help"}, {"role": "assistant", "refusal": "No."}, *QUESTION]
    await client.chat.completions.create(model="default", messages=past)

    assert [said.text for said in under_test.fakes.conversations.requests[0].messages] == ["help", "No."]


async def test_models_are_listed_and_found_by_names_with_slashes(client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    found = await client.models.retrieve("openai/gpt-test")
    default = await client.models.retrieve("default")

    assert listed == ["extractive", "openai/gpt-test"]
    assert (found.id, found.owned_by) == ("openai/gpt-test", "openai")
    assert (default.id, default.owned_by) == ("extractive", "parley")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody/knows")


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


async def test_harmless_parameters_are_taken(client: openai.AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(
        model="default",
        messages=QUESTION,
        n=1,
        user="u",
        metadata={"a": "b"},
        presence_penalty=0,
        parallel_tool_calls=True,
        tool_choice="auto",
        response_format={"type": "text"},
        logprobs=False,
        service_tier="auto",
    )

    assert completion.choices[0].message.content == ANSWER


async def test_header_and_body_must_name_the_same_knowledge_base(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model="default",
            messages=QUESTION,
            extra_headers={"X-Parley-Knowledge-Base": "kb_1"},
            extra_body={"knowledge_base_id": "kb_2"},
        )

    assert caught.value.param == "knowledge_base_id"


async def test_a_bad_key_is_an_authentication_error(under_test: EdgeUnderTest) -> None:
    async with openai.AsyncOpenAI(base_url=f"{under_test.url}/v1", api_key="wrong", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk.chat.completions.create(model="default", messages=QUESTION)

    assert caught.value.code == "invalid_api_key"


async def test_errors_of_services_have_openais_names(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    under_test.fakes.turns.failure = ModelUnknown("no such model", metadata={"model": "x"})
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="x/y", messages=QUESTION)
    under_test.fakes.turns.failure = TurnAlreadyRunning()
    with pytest.raises(openai.ConflictError) as running:
        await client.chat.completions.create(model="default", messages=QUESTION)

    assert unknown.value.code == "model_not_found"
    assert running.value.response.headers["x-should-retry"] == "false"


async def test_a_conversation_in_which_no_turn_could_begin_is_removed(
    under_test: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    under_test.fakes.turns.failure = NotFound.of("knowledge_base")
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="default", messages=QUESTION)
    assert not under_test.fakes.conversations.stored

    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="default", messages=QUESTION, extra_headers={"Idempotency-Key": "k"})
    assert under_test.fakes.conversations.stored


def failed(turn: Told) -> turn_pb2.TurnEvent:
    event = finished(turn, "half", turn_pb2.TURN_STATE_FAILED)
    event.turn_finished.message.error.reason = "PROVIDER_UNAVAILABLE"
    event.turn_finished.message.error.message = "no provider could answer"
    return event


async def test_a_failed_turn_is_an_error(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    async def fail(turn: Told) -> None:
        await turn.tell(started(turn), failed(turn))

    under_test.fakes.turns.script = fail
    with pytest.raises(openai.InternalServerError, match="no provider could answer") as caught:
        await client.chat.completions.create(model="default", messages=QUESTION)

    assert caught.value.status_code == 503
    assert caught.value.code == "provider_unavailable"


async def text_of(stream: openai.AsyncStream[Any], gate: asyncio.Event, text: list[str]) -> None:
    async for chunk in stream:
        text.append(chunk.choices[0].delta.content or "")
        gate.set()


async def test_a_turn_that_fails_within_a_stream_is_its_last_event(
    under_test: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    gate, text = asyncio.Event(), list[str]()

    async def fail_later(turn: Told) -> None:
        await turn.tell(started(turn), delta(0, "half"))
        await gate.wait()
        await turn.tell(failed(turn))

    under_test.fakes.turns.script = fail_later
    stream = await client.chat.completions.create(model="default", messages=QUESTION, stream=True)
    with pytest.raises(openai.APIError, match="no provider could answer"):
        await text_of(stream, gate, text)

    assert text == ["half"]


async def test_a_generation_that_fails_within_a_stream_is_its_last_event(
    under_test: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    under_test.fakes.generations.failure = ProviderUnavailable("gone")
    stream = await client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "two words"}], stream=True, store=False
    )

    with pytest.raises(openai.APIError, match="gone"):
        await text_of(stream, asyncio.Event(), [])


async def test_a_broken_event_stream_is_resumed_unseen(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    turns = under_test.fakes.turns

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
    under_test: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    under_test.fakes.turns.refusal = Unavailable()
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="default", messages=QUESTION)

    assert caught.value.status_code == 503
    assert len(under_test.fakes.turns.watched) > RESUMES_MAX  # and what the channel repeats by itself


async def test_an_interrupted_worker_repeats_nothing(under_test: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    async def interrupted(turn: Told) -> None:
        again = turn_pb2.TurnEvent(attempt_started=turn_pb2.AttemptStarted(attempt=2, resume_offset=3))
        await turn.tell(started(turn), delta(0, "abcdef"), again, delta(3, "defg"), finished(turn, "abcdefg"))

    under_test.fakes.turns.script = interrupted
    stream = await client.chat.completions.create(model="default", messages=QUESTION, stream=True)

    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "abcdefg"
