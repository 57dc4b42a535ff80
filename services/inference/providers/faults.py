"""What the vendors' errors mean: one table from status and code to a MeshError.

The provider's own words never leave this module: they may hold keys, organization names and prompts.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final, TypeAlias

from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    MeshError,
    ModelUnknown,
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

# Codes of api.openai.com (2026-11), vLLM and llama.cpp; Anthropic tells a prompt that is too long only in words.
_TOO_LONG: Final = re.compile(
    r"context_length_exceeded|exceed_context_size|string_above_max_length|request_too_large|prompt is too long|"
    r"maximum context length|context (?:window|size|length)|too many (?:input )?tokens",
    re.IGNORECASE,
)
_FILTERED: Final = re.compile(r"content_filter|content_policy|responsible_?ai|safety_violation", re.IGNORECASE)
_OUT_OF_CREDIT: Final = re.compile(r"insufficient_quota|billing|credit balance", re.IGNORECASE)
# Parameters that a caller can set; only these names are ever repeated to it.
_PARAMETER: Final = re.compile(r"\b(temperature|top_p|stop|stop_sequences|seed|max_tokens|max_completion_tokens)\b")

# Errors inside a stream carry no status, only a type or code.
_STATUS_BY_TYPE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "invalid_request_error": 400,
        "context_length_exceeded": 400,
        "content_filter": 400,
        "authentication_error": 401,
        "invalid_api_key": 401,
        "billing_error": 402,
        "permission_error": 403,
        "not_found_error": 404,
        "model_not_found": 404,
        "request_too_large": 413,
        "rate_limit_error": 429,
        "rate_limit_exceeded": 429,
        "insufficient_quota": 429,
        "timeout_error": 504,
        "overloaded_error": 529,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error as a vendor reported it.

    Attributes:
        status: HTTP status, or the one that its type stands for.
        code: the vendor's codes and types, and its words where it has no code for a thing; only ever searched.
        retry_after_s: what the vendor asked for.
    """

    status: int
    code: str
    retry_after_s: float | None = None


_Maker: TypeAlias = Callable[[Fault, str], MeshError]


def to_mesh_error(fault: Fault, model: str) -> MeshError:
    """The error that a client may see; `model` is the name it asked for."""
    return _BY_STATUS.get(fault.status, _by_class)(fault, model)


def status_of(*types: str) -> int:
    """The status that the first known type or code stands for; that of a server error when none is known."""
    return next((_STATUS_BY_TYPE[kind] for kind in types if kind in _STATUS_BY_TYPE), _SERVER_ERROR)


def unreachable(model: str) -> ProviderUnavailable:
    """No connection, or one that broke."""
    return ProviderUnavailable("the provider cannot be reached", metadata={"model": model})


def malformed(model: str) -> ProviderUnavailable:
    """Bytes that no sound provider sends."""
    return ProviderUnavailable("the provider's answer is garbled", metadata={"model": model})


def too_slow(model: str) -> ProviderTimeout:
    """No answer in time."""
    return ProviderTimeout("the provider did not answer in time", metadata={"model": model})


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


def _bad_request(fault: Fault, model: str) -> MeshError:
    if _TOO_LONG.search(fault.code):
        return _too_long(fault, model)
    if _FILTERED.search(fault.code):
        return ContentFiltered("the provider's content filter refused the prompt", metadata={"model": model})
    if _OUT_OF_CREDIT.search(fault.code):
        return _no_credit(fault, model)
    parameter = _PARAMETER.search(fault.code)
    about = f": it does not take this {parameter[1]!r}" if parameter else ""
    return ProviderRejected(f"the provider refused the request{about}", metadata={"model": model})


def _key_refused(_fault: Fault, model: str) -> MeshError:
    return ProviderRejected("the provider refused the operator's key", metadata={"model": model})


def _no_credit(_fault: Fault, model: str) -> MeshError:
    return ProviderRejected("the operator's account at the provider is spent", metadata={"model": model})


def _unknown_model(_fault: Fault, model: str) -> MeshError:
    return ModelUnknown(f"the provider has no model {model!r}", metadata={"model": model})


def _too_long(_fault: Fault, model: str) -> MeshError:
    return ContextLengthExceeded("the prompt does not fit the model", metadata={"model": model})


def _timed_out(_fault: Fault, model: str) -> MeshError:
    return too_slow(model)


def _rate_limited(fault: Fault, model: str) -> MeshError:
    if _OUT_OF_CREDIT.search(fault.code):
        return _no_credit(fault, model)
    wait_s = RETRY_AFTER_S_DEFAULT if fault.retry_after_s is None else fault.retry_after_s
    return RateLimited("the provider limits the rate of calls", metadata={"model": model}, retry_after_s=wait_s)


def _by_class(fault: Fault, model: str) -> MeshError:
    if fault.status >= _SERVER_ERROR or fault.status <= _HTTP_OK_MAX:
        return ProviderUnavailable(
            "the provider cannot answer now", metadata={"model": model}, retry_after_s=fault.retry_after_s
        )
    return _bad_request(fault, model)


_BY_STATUS: Final[Mapping[int, _Maker]] = MappingProxyType(
    {
        400: _bad_request,
        401: _key_refused,
        402: _no_credit,
        403: _key_refused,
        404: _unknown_model,
        408: _timed_out,
        413: _too_long,
        422: _bad_request,
        429: _rate_limited,
        504: _timed_out,
    }
)
