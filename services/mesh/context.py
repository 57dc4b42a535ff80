"""Ids that follow a request through every process: set at the border, read by clients and log lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

REQUEST_ID_KEY: Final = "x-request-id"
"""Name of the gRPC metadata key, and of the HTTP header at the edge."""
REQUEST_ID_LENGTH_MAX: Final = 64

_REQUEST_ID: Final[ContextVar[str]] = ContextVar("parley_request_id", default="")


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """Work inside belongs to the request `request_id`."""
    token = _REQUEST_ID.set(request_id)
    try:
        yield
    finally:
        _REQUEST_ID.reset(token)


def request_id() -> str:
    """Id of the request that the work at hand belongs to; empty outside of one."""
    return _REQUEST_ID.get()


def is_request_id(text: str) -> bool:
    """Whether a caller's own id is fit to be logged: short, and letters, digits, `-`, `_`, `.` only."""
    if not 0 < len(text) <= REQUEST_ID_LENGTH_MAX or not text.isascii():
        return False
    return all(character.isalnum() or character in "-_." for character in text)
