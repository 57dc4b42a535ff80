"""Ids that follow a request through every process: set at the border, read by clients and log lines."""

import re
from contextvars import ContextVar, Token
from typing import Final

REQUEST_ID_KEY: Final = "x-request-id"
"""Name of the gRPC metadata key, and of the HTTP header at the edge."""
REQUEST_ID_LENGTH_MAX: Final = 64

_FIT: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{REQUEST_ID_LENGTH_MAX}}}", re.ASCII)
_REQUEST_ID: Final[ContextVar[str]] = ContextVar("parley_request_id", default="")


class request:  # noqa: N801 - used as a function is; a generator would cost three times as much, on every call
    """Work inside belongs to the request `request_id`."""

    __slots__ = ("_id", "_token")

    def __init__(self, request_id: str) -> None:
        self._id = request_id

    def __enter__(self) -> None:
        self._token: Token[str] = _REQUEST_ID.set(self._id)

    def __exit__(self, *_ended: object) -> None:
        _REQUEST_ID.reset(self._token)


def request_id() -> str:
    """Id of the request that the work at hand belongs to; empty outside of one."""
    return _REQUEST_ID.get()


def is_request_id(text: str) -> bool:
    """Whether a caller's own id is fit to be logged: short, and letters, digits, `-`, `_`, `.` only."""
    return _FIT.fullmatch(text) is not None
