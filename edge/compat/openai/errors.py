"""Errors in OpenAI's form, and what its SDKs shall do about them."""

from typing import Final

from edge.compat.hints import field_of, hint_headers, spent_limit
from edge.errors import Answer, message_of
from edge.http import JSON, HeaderList
from edge.transcoding.encoding import dump
from services.mesh.errors import HTTP_STATUS, MeshError, Reason

# Names that SDKs and their users know; every other reason is its own code in lower case.
_CODES: Final = {
    Reason.CREDENTIALS_INVALID: "invalid_api_key",
    Reason.MODEL_UNKNOWN: "model_not_found",
    Reason.QUOTA_EXHAUSTED: "insufficient_quota",
    Reason.RATE_LIMITED: "rate_limit_exceeded",
    Reason.CONTENT_FILTERED: "content_filter",
    Reason.INTERNAL: "internal_error",
}
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


def openai_error(error: MeshError, _request_id: str) -> Answer:
    """The answer to a failed request."""
    headers = [*hint_headers(error), *_limit_headers(error)]
    return Answer(HTTP_STATUS[error.reason], dump(error_members(error)), JSON, headers)


def error_members(error: MeshError) -> dict[str, object]:
    """The body of a failed request; also the data of a stream's last event."""
    return {
        "error": {
            "message": message_of(error),
            "type": _TYPES.get(HTTP_STATUS[error.reason], "invalid_request_error"),
            "param": field_of(error),
            "code": _CODES.get(error.reason, error.reason.value.lower()),
        }
    }


def _limit_headers(error: MeshError) -> HeaderList:
    spent = spent_limit(error)
    if spent is None:
        return []
    found = [
        (f"x-ratelimit-limit-{spent.measure}", spent.limit),
        (f"x-ratelimit-reset-{spent.measure}", f"{spent.wait_s:.3f}s"),
    ]
    return found if spent.remaining is None else [*found, (f"x-ratelimit-remaining-{spent.measure}", spent.remaining)]
