"""What the SDK is answered: sync, async and streamed."""

import asyncio
from typing import Any

import openai
import pytest

from parley.conversation.v1 import message_pb2
from tests.integration.edge.openai_sdk.conftest import QUESTION
from tests.support.edge import EdgeUnderTest
from tests.support.fakes.auth import API_KEY
from tests.support.fakes.conversation import ANSWER


def extension(value: Any) -> dict[str, Any]:  # Any: what the SDK keeps of members that it does not know
    return dict(value.model_extra["parley"])


async def test_a_chat_is_answered_and_stored(listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
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
    assert conversation in listening_edge.fakes.conversations.stored
    assert raw.headers["x-parley-turn"] in listening_edge.fakes.turns.told
    assert completion.id == f"chatcmpl-{raw.headers['x-parley-turn']}"
    assert completion._request_id == raw.headers["x-request-id"]


async def test_the_sync_client_works_too(listening_edge: EdgeUnderTest) -> None:
    def ask() -> str | None:
        with openai.OpenAI(base_url=f"{listening_edge.url}/v1", api_key=API_KEY, max_retries=0) as sdk:
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


async def test_the_whole_chat_becomes_the_conversation(
    listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
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
    conversation, turn = listening_edge.fakes.conversations.requests[0], listening_edge.fakes.turns.requests[0]

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


async def test_the_default_model_is_an_empty_name(listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(model="default", messages=QUESTION)

    assert listening_edge.fakes.turns.requests[0].model == ""


async def test_a_header_goes_on_with_a_conversation(listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="default", messages=QUESTION)
    conversation = raw.headers["x-parley-conversation"]
    await client.chat.completions.create(
        model="default",
        messages=[*QUESTION, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": "and then?"}],
        extra_headers={"X-Parley-Conversation": conversation, "X-Parley-Knowledge-Base": "kb_2"},
    )
    turn = listening_edge.fakes.turns.requests[1]

    assert len(listening_edge.fakes.conversations.requests) == 1
    assert (turn.conversation_id, turn.new.text, turn.knowledge_base_id) == (conversation, "and then?", "kb_2")


async def test_an_idempotency_key_makes_one_turn(listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = await client.chat.completions.create(model="default", messages=QUESTION, extra_headers=headers)
    again = await client.chat.completions.create(model="default", messages=QUESTION, extra_headers=headers)
    conversations = listening_edge.fakes.conversations.requests

    assert first.id == again.id
    assert len(listening_edge.fakes.turns.told) == 1
    assert (
        conversations[0].request_id == conversations[1].request_id != listening_edge.fakes.turns.requests[0].request_id
    )


async def test_without_store_nothing_is_stored(listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello there"}]
    raw = await client.chat.completions.with_raw_response.create(model="fake/one", messages=messages, store=False)
    stream = await client.chat.completions.create(model="fake/one", messages=messages, store=False, stream=True)
    completion, request = raw.parse(), listening_edge.fakes.generations.requests[0]

    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("HELLO THERE", "length")
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "HELLO THERE"
    assert (request.model, request.prompt.system) == ("fake/one", "s")
    assert not listening_edge.fakes.conversations.requests
    assert "x-parley-turn" not in raw.headers


async def test_a_chat_that_no_conversation_can_hold_is_answered_and_forgotten(
    listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    completion = await client.chat.completions.create(
        model="fake/one", messages=QUESTION, tools=[{"type": "function", "function": {"name": "look"}}]
    )

    assert completion.choices[0].message.content == "WHO?"
    assert not listening_edge.fakes.conversations.requests


async def test_a_refusal_of_the_past_is_stored_in_its_words(
    listening_edge: EdgeUnderTest, client: openai.AsyncOpenAI
) -> None:
    past: list[Any] = [{"role": "user", "content": "help"}, {"role": "assistant", "refusal": "No."}, *QUESTION]
    await client.chat.completions.create(model="default", messages=past)

    assert [said.text for said in listening_edge.fakes.conversations.requests[0].messages] == ["help", "No."]


async def test_models_are_listed_and_found_by_names_with_slashes(client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    found = await client.models.retrieve("openai/gpt-test")
    default = await client.models.retrieve("default")

    assert listed == ["extractive", "openai/gpt-test"]
    assert (found.id, found.owned_by) == ("openai/gpt-test", "openai")
    assert (default.id, default.owned_by) == ("extractive", "parley")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody/knows")


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
