"""What operators see of inference; labels are closed sets, so a model that the catalog does not know is `other`."""

from typing import Final

from services.inference.model import FinishReason, Usage
from services.inference.providers.failures import Kind
from services.inference.routing import Target
from services.mesh.errors import Reason
from services.mesh.telemetry import counter, histogram

# First tokens take from 1 ms (built-in model) to minutes (reasoning models).
_FIRST_TOKEN_BUCKETS_S: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
# The bounds of gen_ai.client.operation.duration, every second one, and what long answers take beyond.
_ANSWER_BUCKETS_S: Final = (0.01, 0.04, 0.16, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)

_ANSWERS: Final = counter(
    "parley_inference_answers", "Answers that came to their end.", ["provider", "model", "finish_reason"]
)
_TOKENS: Final = counter(
    "parley_inference_tokens", "Tokens by kind: input, cached_input, output, reasoning.", ["provider", "model", "kind"]
)
_COST: Final = counter(
    "parley_inference_cost_micros", "Millionths of a US dollar, for calls with a known price.", ["provider", "model"]
)
_UNPRICED: Final = counter(
    "parley_inference_unpriced_answers", "Answers whose cost is not known.", ["provider", "model"]
)
_FIRST_TOKEN: Final = histogram(
    "parley_inference_first_token_seconds",
    "From the start of an attempt to its first text.",
    ["provider", "model"],
    buckets=_FIRST_TOKEN_BUCKETS_S,
)
_ANSWER: Final = histogram(
    "parley_inference_answer_seconds",
    "From the start of an attempt to its end, of those that came to it.",
    ["provider", "model"],
    buckets=_ANSWER_BUCKETS_S,
)
_ERRORS: Final = counter("parley_inference_provider_errors", "Attempts that failed.", ["provider", "model", "kind"])
_SWITCHES: Final = counter(
    "parley_inference_provider_switches", "Times another model went on.", ["from_provider", "to_provider", "reason"]
)
_ABANDONED: Final = counter(
    "parley_inference_abandoned_answers", "Attempts that the caller left before their end.", ["provider", "model"]
)


_REPEATS: Final = counter(
    "parley_inference_repeats", "Calls of a target that had failed the same answer.", ["provider"]
)


def repeated(target: Target) -> None:
    """The same target is asked again."""
    _REPEATS.labels(target.profile.name).inc()


def first_token(target: Target, seconds: float) -> None:
    """The first text of an attempt has come."""
    _FIRST_TOKEN.labels(*_labels(target)).observe(seconds)


def answered(target: Target, finish_reason: FinishReason, usage: Usage, seconds: float) -> None:
    """An attempt came to its end."""
    _ANSWER.labels(*_labels(target)).observe(seconds)
    _ANSWERS.labels(*_labels(target), finish_reason.value).inc()
    _consumed(target, usage)


def collected(target: Target, finish_reason: FinishReason, usage: Usage) -> None:
    """An answer came out of a vendor's batch, whose time says nothing of the target's."""
    _ANSWERS.labels(*_labels(target), finish_reason.value).inc()
    _consumed(target, usage)


def abandoned(target: Target, usage: Usage) -> None:
    """The caller left; what was consumed so far still counts."""
    _ABANDONED.labels(*_labels(target)).inc()
    _consumed(target, usage)


def failed(target: Target, kind: Kind, usage: Usage | None = None) -> None:
    """An attempt failed; `usage` is what it consumed when it had begun."""
    _ERRORS.labels(*_labels(target), kind.value).inc()
    if usage is not None:
        _consumed(target, usage)


def switched(source: Target, to: Target, reason: Reason) -> None:
    """Another model goes on."""
    _SWITCHES.labels(source.profile.name, to.profile.name, reason.value).inc()


def _consumed(target: Target, usage: Usage) -> None:
    labels = _labels(target)
    _TOKENS.labels(*labels, "input").inc(usage.input_tokens)
    _TOKENS.labels(*labels, "cached_input").inc(usage.cached_input_tokens)
    _TOKENS.labels(*labels, "output").inc(usage.output_tokens)
    _TOKENS.labels(*labels, "reasoning").inc(usage.reasoning_tokens)
    if usage.cost_micros is None:
        _UNPRICED.labels(*labels).inc()
    else:
        _COST.labels(*labels).inc(usage.cost_micros)


def _labels(target: Target) -> tuple[str, str]:
    return target.profile.name, "other" if target.card is None else target.name
