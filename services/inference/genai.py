"""The one line that is written of each answer, and the span of each attempt at one, in OpenTelemetry's words.

The conventions for generative AI (opentelemetry.io/docs/specs/semconv/gen-ai) are still in development, so their names
stand here alone.
Nothing of a prompt or an answer is ever told.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from services.inference.model import Answer, CacheHit, Usage
from services.mesh import spans, telemetry

_EVENT: Final = "generation"
_HIT: Final = "cached_answer"
_OPERATION: Final = "chat"
_log = telemetry.logger("inference.generation")

Question: TypeAlias = spans.Asked
"""The span of one attempt: from the moment that the prompt goes out to the answer's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How an answer came about.

    Attributes:
        asked: model, alias or route; empty for the default.
        outcome: `ok`, `abandoned`, or the reason of the error.
        attempts: calls of providers.
        switches: times another target went on.
        seconds: from the wish to its end.
    """

    asked: str
    outcome: str
    attempts: int
    switches: int
    seconds: float


def tell(history: History, answer: Answer | None, spent: Usage) -> None:
    """Writes the line: how it came about, what came of it, if it came to its end, and what all attempts consumed."""
    fields: dict[str, object] = {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.request.model": history.asked,
        "gen_ai.usage.input_tokens": spent.input_tokens,
        "gen_ai.usage.output_tokens": spent.output_tokens,
        "outcome": history.outcome,
        "attempts": history.attempts,
        "switches": history.switches,
        "cost_micros": spent.cost_micros,
        "duration_ms": round(history.seconds * 1_000, 1),
    }
    if answer is not None:
        fields["gen_ai.response.model"] = answer.model
        fields["gen_ai.response.finish_reasons"] = [answer.finish_reason.value]
    _log.info(_EVENT, **fields)


def tell_hit(*, asked: str, hit: CacheHit, model: str, seconds: float) -> None:
    """Writes the line of an answer that was not made for its call: where it came from, and how old it is."""
    fields: dict[str, object] = {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.request.model": asked,
        "gen_ai.response.model": model,
        "cache": hit.kind.value,
        "age_s": round(hit.age_s, 1),
        "outcome": "ok",
        "cost_micros": 0,
        "duration_ms": round(seconds * 1_000, 1),
    }
    _log.info(_HIT, **fields)


def ask(provider: str, model: str) -> Question | None:
    """A prompt goes out; None where no span is made."""
    if not spans.are_sent():
        return None
    names = {"gen_ai.operation.name": _OPERATION, "gen_ai.provider.name": provider, "gen_ai.request.model": model}
    return Question(f"{_OPERATION} {model}", names)


def answered(question: Question | None, usage: Usage, *, outcome: str, first_s: float) -> None:
    """The answer came to its end."""
    if question is not None:
        ending: spans.Attributes = {
            "gen_ai.response.finish_reasons": [outcome],
            "gen_ai.response.time_to_first_chunk": first_s,
        }
        question.ended({**_consumed(usage), **ending})


def broke_off(question: Question | None, usage: Usage | None, *, why: str) -> None:
    """The answer did not come to its end: `why` is the kind of failure, empty where nobody wanted it any more."""
    if question is not None:
        consumed = {} if usage is None else _consumed(usage)
        question.ended({**consumed, **({"error.type": why} if why else {})}, error=why)


def _consumed(usage: Usage) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
