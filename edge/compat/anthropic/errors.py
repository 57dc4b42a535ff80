"""Errors in Anthropic's form, and what its SDKs shall do about them."""

from datetime import UTC, datetime, timedelta
from typing import Final

from edge.compat.hints import field_of, hint_headers, spent_limit
from edge.errors import Answer, message_of
from edge.http import JSON, HeaderList
from edge.transcoding.encoding import dump
from services.mesh.errors import HTTP_STATUS, MeshError, Reason

REQUEST_ID: Final = "request-id"
"""What Anthropic's SDKs read; `x-request-id` says the same on every surface."""
OVERLOADED: Final = 529
"""Anthropic's own status, by which its SDKs tell overload from other trouble."""

# Where a type goes with more than a status.
_TYPE_OF_REASON: Final = {
    Reason.MODEL_UNKNOWN: "not_found_error",
    Reason.OVERLOADED: "overloaded_error",
    Reason.CANCELLED: "api_error",
}
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    501: "api_error",
    503: "api_error",
    504: "timeout_error",
}


def anthropic_error(error: MeshError, request_id: str) -> Answer:
    """The answer to a failed request."""
    status = OVERLOADED if error.reason is Reason.OVERLOADED else HTTP_STATUS[error.reason]
    headers = [*hint_headers(error), *_limit_headers(error), (REQUEST_ID, request_id)]
    return Answer(status, dump(error_members(error, request_id)), JSON, headers)


def error_members(error: MeshError, request_id: str) -> dict[str, object]:
    """The body of a failed request; also the data of a stream's last event."""
    status = HTTP_STATUS[error.reason]
    kind = _TYPE_OF_REASON.get(error.reason) or _TYPES.get(status, "invalid_request_error")
    field = field_of(error)
    words = message_of(error)
    return {
        "type": "error",
        "error": {
            "type": kind,
            "message": words if field is None or words.startswith(field) else f"{field}: {words}",
            "details": {"error_code": error.reason.value.lower()},
        },
        "request_id": request_id,
    }


def _limit_headers(error: MeshError) -> HeaderList:
    spent = spent_limit(error)
    if spent is None:
        return []
    prefix, resets = f"anthropic-ratelimit-{spent.measure}", datetime.now(UTC) + timedelta(seconds=spent.wait_s)
    found = [(f"{prefix}-limit", spent.limit), (f"{prefix}-reset", resets.isoformat(timespec="seconds"))]
    return found if spent.remaining is None else [*found, (f"{prefix}-remaining", spent.remaining)]
