"""Messages and their events, as Anthropic's SDKs read them; what is Parley's own stands in a member `parley`.

Every event needs its `event:` line: the SDKs drop those without.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from edge.compat.anthropic.errors import error_members
from edge.compat.generations import Piece
from edge.sse import event
from parley.common.v1 import usage_pb2
from parley.inference.v1 import generation_pb2, generation_service_pb2
from services.mesh.errors import MeshError

EXTENSION: Final = "parley"

_STOP_REASONS: Final = {
    generation_pb2.FINISH_REASON_LENGTH: "max_tokens",
    generation_pb2.FINISH_REASON_CONTENT_FILTER: "refusal",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_use",
}

# The event of most pieces, which differ in their text only.
_TEXT: Final = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":%b}}\n\n'
)

Members = dict[str, object]


class Message:
    """Writes one answer; implements `answering.Form`."""

    def __init__(self, *, identity: str, model: str, request_id: str) -> None:
        self._id = identity
        self._model = model
        self._request_id = request_id
        self._input_tokens = 0
        self._blocks = _Blocks()
        self._is_begun = False

    def whole(self, ending: generation_pb2.Answer) -> Members:
        """See `Form.whole`."""
        parts = ending.parts or [generation_pb2.Part(text=ending.text)]
        content = [block for part in parts if (block := _block(part)) is not None]
        return self._message(ending.model, content, _usage(ending.usage)) | _stop(ending) | _extension(ending)

    def begin(self, context: generation_pb2.ContextReport) -> None:
        """See `Form.begin`; until the provider has counted, the estimate stands."""
        self._input_tokens = (
            context.system_tokens + context.example_tokens + context.history_tokens + context.passage_tokens
        )

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        """See `Form.pieces`."""
        return b"".join([self._start(), *(self._blocks.take(piece) for piece in pieces)])

    def end(self, ending: generation_pb2.Answer) -> bytes:
        """See `Form.end`."""
        delta = {"type": "message_delta", "delta": _stop(ending), "usage": _usage(ending.usage)} | _extension(ending)
        closing = (_named(delta), _named({"type": "message_stop"}))
        return b"".join([self._start(), self._blocks.close(), *closing])

    def failure(self, error: MeshError) -> bytes:
        """See `Form.failure`."""
        return _named(error_members(error, self._request_id))

    def _start(self) -> bytes:
        if self._is_begun:
            return b""
        self._is_begun = True
        usage: Members = {"input_tokens": self._input_tokens, "output_tokens": 0}
        message = self._message(self._model, [], usage) | {"stop_reason": None, "stop_sequence": None}
        return _named({"type": "message_start", "message": message})

    def _message(self, model: str, content: list[Members], usage: Members) -> Members:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "usage": usage,
        }


class _Blocks:
    """Content blocks as they are written; calls of tools may alternate, so they stay open until another comes."""

    def __init__(self) -> None:
        self._count = 0
        self._open: dict[int | None, int] = {}  # index by number of the part; text has none
        self._are_calls = False

    def take(self, piece: Piece) -> bytes:
        """The events of a piece. A refusal's words belong to the end of the message."""
        if isinstance(piece, generation_service_pb2.TextDelta):
            if piece.is_refusal:
                return b""
            opening = b"" if None in self._open else self.close() + self._begin(None, {"type": "text", "text": ""})
            return opening + _TEXT % (self._open[None], orjson.dumps(piece.text))
        if piece.piece.HasField("tool_call"):
            return self._take_call(piece.number, piece.piece.tool_call)
        return self._take_thought(piece.number, piece.piece.reasoning)

    def close(self) -> bytes:
        """The ends of all open blocks."""
        ends = [_named({"type": "content_block_stop", "index": index}) for index in self._open.values()]
        self._open.clear()
        return b"".join(ends)

    def _take_call(self, number: int, call: generation_pb2.ToolCall) -> bytes:
        text = b""
        if number not in self._open:
            text = b"" if self._are_calls else self.close()
            text += self._begin(number, {"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        if not call.arguments:
            return text
        return text + self._delta(number, {"type": "input_json_delta", "partial_json": call.arguments})

    def _take_thought(self, number: int, thought: generation_pb2.Reasoning) -> bytes:
        text = b""
        if number not in self._open:
            text = self.close()
            block: Members = {"type": "thinking", "thinking": "", "signature": ""}
            if thought.encrypted:
                block = {"type": "redacted_thinking", "data": thought.encrypted}
            text += self._begin(number, block)
        if thought.text:
            text += self._delta(number, {"type": "thinking_delta", "thinking": thought.text})
        if thought.signature:
            text += self._delta(number, {"type": "signature_delta", "signature": thought.signature})
        return text

    def _begin(self, number: int | None, block: Members) -> bytes:
        index = self._open[number] = self._count
        self._count += 1
        self._are_calls = block["type"] == "tool_use"
        return _named({"type": "content_block_start", "index": index, "content_block": block})

    def _delta(self, number: int | None, delta: Members) -> bytes:
        return _named({"type": "content_block_delta", "index": self._open[number], "delta": delta})


def _block(part: generation_pb2.Part) -> Members | None:
    match part.WhichOneof("kind"):
        case "text" if part.text:
            return {"type": "text", "text": part.text, "citations": None}
        case "tool_call":
            call = part.tool_call
            return {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
        case "reasoning" if part.reasoning.encrypted:
            return {"type": "redacted_thinking", "data": part.reasoning.encrypted}
        case "reasoning":
            return {"type": "thinking", "thinking": part.reasoning.text, "signature": part.reasoning.signature}
    return None


def _input(arguments: str) -> Members:
    """Arguments as the object that the SDKs expect, also when the model wrote something else."""
    try:
        found = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {"unparsed": arguments}


def _stop(answer: generation_pb2.Answer) -> Members:
    refusal = "".join(part.refusal for part in answer.parts)
    reason = _STOP_REASONS.get(answer.finish_reason, "stop_sequence" if answer.stop_text else "end_turn")
    told = {"type": "refusal", "category": answer.refusal_category or None, "explanation": refusal or None}
    details = told if reason == "refusal" else None
    return {"stop_reason": reason, "stop_sequence": answer.stop_text or None, "stop_details": details}


def _usage(usage: usage_pb2.Usage) -> Members:
    """What was consumed, in Anthropic's words: its input leaves out what was read from a cache."""
    return {
        "input_tokens": usage.input_tokens - usage.cached_input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _extension(answer: generation_pb2.Answer) -> Members:
    reason = generation_pb2.FinishReason.Name(answer.finish_reason).removeprefix("FINISH_REASON_").lower()
    extension: Members = {"model": answer.model, "finish_reason": reason}
    if answer.usage.HasField("cost_micros"):
        extension["cost_micros"] = answer.usage.cost_micros
    return {EXTENSION: extension}


def _named(members: Members) -> bytes:
    return event(members, name=str(members["type"]))
