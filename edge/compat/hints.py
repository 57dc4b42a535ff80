"""What SDKs shall do about an error: both vendors' read the same headers."""

import math
from typing import Final

from edge.errors import error_headers
from edge.http import HeaderList
from services.mesh.errors import MeshError, Reason

# Where a repeat by the SDK helps. Everywhere else the platform has tried what can be tried, or a repeat ends the same.
_REPEATED: Final = frozenset({Reason.RATE_LIMITED, Reason.OVERLOADED, Reason.UNAVAILABLE, Reason.RETRIEVAL_UNAVAILABLE})
# What errors of providers name: inference has repeated those calls itself, and its budget for it is spent.
_SPENT: Final = "model"


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
