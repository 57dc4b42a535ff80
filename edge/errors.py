"""Errors on HTTP: RFC 9457 problems, made of nothing but what a MeshError says.

Surfaces that speak a vendor's dialect register their own form for their paths.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import orjson

from edge.http import HeaderList
from services.mesh.errors import HTTP_STATUS, CredentialsInvalid, MeshError, MethodNotAllowed, Reason
from services.mesh.status import INTERNAL_TEXT, public

PROBLEM_JSON: Final = "application/problem+json"
DOCUMENTATION: Final = "/docs#"
"""Where `type` points: the reason's entry in the documentation page."""
CLIENT_CLOSED: Final = 499

_TITLES: Final = {status.value: status.phrase for status in HTTPStatus} | {CLIENT_CLOSED: "Client Closed Request"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, ready to be sent."""

    status: int
    body: bytes
    media_type: str
    headers: HeaderList = field(default_factory=tuple)


Render = Callable[[MeshError, str], Answer]
"""Makes the answer of an error and a request id."""


class Surfaces:
    """Which dialect errors take on which paths; problems unless a prefix says otherwise."""

    def __init__(self, by_prefix: dict[str, Render]) -> None:
        self._by_prefix = tuple(by_prefix.items())

    def answer(self, error: BaseException, *, path: str, request_id: str) -> Answer:
        """The answer to a request for `path` that ended with `error`, whatever kind of exception it is."""
        shown = public(error)
        for prefix, render in self._by_prefix:
            if path.startswith(prefix):
                return render(shown, request_id)
        return problem(shown, request_id)


def problem(error: MeshError, request_id: str) -> Answer:
    """The problem document (RFC 9457) of an error."""
    status = HTTP_STATUS[error.reason]
    return Answer(status, orjson.dumps(problem_members(error, request_id)), PROBLEM_JSON, error_headers(error))


def problem_members(error: MeshError, request_id: str) -> dict[str, object]:
    """Members of the problem document; also the data of an `error` event."""
    status = HTTP_STATUS[error.reason]
    members: dict[str, object] = {
        "type": f"{DOCUMENTATION}{error.reason}",
        "title": _TITLES[status],
        "status": status,
        "detail": message_of(error),
        "reason": error.reason.value,
        "request_id": request_id,
    }
    if error.reason is Reason.INTERNAL:
        return members
    if error.metadata:
        members["metadata"] = dict(error.metadata)
    if error.fields:
        members["errors"] = [{"field": item.field, "description": item.description} for item in error.fields]
    if error.retry_after_s is not None:
        members["retry_after_s"] = error.retry_after_s
    return members


def message_of(error: MeshError) -> str:
    """What a person may read about an error; a bug of ours always says the same."""
    return INTERNAL_TEXT if error.reason is Reason.INTERNAL else error.message


def error_headers(error: MeshError) -> HeaderList:
    """Headers that belong to an error whatever its dialect."""
    headers: list[tuple[str, str]] = []
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    if isinstance(error, CredentialsInvalid):
        headers.append(("www-authenticate", 'Bearer realm="parley"'))
    if isinstance(error, MethodNotAllowed) and "allow" in error.metadata:
        headers.append(("allow", error.metadata["allow"]))
    return headers
