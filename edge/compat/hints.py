"""What SDKs shall do about an error: both vendors' read the same headers."""

import math
from dataclasses import dataclass
from typing import Final

from edge.errors import error_headers
from edge.http import HeaderList
from services.mesh.errors import MeshError, Reason

# Where a repeat by the SDK helps. Everywhere else the platform has tried what can be tried, or a repeat ends the same.
_REPEATED: Final = frozenset({Reason.RATE_LIMITED, Reason.OVERLOADED, Reason.UNAVAILABLE, Reason.RETRIEVAL_UNAVAILABLE})
# What errors of providers name: inference has repeated those calls itself, and its budget for it is spent.
_SPENT: Final = "model"
_PER_MINUTE: Final = "_per_minute"


@dataclass(frozen=True, slots=True)
class SpentLimit:
    """A limit that a call met.

    Attributes:
        measure: `requests` or `tokens`.
        limit: of them per minute.
        wait_s: until there is room.
        remaining: how much is left of it; None where nobody knows.
    """

    measure: str
    limit: str
    wait_s: float
    remaining: str | None


def spent_limit(error: MeshError) -> SpentLimit | None:
    """The limit per minute that an error tells of; None for other errors."""
    name = error.metadata.get("limit", "")
    limit = error.metadata.get(name)
    if error.reason is not Reason.RATE_LIMITED or limit is None or not name.endswith(_PER_MINUTE):
        return None
    measure = name.removesuffix(_PER_MINUTE)
    # Fewer tokens than the call wanted may still be some; fewer requests than one are none.
    return SpentLimit(measure, limit, error.retry_after_s or 0.0, "0" if measure == "requests" else None)


def hint_headers(error: MeshError) -> HeaderList:
    """Headers of an error: when, and whether, to ask again."""
    headers = [*error_headers(error), ("x-should-retry", "true" if is_repeated(error) else "false")]
    if error.retry_after_s is not None:  # to the millisecond, where the standard's header has whole seconds
        headers.append(("retry-after-ms", str(math.ceil(error.retry_after_s * 1000))))
    return headers


def is_repeated(error: MeshError) -> bool:
    """Whether the caller's own repeat makes sense."""
    return error.reason in _REPEATED and _SPENT not in error.metadata


def field_of(error: MeshError) -> str | None:
    """The parameter at fault, as the vendors name it."""
    if not error.fields:
        return None
    return error.fields[0].field.removeprefix("parameters.").removeprefix("prompt.")
