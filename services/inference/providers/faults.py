"""What the vendors' errors mean: one table per vendor from status and words to a kind of failure.

The provider's own words never leave this module: they may hold keys, organization names and prompts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final, TypeAlias

from services.inference.providers.allowances import Allowance
from services.inference.providers.failures import Failure, Kind
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    MeshError,
    ModelUnknown,
    ProviderMisconfigured,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)

# A provider that asks for more patience than this is treated as asking for this much.
RETRY_AFTER_S_MAX: Final = 3_600.0
# Asked when a provider limits the rate and does not say for how long.
RETRY_AFTER_S_DEFAULT: Final = 1.0

_HTTP_OK_MAX: Final = 399
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error as a vendor reported it.

    Attributes:
        status: HTTP status, or the one that its type stands for.
        code: the vendor's codes and types, and its words where it has no code for a thing; only ever searched.
        retry_after_s: what the vendor asked for.
        allowance: what the vendor's headers said of the key.
    """

    status: int
    code: str
    retry_after_s: float | None = None
    allowance: Allowance | None = None


@dataclass(slots=True)
class Call:
    """A call under way; `is_begun` once the provider has sent the head of an answer."""

    is_begun: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a vendor's table: the first one that fits tells the kind.

    Attributes:
        statuses: that it fits.
        kind: what they mean.
        words: must be found in the vendor's codes and words, where given.
    """

    statuses: range | frozenset[int]
    kind: Kind
    words: re.Pattern[str] | None = None

    def fits(self, fault: Fault) -> bool:
        """Whether this row tells what `fault` is."""
        return fault.status in self.statuses and (self.words is None or self.words.search(fault.code) is not None)


Table: TypeAlias = tuple[Row, ...]


def _on(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# A success that is none is a redirect or an answer that the SDK could not read; 600 and more do not exist.
_ANY_SERVER_ERROR: Final = Row(range(_SERVER_ERROR, 600), Kind.SERVER_ERROR)
_NO_SUCCESS: Final = Row(range(_HTTP_OK_MAX + 1), Kind.SERVER_ERROR)
_ANY_REFUSAL: Final = Row(range(_HTTP_OK_MAX + 1, _SERVER_ERROR), Kind.REFUSED)
_REFUSALS: Final = _on(400, 409, 422)

# Codes of api.openai.com (2026-11), vLLM, llama.cpp and Azure.
OPENAI: Final[Table] = (
    Row(_on(401, 403), Kind.KEY_REFUSED),
    Row(_on(402), Kind.QUOTA_SPENT),
    Row(_on(404), Kind.MODEL_UNKNOWN),
    Row(_on(408, 504, 524), Kind.SLOW),
    Row(_on(413), Kind.CONTEXT_LENGTH),
    Row(_on(429), Kind.QUOTA_SPENT, _words(r"insufficient_quota|billing|credit balance")),
    Row(_on(429), Kind.RATE_LIMITED),
    Row(
        _REFUSALS,
        Kind.CONTEXT_LENGTH,
        _words(
            r"context_length_exceeded|exceed_context_size|string_above_max_length|prompt is too long|"
            r"maximum context length|context (?:window|size|length)|too many (?:input )?tokens"
        ),
    ),
    Row(_REFUSALS, Kind.CONTENT_FILTERED, _words(r"content_filter|content_policy|responsible_?ai|safety_violation")),
    Row(_REFUSALS, Kind.QUOTA_SPENT, _words(r"insufficient_quota|billing")),
    Row(_on(503, 529), Kind.OVERLOADED),
    _ANY_SERVER_ERROR,
    _NO_SUCCESS,
    _ANY_REFUSAL,
)
# Types of api.anthropic.com (2026-11); it tells a prompt that is too long, and a spent account, only in words.
ANTHROPIC: Final[Table] = (
    Row(_on(401, 403), Kind.KEY_REFUSED),
    Row(_on(402), Kind.QUOTA_SPENT),
    Row(_on(404), Kind.MODEL_UNKNOWN),
    Row(_on(408, 504), Kind.SLOW),
    Row(_on(413), Kind.CONTEXT_LENGTH),
    Row(_on(429), Kind.QUOTA_SPENT, _words(r"billing|credit balance")),
    Row(_on(429), Kind.RATE_LIMITED),
    Row(_REFUSALS, Kind.CONTEXT_LENGTH, _words(r"prompt is too long|context (?:window|size|length)|too many tokens")),
    Row(_REFUSALS, Kind.CONTENT_FILTERED, _words(r"content_policy|content_filter|safety_violation")),
    Row(_REFUSALS, Kind.QUOTA_SPENT, _words(r"credit balance|billing")),
    Row(_on(503, 529), Kind.OVERLOADED),
    _ANY_SERVER_ERROR,
    _NO_SUCCESS,
    _ANY_REFUSAL,
)

_ERRORS: Final[Mapping[Kind, tuple[type[MeshError], str]]] = MappingProxyType(
    {
        Kind.RATE_LIMITED: (RateLimited, "the provider limits the rate of calls"),
        Kind.QUOTA_SPENT: (ProviderMisconfigured, "the operator's account at the provider is spent"),
        Kind.KEY_REFUSED: (ProviderMisconfigured, "the provider refused the operator's key"),
        Kind.MODEL_UNKNOWN: (ModelUnknown, "the provider has no such model"),
        Kind.CONTEXT_LENGTH: (ContextLengthExceeded, "the prompt does not fit the model"),
        Kind.CONTENT_FILTERED: (ContentFiltered, "the provider's content filter refused the prompt"),
        Kind.SLOW: (ProviderTimeout, "the provider did not answer in time"),
        Kind.REFUSED: (ProviderRejected, "the provider refused the request"),
    }
)

# Parameters that a caller can set; only these names are ever repeated to it.
_PARAMETER: Final = re.compile(r"\b(temperature|top_p|stop|stop_sequences|seed|max_tokens|max_completion_tokens)\b")

# Errors inside a stream, or of a batch, carry no status, only a type or code.
_STATUS_BY_TYPE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "invalid_request_error": 400,
        "context_length_exceeded": 400,
        "content_filter": 400,
        "authentication_error": 401,
        "invalid_api_key": 401,
        "billing_error": 402,
        "billing_hard_limit_reached": 402,
        "permission_error": 403,
        "not_found_error": 404,
        "model_not_found": 404,
        "request_too_large": 413,
        "rate_limit_error": 429,
        "rate_limit_exceeded": 429,
        "insufficient_quota": 429,
        "token_limit_exceeded": 429,  # more tokens than the account may have waiting in batches
        "timeout_error": 504,
        "request_timeout": 504,
        "overloaded_error": 529,
    }
)


def failure_of(fault: Fault, table: Table, model: str) -> Failure:
    """The failure that a vendor's error is; `model` is the name that the client asked for."""
    kind = next((row.kind for row in table if row.fits(fault)), Kind.SERVER_ERROR)
    return Failure(kind, _error(kind, fault, model), allowance=fault.allowance)


def status_of(*types: str, default: int = _SERVER_ERROR) -> int:
    """The status that the first known type or code stands for; by default that of a server error when none is known."""
    return next((_STATUS_BY_TYPE[kind] for kind in types if kind in _STATUS_BY_TYPE), default)


def unreachable(model: str, *, is_begun: bool) -> Failure:
    """No connection, or one that broke."""
    error = ProviderUnavailable("the provider cannot be reached", metadata={"model": model})
    return Failure(Kind.CUT if is_begun else Kind.UNREACHABLE, error)


def corrupt(model: str) -> Failure:
    """Bytes that no sound provider sends."""
    return Failure(Kind.CORRUPT, ProviderUnavailable("the provider's answer is garbled", metadata={"model": model}))


def too_slow(model: str) -> Failure:
    """No answer in time."""
    return Failure(Kind.SLOW, ProviderTimeout("the provider did not answer in time", metadata={"model": model}))


def retry_after_s(headers: Mapping[str, str], *, clock: Clock = SYSTEM_CLOCK) -> float | None:
    """Seconds to wait, from `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110, section 10.2.3)."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _within_bounds(milliseconds / 1000)
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is None and value:
        try:
            seconds = (parsedate_to_datetime(value) - clock.now()).total_seconds()
        except (TypeError, ValueError):
            return None
    return None if seconds is None else _within_bounds(seconds)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number else None  # noqa: PLR0124 - NaN is the number that differs from itself


def _within_bounds(seconds: float) -> float:
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)


def _error(kind: Kind, fault: Fault, model: str) -> MeshError:
    """The error in words for a client."""
    error, words = _ERRORS.get(kind, (ProviderUnavailable, "the provider cannot answer now"))
    parameter = _PARAMETER.search(fault.code) if kind is Kind.REFUSED else None
    if parameter:
        words = f"{words}: it does not take this {parameter[1]!r}"
    wait_s = fault.retry_after_s
    if kind is Kind.RATE_LIMITED and wait_s is None:
        wait_s = RETRY_AFTER_S_DEFAULT
    return error(words, metadata={"model": model}, retry_after_s=wait_s)
