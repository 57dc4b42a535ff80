"""What one request may cost: bytes and time of its body, and how many requests run at once.

Bytes are counted as they arrive, before anything is parsed, whatever Content-Length says.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.http import SAFE_METHODS
from services.mesh.errors import DocumentTooLarge, InvalidArgument, MeshError, RequestTooLarge, invalid_field
from services.mesh.limiter import InFlightLimiter

MULTIPART_OVERHEAD_BYTES: Final = 64 * 1024
"""Boundaries and part headers around one file."""
BODY_IDLE_S_MAX: Final = 15.0
BODY_S_MIN: Final = 30.0
BODY_BYTES_PER_S: Final = 16 * 1024
"""A body may take 30 s, and a second more for each 16 KiB: 128 kbit/s is slower than any line in use."""

_SLOT_KEY: Final = "parley.slot"
_LENGTH_DIGITS_MAX: Final = 18


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How large a body may be, and the error of one that is larger."""

    bytes_max: int
    error: Callable[[int], MeshError]


def json_limit(bytes_max: int) -> BodyLimit:
    """The limit of ordinary requests."""
    return BodyLimit(
        bytes_max,
        lambda limit: RequestTooLarge(f"a request may have {limit} bytes", metadata={"limit": str(limit)}),
    )


def upload_limit(document_bytes_max: int) -> BodyLimit:
    """The limit of a multipart upload of one document."""
    return BodyLimit(
        document_bytes_max + MULTIPART_OVERHEAD_BYTES,
        lambda _: DocumentTooLarge(
            f"a document may have {document_bytes_max} bytes", metadata={"limit": str(document_bytes_max)}
        ),
    )


class Limited:
    """ASGI application within limits.

    Args:
        app: the application inside.
        limit_of: the body limit of a request.
        places_of: where a request finds a place while it is being answered; streams give theirs back.
    """

    def __init__(
        self, app: ASGIApp, *, limit_of: Callable[[Scope], BodyLimit], places_of: Callable[[Scope], InFlightLimiter]
    ) -> None:
        self._app = app
        self._limit_of = limit_of
        self._places_of = places_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with ExitStack() as slot:
            slot.enter_context(self._places_of(scope).slot())
            scope[_SLOT_KEY] = slot
            limit = self._limit_of(scope)
            length = _content_length(scope)
            if length is not None and length > limit.bytes_max:
                raise limit.error(limit.bytes_max)
            if length is None and scope["method"] in SAFE_METHODS:
                await self._app(scope, receive, send)
                return
            await self._app(scope, _BoundedBody(receive, limit), send)


def release_slot(scope: Scope) -> None:
    """An event stream begins: it has its own bound, and is no longer a request in flight."""
    slot: ExitStack | None = scope.get(_SLOT_KEY)
    if slot is not None:
        slot.close()


class _BoundedBody:
    """ASGI `receive` that counts bytes and seconds until the body has ended."""

    def __init__(self, receive: Receive, limit: BodyLimit) -> None:
        self._receive = receive
        self._limit = limit
        self._bytes = 0
        self._started = monotonic()
        self._has_more = True

    async def __call__(self) -> Message:
        """See ASGI."""
        if not self._has_more:
            return await self._receive()
        allowed_s = BODY_S_MIN + self._bytes / BODY_BYTES_PER_S - (monotonic() - self._started)
        try:
            async with asyncio.timeout(min(BODY_IDLE_S_MAX, allowed_s)):
                message = await self._receive()
        except TimeoutError:
            raise InvalidArgument("the body did not arrive in time") from None
        self._bytes += len(message.get("body", b""))
        self._has_more = message.get("more_body", False)
        if self._bytes > self._limit.bytes_max:
            raise self._limit.error(self._limit.bytes_max)
        return message


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
                raise invalid_field("content-length", "must be a number of bytes")
            return int(value)
    return None
