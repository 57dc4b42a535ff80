"""Completions and their chunks, as OpenAI's SDKs read them; what is Parley's own stands in a member `parley`."""

from dataclasses import dataclass
from typing import Final

from edge.sse import event, frame
from edge.transcoding.encoding import Encoders
from parley.common.v1 import usage_pb2
from parley.conversation.v1 import message_pb2
from parley.inference.v1 import generation_pb2

DONE: Final = frame(b"[DONE]")
EXTENSION: Final = "parley"

_FINISH_REASONS: Final = {
    message_pb2.FINISH_REASON_LENGTH: "length",
    message_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}
_GENERATED_FINISH_REASONS: Final = {
    generation_pb2.FINISH_REASON_LENGTH: "length",
    generation_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}

Members = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an answer ended: the same for a stored turn and for a stateless generation."""

    model: str
    finish_reason: str
    usage: usage_pb2.Usage
    extension: Members


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of an answer, and its ending with the last one."""

    text: str
    ending: Ending | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What all chunks of one answer share."""

    id: str
    created: int
    model: str

    def completion(self, text: str, ending: Ending) -> Members:
        """The whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None, EXTENSION: ending.extension}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ending.finish_reason}
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": ending.model,
            "choices": [choice],
            "usage": usage_members(ending.usage),
        }

    def text_chunk(self, text: str, *, is_first: bool) -> bytes:
        """A piece of the answer; the first one says who speaks."""
        role: Members = {"role": "assistant"} if is_first else {}
        return self._chunk([{"index": 0, "delta": role | {"content": text}, "finish_reason": None}])

    def last_chunks(self, ending: Ending, *, is_first: bool, includes_usage: bool) -> bytes:
        """The end of the answer."""
        delta: Members = {"role": "assistant", "content": ""} if is_first else {}
        chunks = self._chunk(
            [{"index": 0, "delta": delta, "finish_reason": ending.finish_reason}], {EXTENSION: ending.extension}
        )
        if includes_usage:
            chunks += self._chunk([], {"usage": usage_members(ending.usage)})
        return chunks + DONE

    def _chunk(self, choices: list[Members], more: Members | None = None) -> bytes:
        return event(
            {
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                **(more or {}),
            }
        )


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
        return Ending(
            model=answer.model,
            finish_reason=_GENERATED_FINISH_REASONS.get(answer.finish_reason, "stop"),
            usage=answer.usage,
            extension=extension,
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


def _lower(name: str) -> str:
    return name.removeprefix("FINISH_REASON_").lower()
