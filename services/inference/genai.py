"""The one line that is written of each answer, in the words of OpenTelemetry's conventions for generative AI.

The conventions (opentelemetry.io/docs/specs/semconv/gen-ai) are still in development, so their names stand here alone.
Nothing of a prompt or an answer is ever told.
"""

from dataclasses import dataclass
from typing import Final

from services.inference.model import Answer, CacheHit, Usage
from services.mesh import telemetry

_EVENT: Final = "generation"
_HIT: Final = "cached_answer"
_log = telemetry.logger("inference.generation")


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
        "gen_ai.operation.name": "chat",
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
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": asked,
        "gen_ai.response.model": model,
        "cache": hit.kind.value,
        "age_s": round(hit.age_s, 1),
        "outcome": "ok",
        "cost_micros": 0,
        "duration_ms": round(seconds * 1_000, 1),
    }
    _log.info(_HIT, **fields)
