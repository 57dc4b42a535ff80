"""What a key may still ask, as both vendors tell it in the headers of every answer.

Sources: platform.openai.com/docs/guides/rate-limits (durations such as `6m0s`), docs.anthropic.com/en/api/rate-limits
(RFC 3339 instants), both as the SDKs of November 2026 document them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.mesh.clock import SYSTEM_CLOCK, Clock

# A reset that is further away is no limit per minute, and not what is kept here.
RESET_S_MAX: Final = 600.0

_STEP: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What is left until the next reset; None where the provider did not say.

    Attributes:
        requests_left, tokens_left: in the present window.
        requests_reset_s, tokens_reset_s: seconds until the window is full again.
    """

    requests_left: int | None = None
    requests_reset_s: float = 60.0
    tokens_left: int | None = None
    tokens_reset_s: float = 60.0


def of_openai(headers: Mapping[str, str]) -> Allowance | None:
    """The allowance in `x-ratelimit-*`; None when there is none."""
    requests = _count(headers.get("x-ratelimit-remaining-requests"))
    tokens = _count(headers.get("x-ratelimit-remaining-tokens"))
    if requests is None and tokens is None:
        return None
    return Allowance(
        requests_left=requests,
        requests_reset_s=_duration_s(headers.get("x-ratelimit-reset-requests", "")),
        tokens_left=tokens,
        tokens_reset_s=_duration_s(headers.get("x-ratelimit-reset-tokens", "")),
    )


def of_anthropic(headers: Mapping[str, str], *, clock: Clock = SYSTEM_CLOCK) -> Allowance | None:
    """The allowance in `anthropic-ratelimit-*`; None when there is none."""
    prefix = "anthropic-ratelimit"
    requests = _count(headers.get(f"{prefix}-requests-remaining"))
    tokens = _count(headers.get(f"{prefix}-tokens-remaining"))
    if requests is None and tokens is None:
        return None
    return Allowance(
        requests_left=requests,
        requests_reset_s=_until_s(headers.get(f"{prefix}-requests-reset", ""), clock),
        tokens_left=tokens,
        tokens_reset_s=_until_s(headers.get(f"{prefix}-tokens-reset", ""), clock),
    )


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _duration_s(text: str) -> float:
    steps = _STEP.findall(text)
    seconds = sum(float(figure) * _SECONDS[unit] for figure, unit in steps)
    return min(seconds, RESET_S_MAX) if steps else 60.0


def _until_s(text: str, clock: Clock) -> float:
    try:
        seconds = (datetime.fromisoformat(text) - clock.now()).total_seconds()
    except (ValueError, TypeError):
        return 60.0
    return min(max(seconds, 0.0), RESET_S_MAX)
