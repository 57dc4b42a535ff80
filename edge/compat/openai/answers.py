"""Completions and their chunks, as OpenAI's SDKs read them; what is Parley's own stands in a member `parley`.

Thoughts, of which OpenAI's own format has none, are written as DeepSeek (`reasoning_content`) and OpenRouter
(`reasoning_details`) do, which many clients know.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from edge.compat.generations import Piece
from edge.compat.openai.errors import error_members
from edge.sse import event, frame
from edge.transcoding.encoding import Encoders
from parley.common.v1 import usage_pb2
from parley.conversation.v1 import message_pb2
from parley.inference.v1 import generation_pb2, generation_service_pb2
from services.mesh.errors import MeshError

DONE: Final = frame(b"[DONE]")
EXTENSION: Final = "parley"

_FINISH_REASONS: Final = {
    message_pb2.FINISH_REASON_LENGTH: "length",
    message_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}
_GENERATED_FINISH_REASONS: Final = {
    generation_pb2.FINISH_REASON_LENGTH: "length",
    generation_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}

_TOLD: Final = ("stop_text", "refusal_category")
"""What OpenAI's own format has no word for."""
_TEXT_HEAD: Final = b',"choices":[{"index":0,"delta":{"content":'
_TEXT_TAIL: Final = b'},"finish_reason":null}]}\n\n'

Members = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an answer ended: the same for a stored turn and for a stateless generation.

    Attributes:
        parts: the whole answer.
    """

    model: str
    finish_reason: str
    usage: usage_pb2.Usage
    extension: Members
    parts: Sequence[generation_pb2.Part]


class Completion:
    """Writes one answer; implements `answering.Form`."""

    def __init__(self, *, identity: str, created: int, model: str, includes_usage: bool) -> None:
        self._id = identity
        self._created = created
        self._includes_usage = includes_usage
        self._common = {"id": identity, "object": "chat.completion.chunk", "created": created, "model": model}
        self._text_head = b"data: " + orjson.dumps(self._common)[:-1] + _TEXT_HEAD
        self._is_first = True
        self._calls: dict[int, int] = {}
        self._thoughts: dict[int, int] = {}

    def whole(self, ending: Ending) -> Members:
        """See `Form.whole`."""
        message = _message(ending.parts) | {EXTENSION: ending.extension}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ending.finish_reason}
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": ending.model,
            "choices": [choice],
            "usage": usage_members(ending.usage),
        }

    def begin(self, context: generation_pb2.ContextReport) -> None:
        """See `Form.begin`."""

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        """See `Form.pieces`."""
        return b"".join([self._text(piece) or self._delta(self._piece(piece)) for piece in pieces])

    def end(self, ending: Ending) -> bytes:
        """See `Form.end`."""
        delta: Members = {"role": "assistant", "content": ""} if self._is_first else {}
        choice: Members = {"index": 0, "delta": delta, "finish_reason": ending.finish_reason}
        chunks = self._chunk([choice], {EXTENSION: ending.extension})
        if self._includes_usage:
            chunks += self._chunk([], {"usage": usage_members(ending.usage)})
        return chunks + DONE

    def failure(self, error: MeshError) -> bytes:
        """See `Form.failure`."""
        return event(error_members(error))

    def _text(self, piece: Piece) -> bytes:
        """The chunk of most pieces, which differ in their text only; empty for another kind of piece."""
        if self._is_first or not isinstance(piece, generation_service_pb2.TextDelta) or piece.is_refusal:
            return b""
        return b"%b%b%b" % (self._text_head, orjson.dumps(piece.text), _TEXT_TAIL)

    def _piece(self, piece: Piece) -> Members:
        if isinstance(piece, generation_service_pb2.TextDelta):
            return {"refusal" if piece.is_refusal else "content": piece.text}
        if piece.piece.HasField("tool_call"):
            return {"tool_calls": [self._call(piece.number, piece.piece.tool_call)]}
        place = self._thoughts.setdefault(piece.number, len(self._thoughts))
        return _thought_members([(place, piece.piece.reasoning)])

    def _call(self, number: int, call: generation_pb2.ToolCall) -> Members:
        if number in self._calls:
            return {"index": self._calls[number], "function": {"arguments": call.arguments}}
        index = self._calls[number] = len(self._calls)
        return {"index": index} | _call_members(call)

    def _delta(self, delta: Members) -> bytes:
        if self._is_first:  # it says who speaks
            self._is_first = False
            delta = {"role": "assistant", **delta}
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])

    def _chunk(self, choices: list[Members], more: Members | None = None) -> bytes:
        return event({**self._common, "choices": choices, **(more or {})})


class Endings:
    """Makes endings of what the services say."""

    def __init__(self, encoders: Encoders) -> None:
        self._citation = encoders.of(message_pb2.Citation.DESCRIPTOR)
        self._trace = encoders.of(message_pb2.RetrievalTrace.DESCRIPTOR)
        self._passage_citation = encoders.of(generation_pb2.PassageCitation.DESCRIPTOR)

    def of_message(self, message: message_pb2.Message) -> Ending:
        """The ending of a stored answer."""
        extension: Members = {
            "conversation_id": message.conversation_id,
            "turn_id": message.turn_id,
            "message_id": message.id,
            "model": message.model,
            "finish_reason": _lower(message_pb2.FinishReason.Name(message.finish_reason)),
            "citations": [self._citation(citation) for citation in message.citations],
        }
        if message.HasField("retrieval"):
            extension["retrieval"] = self._trace(message.retrieval)
        if message.usage.HasField("cost_micros"):
            extension["cost_micros"] = message.usage.cost_micros
        return Ending(
            model=message.model,
            finish_reason=_FINISH_REASONS.get(message.finish_reason, "stop"),
            usage=message.usage,
            extension=extension,
            parts=[generation_pb2.Part(text=part.text.text) for part in message.parts],
        )

    def of_answer(self, answer: generation_pb2.Answer) -> Ending:
        """The ending of an answer that nobody stores."""
        extension: Members = {
            "model": answer.model,
            "finish_reason": _lower(generation_pb2.FinishReason.Name(answer.finish_reason)),
            "citations": [self._passage_citation(citation) for citation in answer.citations],
        }
        if answer.usage.HasField("cost_micros"):
            extension["cost_micros"] = answer.usage.cost_micros
        extension |= {name: told for name in _TOLD if (told := getattr(answer, name))}
        is_refused = any(part.HasField("refusal") for part in answer.parts)
        # OpenAI's own refusals end like any answer; `content_filter` means that a filter cut it off.
        reason = "stop" if is_refused else _GENERATED_FINISH_REASONS.get(answer.finish_reason, "stop")
        return Ending(
            model=answer.model,
            finish_reason=reason,
            usage=answer.usage,
            extension=extension,
            parts=answer.parts or [generation_pb2.Part(text=answer.text)],
        )


def usage_members(usage: usage_pb2.Usage) -> Members:
    """What was consumed, in OpenAI's words."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _message(parts: Iterable[generation_pb2.Part]) -> Members:
    """A whole message; OpenAI's has one text, then the calls, whatever their order was."""
    texts = [part.text for part in parts if part.HasField("text")]
    refusals = [part.refusal for part in parts if part.HasField("refusal")]
    calls = [part.tool_call for part in parts if part.HasField("tool_call")]
    thoughts = [part.reasoning for part in parts if part.HasField("reasoning")]
    message: Members = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
    }
    if calls:
        message["tool_calls"] = [_call_members(call) for call in calls]
    return message | (_thought_members(enumerate(thoughts)) if thoughts else {})


def _call_members(call: generation_pb2.ToolCall) -> Members:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _thought_members(thoughts: Iterable[tuple[int, generation_pb2.Reasoning]]) -> Members:
    details: list[Members] = []
    texts: list[str] = []
    for index, thought in thoughts:
        texts.append(thought.text)
        if thought.encrypted:
            details.append({"type": "reasoning.encrypted", "data": thought.encrypted, "index": index})
            continue
        detail: Members = {"type": "reasoning.text", "text": thought.text, "index": index}
        details.append(detail | ({"signature": thought.signature} if thought.signature else {}))
    text = "".join(texts)
    return ({"reasoning_content": text} if text else {}) | {"reasoning_details": details}


def _lower(name: str) -> str:
    return name.removeprefix("FINISH_REASON_").lower()
