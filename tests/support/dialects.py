"""Edge and inference before the provider double, and what the vendors' own SDKs make of their answers."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
from openai.types.chat import ChatCompletionChunk

from services.inference.app import open_shelf, wire_up
from services.inference.generating.course import Tactics
from services.inference.settings import Settings
from tests.support.edge import running_edge
from tests.support.fakes.auth import API_KEY
from tests.support.provider_double import ProviderDouble, running_double
from tests.support.provider_parts import Call, Declined, Said, Stopped, Thought, Words

# Any: what the SDKs parse, and what they take.
Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialects:
    """Both SDKs, unmodified but for their base URL, and the provider behind the platform."""

    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    double: ProviderDouble
    url: str


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as an SDK gives it: what was said, in the order of kinds that both dialects can tell, and its end."""

    said: tuple[Said, ...]
    finish: str
    usage: tuple[int, int, int, int]


@asynccontextmanager
async def running_dialects(**edge: Any) -> AsyncIterator[Dialects]:  # Any: any setting of the edge
    """Everything on free ports while the body runs."""
    async with AsyncExitStack() as stack:
        double = await stack.enter_async_context(running_double())
        settings = Settings(
            auth_target="127.0.0.1:1",
            openai_api_key="sk-upstream-secret",
            openai_base_url=double.openai_url,
            anthropic_api_key="sk-upstream-secret",
            anthropic_base_url=double.anthropic_url,
            not_serving_pause_s=0,
        )
        inference = wire_up(settings, open_shelf(settings, stack).router, Tactics())
        running = await stack.enter_async_context(running_edge(listens=True, inference=inference, **edge))
        by_openai = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=API_KEY, max_retries=0)
        by_anthropic = anthropic.AsyncAnthropic(base_url=f"{running.url}/anthropic", api_key=API_KEY, max_retries=0)
        await stack.enter_async_context(by_openai)
        await stack.enter_async_context(by_anthropic)
        yield Dialects(by_openai, by_anthropic, double, running.url)


async def heard_by_openai(sdk: openai.AsyncOpenAI, fields: Fields, *, streams: bool) -> Heard:
    """The answer to a chat."""
    if not streams:
        completion = await sdk.chat.completions.create(**fields)
        whole = completion.choices[0]
        return _openai_heard(whole.message.model_dump(), whole.finish_reason, completion.usage)
    message: Fields = {"content": None, "refusal": None, "tool_calls": [], "reasoning_details": []}
    finish, usage = "", None
    stream: openai.AsyncStream[ChatCompletionChunk] = await sdk.chat.completions.create(
        **fields, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        message |= chunk.model_extra or {}
        for choice in chunk.choices:
            _gather(message, choice.delta.model_dump(exclude_none=True))
            finish = choice.finish_reason or finish
    return _openai_heard(message, finish, usage)


async def heard_by_anthropic(sdk: anthropic.AsyncAnthropic, fields: Fields, *, streams: bool) -> Heard:
    """The answer to a talk; streamed, as the SDK itself puts it together."""
    if not streams:
        return _anthropic_heard(await sdk.messages.create(**fields))
    async with sdk.messages.stream(**fields) as stream:
        return _anthropic_heard(await stream.get_final_message())


def _gather(message: Fields, delta: Fields) -> None:
    for name in ("content", "refusal"):
        if name in delta:
            message[name] = (message[name] or "") + delta[name]
    for piece in delta.get("tool_calls", []):
        if piece["index"] == len(message["tool_calls"]):
            message["tool_calls"].append({"id": piece["id"], "function": piece["function"]})
        else:
            message["tool_calls"][piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    for piece in delta.get("reasoning_details", []):
        if piece["index"] == len(message["reasoning_details"]):
            message["reasoning_details"].append({"text": "", "signature": "", "data": ""})
        known = message["reasoning_details"][piece["index"]]
        for name in known:
            known[name] += piece.get(name, "")


def _openai_heard(message: Fields, finish: str, usage: Any) -> Heard:
    said: list[Said] = [
        Thought(one.get("text", ""), one.get("signature", ""), one.get("data", ""))
        for one in message.get("reasoning_details") or []
    ]
    if message["content"]:
        said.append(Words(message["content"]))
    said += [
        Call(call["id"], call["function"]["name"], _same(call["function"]["arguments"]))
        for call in message.get("tool_calls") or []
    ]
    if message["refusal"]:
        said.append(Declined(message["refusal"], (message.get("parley") or {}).get("refusal_category")))
    counts = (
        usage.prompt_tokens,
        usage.prompt_tokens_details.cached_tokens,
        usage.completion_tokens,
        usage.completion_tokens_details.reasoning_tokens,
    )
    return Heard(tuple(said), finish, counts)


def _anthropic_heard(message: anthropic.types.Message) -> Heard:
    said: list[Said] = []
    for block in message.content:
        match block.type:
            case "thinking":
                said.append(Thought(block.thinking, block.signature))
            case "redacted_thinking":
                said.append(Thought(encrypted=block.data))
            case "text":
                said.append(Words(block.text))
            case "tool_use":
                said.append(Call(block.id, block.name, _same(json.dumps(block.input))))
    if message.stop_details is not None and message.stop_details.explanation:
        said.append(Declined(message.stop_details.explanation, message.stop_details.category))
    if message.stop_sequence:
        said.append(Stopped(message.stop_sequence))
    usage = message.usage
    thinking = usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else 0
    cached = usage.cache_read_input_tokens or 0
    counts = (usage.input_tokens + cached, cached, usage.output_tokens, thinking)
    return Heard(tuple(said), message.stop_reason or "", counts)


def _same(arguments: str) -> str:
    """Arguments in one spelling: Anthropic's format carries them as an object."""
    return json.dumps(json.loads(arguments), sort_keys=True)
