"""Calls at the client's end of a tunnel: what stubs give, with the interface of `grpc.aio`'s calls of four shapes.

A call is begun on a link, which may refuse it, or be lost before the server can have seen it: then it is begun again on
another one, and nobody notices. Whatever a server may have begun is repeated only where its contract calls that safe,
and only until the server's first word.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NoReturn, Protocol

import grpc
import grpc.aio

from services.mesh.tunnel.frames import MESSAGE_BYTES_MAX, Metadata

_CODES: Final = {int(code.value[0]): code for code in grpc.StatusCode}
OK: Final = 0
_CANCELLED: Final = int(grpc.StatusCode.CANCELLED.value[0])
UNKNOWN: Final = int(grpc.StatusCode.UNKNOWN.value[0])
_DEADLINE_EXCEEDED: Final = int(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
EXHAUSTED: Final = int(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
UNAVAILABLE: Final = int(grpc.StatusCode.UNAVAILABLE.value[0])
_RETRYABLE: Final = frozenset({UNAVAILABLE, _CANCELLED})
"""CANCELLED from a server is what it did not begin in shutting down."""

LOST_TEXT: Final = "the connection was lost before the call had ended"


@dataclass(frozen=True, slots=True)
class Method:
    """A stub's method. Any: messages of all services.

    Attributes:
        path: on the wire.
        serialize: makes bytes of a request.
        parse: makes a response of bytes.
        is_retryable: whether a repeat is safe whatever became of the call before.
        streams_requests, streams_responses: its shape, as far as a link has to know it.
    """

    path: str
    serialize: Callable[[Any], bytes] | None
    parse: Callable[[bytes], Any] | None
    is_retryable: bool
    streams_requests: bool
    streams_responses: bool


class Link(Protocol):
    """What carries calls to one process."""

    def begin(self, call: "Call") -> None:
        """Begins a call; gives it its number."""
        ...

    def send(self, call: "Call", message: bytes) -> Awaitable[None] | None:
        """Sends one message of a call that streams; gives what to wait for where there is no room."""
        ...

    def end(self, call: "Call") -> None:
        """The call sends no more messages."""
        ...

    def cancel(self, call: "Call") -> None:
        """The call has ended here."""
        ...

    def grant(self, call: "Call", size: int) -> None:
        """So many bytes of the call's responses were taken."""
        ...


class Starter(Protocol):
    """The channel, as a call sees it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """That of all its calls: Python asks the system for the process with every look for the running one."""
        ...

    def start(self, call: "Call") -> None:
        """Begins a call on a link, as soon as there is one."""
        ...

    def repeats(self, call: "Call", metadata: Metadata) -> bool:
        """Whether a call that failed is begun again by and by."""
        ...

    def succeeded(self) -> None:
        """A call that could have been begun again did not need to be."""
        ...

    def ended(self, call: "Call") -> None:
        """A call that had no link has ended."""
        ...


class Call:
    """See the module: what calls of all shapes have."""

    __slots__ = (
        "__weakref__",
        "_begun",
        "_callbacks",
        "_code",
        "_credit",
        "_details",
        "_headers",
        "_inbox",
        "_initial",
        "_is_cancelled",
        "_is_committed",
        "_over",
        "_parts",
        "_parts_bytes",
        "_poller",
        "_reader",
        "_taken",
        "_timer",
        "_trailing",
        "_writer",
        "attempts",
        "deadline",
        "is_done",
        "is_half_closed",
        "link",
        "metadata",
        "method",
        "number",
        "request",
        "starter",
        "waits_for_ready",
    )

    def __init__(
        self, starter: Starter, method: Method, metadata: str, timeout_s: float | None, *, waits_for_ready: bool
    ) -> None:
        self.starter = starter
        self.method = method
        self.metadata = metadata
        self.waits_for_ready = waits_for_ready
        self.request: bytes | None = None
        self.link: Link | None = None
        self.number = self.attempts = 0
        self.is_done = self._is_cancelled = self._is_committed = self.is_half_closed = False
        self._code = OK
        self._details = ""
        self._initial: Metadata | None = None
        self._trailing: Metadata = ()
        self._inbox: deque[bytes] = deque()
        self._parts: list[bytes] | None = None
        self._parts_bytes = self._taken = self._credit = 0
        self._over: asyncio.Future[None] | None = None
        self._begun: asyncio.Future[None] | None = None
        self._headers: asyncio.Future[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._poller: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[Any], None]] | None = None  # Any: the call, as gRPC types it
        self.deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            self.deadline = monotonic() + timeout_s
            self._timer = starter.loop.call_later(timeout_s, self._expire)

    # ------------------------------------------------------------------------------------------------- from the link

    def begun(self, link: Link, number: int, window: int) -> None:
        """A link has begun it; a server takes `window` bytes of it at first."""
        self.link, self.number, self._credit = link, number, window
        _wake(self._begun)

    def told_headers(self, metadata: Metadata) -> None:
        """Initial metadata."""
        self._is_committed = True
        if self._initial is None:
            self._initial = metadata
            _wake(self._headers)

    def told_part(self, body: bytes) -> None:
        """A part of a message; one that grows too large ends the call."""
        if self._parts is None:
            self._parts = []
        self._parts.append(body)
        self._parts_bytes += len(body)
        if self._parts_bytes > MESSAGE_BYTES_MAX:
            self._leave(EXHAUSTED, f"Received message larger than max ({self._parts_bytes} vs. {MESSAGE_BYTES_MAX})")

    def told(self, body: bytes) -> None:
        """A message, or its last part."""
        if self._parts is not None:
            body = b"".join((*self._parts, body))
            self._parts, self._parts_bytes = None, 0
        if not self._is_committed:
            self._is_committed, self.request = True, None
            _wake(self._headers)
        self._inbox.append(body)
        _wake(self._reader)

    def told_credit(self, size: int) -> None:
        """The server has taken so many bytes."""
        self._credit += size
        if self._credit > 0:
            _wake(self._writer)

    def told_end(self, code: int, details: str, metadata: Metadata) -> None:
        """The server's last word; or not, where a repeat is safe."""
        self.link = None
        if self.method.is_retryable:
            if code not in _RETRYABLE:
                self.starter.succeeded()
            elif not self._is_committed and self.request is not None and self.starter.repeats(self, metadata):
                self._parts, self._parts_bytes = None, 0  # what there was of a message is none of the next one's
                return
        self.finish(code, details, metadata)

    def told_lost(self, *, may_have_begun: bool) -> None:
        """The link will say nothing more of it."""
        if may_have_begun or (self.method.streams_requests and self._is_committed):
            self.told_end(UNAVAILABLE, LOST_TEXT, ())
            return
        self.link = None
        self.starter.start(self)

    def finish(self, code: int, details: str = "", metadata: Metadata = ()) -> None:
        """The call has ended, whoever says so."""
        if self.is_done:
            return
        self.is_done = True
        self._code, self._details, self._trailing = code, details, metadata
        self.request = self._parts = None
        if self._timer is not None:
            self._timer.cancel()
        if self._callbacks is not None:
            for callback in self._callbacks:
                self.starter.loop.call_soon(callback, self)  # so that what they raise does not hit the tunnel
        for waiter in (self._over, self._begun, self._headers, self._reader, self._writer):
            _wake(waiter)
        if self._poller is not None and self._poller is not asyncio.current_task():
            self._poller.cancel()

    # -------------------------------------------------------------------------------------------------- for its caller

    def cancel(self) -> bool:
        """See `grpc.aio.Call`."""
        if self.is_done:
            return False
        self._is_cancelled = True
        self._inbox.clear()
        self._leave(_CANCELLED, "Locally cancelled by application!")
        return True

    def cancelled(self) -> bool:
        """See `grpc.aio.Call`."""
        return self.is_done and self._code == _CANCELLED

    def done(self) -> bool:
        """See `grpc.aio.Call`."""
        return self.is_done

    def time_remaining(self) -> float | None:
        """See `grpc.aio.Call`."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:  # Any: as above
        """See `grpc.aio.Call`."""
        if self.is_done:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """See `grpc.aio.Call`."""
        while self._initial is None and not self._is_committed and not self.is_done:
            self._headers = self._headers or self.starter.loop.create_future()
            await self._shared(self._headers)
        return grpc.aio.Metadata(*(self._initial or ()))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """See `grpc.aio.Call`."""
        await self.ended()
        return grpc.aio.Metadata(*self._trailing)

    async def code(self) -> grpc.StatusCode:
        """See `grpc.aio.Call`."""
        await self.ended()
        return _CODES.get(self._code, grpc.StatusCode.UNKNOWN)

    async def details(self) -> str:
        """See `grpc.aio.Call`."""
        await self.ended()
        return self._details

    async def debug_error_string(self) -> str:
        """See `grpc.aio.Call`: nothing that `details` does not say."""
        return await self.details()

    async def wait_for_connection(self) -> None:
        """See `grpc.aio.Call`."""
        while self.link is None and not self.is_done:
            if self._begun is None or self._begun.done():
                self._begun = self.starter.loop.create_future()
            await self._shared(self._begun)
        if self.is_done:
            self.raise_for_status()

    async def ended(self) -> None:
        """Returns when the call has ended."""
        while not self.is_done:
            if self._over is None:
                self._over = self.starter.loop.create_future()
            await self._shared(self._over)

    def raise_for_status(self) -> None:
        """Raises what the end of the call means to its caller; nothing where it is OK."""
        if self._is_cancelled:
            raise asyncio.CancelledError
        if self._code != OK:
            self._raise()

    def _raise(self) -> NoReturn:
        raise grpc.aio.AioRpcError(
            _CODES.get(self._code, grpc.StatusCode.UNKNOWN),
            grpc.aio.Metadata(*(self._initial or ())),
            grpc.aio.Metadata(*self._trailing),
            self._details,
            self._details,
        )

    async def _shared(self, waiter: "asyncio.Future[None]") -> None:
        # One future for all who wait. Who is cancelled in waiting gives the call up, as with gRPC.
        try:
            await waiter
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _expire(self) -> None:
        if not self.is_done:
            self._leave(_DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _leave(self, code: int, details: str) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.cancel(self)
        else:
            self.starter.ended(self)
        self.finish(code, details)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
