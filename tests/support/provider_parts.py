"""What a model may say besides text, as the streams and whole answers of both vendors carry it; for provider doubles.

OpenAI's own chat completions show no thoughts: those here are as vLLM, DeepSeek and OpenRouter write them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

USAGE: Final = {"input": 120, "cached": 20, "output": 30, "reasoning": 5}

Json = dict[str, Any]  # Any: the vendors' JSON


@dataclass(frozen=True, slots=True)
class Words:
    """Text."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool; `arguments` are JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning: signed and readable, or encrypted."""

    text: str = ""
    signature: str = ""
    encrypted: str = ""


@dataclass(frozen=True, slots=True)
class Declined:
    """A refusal; Anthropic's has a category."""

    text: str
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The answer ended at a stop text."""

    text: str


Said: TypeAlias = Words | Call | Thought | Declined | Stopped


def openai_events(said: Sequence[Said], model: str) -> Iterator[bytes]:
    """The chunks of an answer; calls alternate in pieces, as they may."""
    calls = [part for part in said if isinstance(part, Call)]
    thoughts = [part for part in said if isinstance(part, Thought)]
    stops = [{"stop_reason": part.text} for part in said if isinstance(part, Stopped)]
    yield _chunk(model, [_choice({"role": "assistant", "content": ""})])
    for index, thought in enumerate(thoughts):
        yield from (_chunk(model, [_choice(detail)]) for detail in _details(thought, index))
    for part in said:
        if isinstance(part, Words | Declined):
            name = "content" if isinstance(part, Words) else "refusal"
            yield from (_chunk(model, [_choice({name: piece})]) for piece in halves(part.text))
    for call in _calls(calls):
        yield _chunk(model, [_choice({"tool_calls": [call]})])
    end = _choice({}) | {"finish_reason": "tool_calls" if calls else "stop"}
    yield _chunk(model, [end | (stops[0] if stops else {})])
    yield _chunk(model, [], _openai_usage())
    yield b"data: [DONE]\n\n"


def openai_whole(said: Sequence[Said], model: str) -> Json:
    """A whole answer."""
    message: Json = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    thoughts = [part for part in said if isinstance(part, Thought)]
    if any(thought.signature or thought.encrypted for thought in thoughts):
        message["reasoning_details"] = [_detail(thought, index) for index, thought in enumerate(thoughts)]
    elif thoughts:
        message["reasoning_content"] = "".join(thought.text for thought in thoughts)
    ending: Json = {"finish_reason": "stop"}
    for part in said:
        match part:
            case Words(text):
                message["content"] = (message["content"] or "") + text
            case Declined(text):
                message["refusal"] = (message["refusal"] or "") + text
            case Call():
                call = {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
                message.setdefault("tool_calls", []).append(call)
                ending["finish_reason"] = "tool_calls"
            case Stopped(text):
                ending["stop_reason"] = text
            case Thought():
                pass
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    choice = {"index": 0, "message": message, "logprobs": None, **ending}
    return {**head, "choices": [choice], "usage": _openai_usage()}


def anthropic_whole(said: Sequence[Said], model: str) -> Json:
    """A whole answer."""
    content: list[Json] = []
    for part in said:
        match part:
            case Words(text):
                content.append({"type": "text", "text": text})
            case Call():
                block = {"type": "tool_use", "id": part.id, "name": part.name, "input": json.loads(part.arguments)}
                content.append(block)
            case Thought() if part.encrypted:
                content.append({"type": "redacted_thinking", "data": part.encrypted})
            case Thought():
                content.append({"type": "thinking", "thinking": part.text, "signature": part.signature})
            case Declined() | Stopped():
                pass
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content}
    begun, settled = _anthropic_usage()
    return head | _anthropic_ending(said) | {"usage": begun | settled}


def anthropic_events(said: Sequence[Said], model: str) -> Iterator[bytes]:
    """The events of an answer."""
    begun, settled = _anthropic_usage()
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": model}
    yield _event("message_start", message={**message, "usage": begun | {"output_tokens": 1}})
    blocks = [part for part in said if isinstance(part, Words | Call | Thought)]
    for index, part in enumerate(blocks):
        yield from _block(index, part)
    yield _event("ping")
    yield _event("message_delta", delta=_anthropic_ending(said), usage=settled)
    yield _event("message_stop")


def halves(text: str) -> tuple[str, ...]:
    """A text in pieces, none of them empty."""
    middle = len(text) // 2
    return tuple(piece for piece in (text[:middle], text[middle:]) if piece)


def _openai_usage() -> Json:
    return {
        "prompt_tokens": USAGE["input"],
        "completion_tokens": USAGE["output"],
        "total_tokens": USAGE["input"] + USAGE["output"],
        "prompt_tokens_details": {"cached_tokens": USAGE["cached"]},
        "completion_tokens_details": {"reasoning_tokens": USAGE["reasoning"]},
    }


def _anthropic_usage() -> tuple[Json, Json]:
    """What is counted before an answer, and after it."""
    begun = {"input_tokens": USAGE["input"] - USAGE["cached"], "cache_read_input_tokens": USAGE["cached"]}
    thinking = {"thinking_tokens": USAGE["reasoning"]}
    return begun, {"output_tokens": USAGE["output"], "output_tokens_details": thinking}


def _anthropic_ending(said: Sequence[Said]) -> Json:
    ending: Json = {"stop_reason": "end_turn", "stop_sequence": None}
    for part in said:
        match part:
            case Declined(text, category):
                details = {"type": "refusal", "category": category, "explanation": text}
                ending = {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
            case Stopped(text):
                ending = {"stop_reason": "stop_sequence", "stop_sequence": text}
            case Call():
                ending["stop_reason"] = "tool_use"
            case Words() | Thought():
                pass
    return ending


def _detail(thought: Thought, index: int) -> Json:
    if thought.encrypted:
        return {"type": "reasoning.encrypted", "data": thought.encrypted, "index": index}
    return {"type": "reasoning.text", "text": thought.text, "signature": thought.signature, "index": index}


def _details(thought: Thought, index: int) -> Iterator[Json]:
    if thought.encrypted:
        yield {"reasoning_details": [{"type": "reasoning.encrypted", "data": thought.encrypted, "index": index}]}
        return
    if not thought.signature:
        yield from ({"reasoning_content": piece} for piece in halves(thought.text))
        return
    for piece in halves(thought.text):
        yield {"reasoning_details": [{"type": "reasoning.text", "text": piece, "index": index}]}
    yield {"reasoning_details": [{"type": "reasoning.text", "signature": thought.signature, "index": index}]}


def _calls(calls: Sequence[Call]) -> Iterator[Json]:
    for index, call in enumerate(calls):
        function = {"name": call.name, "arguments": ""}
        yield {"index": index, "id": call.id, "type": "function", "function": function}
    for half in range(2):
        for index, call in enumerate(calls):
            piece = halves(call.arguments)[half:][:1]
            if piece:
                yield {"index": index, "function": {"arguments": piece[0]}}


def _block(index: int, part: Words | Call | Thought) -> Iterator[bytes]:
    block, deltas = _begun(part)
    yield _event("content_block_start", index=index, content_block=block)
    for delta in deltas:
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


def _begun(part: Words | Call | Thought) -> tuple[Json, list[Json]]:
    match part:
        case Words(text):
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in halves(text)]
        case Call():
            block = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
            pieces = halves(part.arguments) if part.arguments != "{}" else ()
            return block, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    if part.encrypted:
        return {"type": "redacted_thinking", "data": part.encrypted}, []
    deltas: list[Json] = [{"type": "thinking_delta", "thinking": piece} for piece in halves(part.text)]
    if part.signature:
        deltas.append({"type": "signature_delta", "signature": part.signature})
    return {"type": "thinking", "thinking": "", "signature": ""}, deltas


def _choice(delta: Json) -> Json:
    return {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}


def _chunk(model: str, choices: list[Json], usage: Json | None = None) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return b"data: " + json.dumps({**head, "choices": choices, "usage": usage}).encode() + b"\n\n"


def _event(name: str, **members: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + json.dumps({"type": name, **members}).encode() + b"\n\n"
