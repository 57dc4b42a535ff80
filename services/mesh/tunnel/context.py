"""One call at the server's end of a tunnel: what its servicer sees as `grpc.aio.ServicerContext`, and its one task."""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NoReturn, Self

import grpc
import grpc.aio

from services.mesh import telemetry
from services.mesh.tunnel.frames import (
    HEADERS,
    LAST,
    MESSAGE,
    MESSAGE_BYTES_MAX,
    MESSAGE_COST_BYTES,
    STATUS,
    WINDOW,
    WINDOW_BYTES,
    Metadata,
    Opening,
    ending,
    head,
    headers,
)
from services.mesh.tunnel.served import Carrier, Served

_OK: Final = 0
_UNKNOWN: Final = int(grpc.StatusCode.UNKNOWN.value[0])
_CANCELLED: Final = int(grpc.StatusCode.CANCELLED.value[0])
_DEADLINE_EXCEEDED: Final = int(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
_INTERNAL: Final = int(grpc.StatusCode.INTERNAL.value[0])
_EXHAUSTED: Final = int(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
_CODES: Final = {int(code.value[0]): code for code in grpc.StatusCode}

_log = telemetry.logger("mesh.tunnel")

Wire = Sequence[tuple[str, str | bytes]]


class TunnelContext:
    """See the module. Has what `grpc.aio.ServicerContext` has; `frames.py` says what is sent."""

    __slots__ = (
        "_callbacks",
        "_carrier",
        "_code",
        "_credit",
        "_deadline",
        "_details",
        "_has_sent_headers",
        "_inbox",
        "_inbox_bytes",
        "_is_cancelled",
        "_is_done",
        "_is_half_closed",
        "_metadata",
        "_number",
        "_parts",
        "_parts_bytes",
        "_reader",
        "_served",
        "_taken",
        "_task",
        "_timer",
        "_trailing",
        "_writer",
    )

    def __init__(self, carrier: Carrier, number: int, served: Served, opening: Opening, *, window: int) -> None:
        self._carrier = carrier
        self._number = number
        self._served = served
        self._metadata = opening.metadata
        self._credit = window
        self._code: grpc.StatusCode | int = _OK
        self._details = ""
        self._trailing: Wire = ()
        self._has_sent_headers = self._is_done = self._is_cancelled = self._is_half_closed = False
        self._inbox: deque[bytes] | None = None
        self._parts: list[bytes] = []
        self._inbox_bytes = self._parts_bytes = self._taken = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[Any], None]] = []  # Any: the context, as gRPC types it
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if opening.timeout_s is not None:
            self._deadline = monotonic() + opening.timeout_s
            self._timer = carrier.loop.call_later(opening.timeout_s, self._expire)

    def begin(self, tasks: set[asyncio.Task[None]], first: bytes | None = None) -> None:
        """Starts the handler: with its request, or for one that streams, without."""
        self._task = task = self._carrier.loop.create_task(self._run(first))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    @property
    def waits_for_request(self) -> bool:
        """Whether the handler has not begun, because its one request is not there yet."""
        return self._task is None and not self._is_done

    @property
    def is_streamed(self) -> bool:
        """Whether its client may send more than one message."""
        return self._served.streams_requests

    def part(self, body: bytes) -> None:
        """A part of a message; a message that is too large ends the call."""
        self._parts_bytes += len(body)
        if self._parts_bytes > MESSAGE_BYTES_MAX:
            self.fail(_EXHAUSTED, f"Received message larger than max ({self._parts_bytes} vs. {MESSAGE_BYTES_MAX})")
            return
        self._parts.append(body)

    def whole(self, body: bytes) -> bytes:
        """The message whose last part `body` is."""
        if not self._parts:
            return body
        parts, self._parts, self._parts_bytes = self._parts, [], 0
        return b"".join((*parts, body))

    def received(self, message: bytes) -> None:
        """A message of a client that streams; one that was told to wait, and does not, ends the call."""
        if self._inbox_bytes >= WINDOW_BYTES:
            self.fail(_EXHAUSTED, f"Received more than was asked for ({self._inbox_bytes} vs. {WINDOW_BYTES})")
            return
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(message)
        self._inbox_bytes += len(message) + MESSAGE_COST_BYTES
        _wake(self._reader)

    def half_closed(self) -> None:
        """The client sends no more."""
        self._is_half_closed = True
        if self.waits_for_request and not self._served.streams_requests:
            self.fail(_INTERNAL, "the call ended without a request")
        _wake(self._reader)

    def granted(self, size: int) -> None:
        """The client has taken so many bytes."""
        self._credit += size
        if self._credit > 0:
            _wake(self._writer)

    def cancel(self) -> None:
        """The client has left, or the tunnel is cut: nobody is told of the end."""
        if not self._is_done:
            self._is_cancelled = True
            self._end()
        if self._task is not None:
            self._task.cancel()

    def fail(self, code: int, details: str) -> None:
        """Ends the call with a status of the tunnel's own."""
        if not self._is_done:
            self._send_status(code, details, ())
        if self._task is not None:
            self._task.cancel()

    async def read(self) -> Any:  # Any: a request, or gRPC's EOF
        """See `grpc.aio.ServicerContext`."""
        while not self._inbox:
            if self._is_half_closed or self._is_done:
                return grpc.aio.EOF
            self._reader = self._carrier.loop.create_future()
            await self._reader
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message) + MESSAGE_COST_BYTES
        self._taken += len(message) + MESSAGE_COST_BYTES
        if self._taken >= WINDOW_BYTES // 2 and not self._is_half_closed:
            self._carrier.outbox.put(head(self._number, WINDOW), b"%d" % self._taken)
            self._taken = 0
        parse = self._served.parse
        return message if parse is None else parse(message)

    async def write(self, message: Any) -> None:  # Any: a response
        """See `grpc.aio.ServicerContext`; waits while the client does not take what it has."""
        if self._is_done:
            raise asyncio.InvalidStateError("the call has ended")
        self._has_sent_headers = True
        data = self._serialized(message)
        if data is None:
            raise asyncio.CancelledError
        outbox = self._carrier.outbox
        outbox.send(self._number, MESSAGE, data)
        self._credit -= len(data) + MESSAGE_COST_BYTES
        while self._credit <= 0 and not self._is_done:
            self._writer = self._carrier.loop.create_future()
            await self._writer
        if outbox.is_full:
            await outbox.room()

    async def send_initial_metadata(self, initial_metadata: Wire) -> None:
        """See `grpc.aio.ServicerContext`."""
        if self._has_sent_headers:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._has_sent_headers = True
        if not self._is_done:
            self._carrier.outbox.send(self._number, HEADERS, headers(tuple(initial_metadata)))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Wire = ()) -> NoReturn:
        """See `grpc.aio.ServicerContext`."""
        if not self._is_done:
            self._code, self._details = code, details or self._details
            self._trailing = tuple(trailing_metadata) or self._trailing
            self._send_status(int(code.value[0]), self._details, self._trailing)
        raise grpc.aio.AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """See `grpc.aio.ServicerContext`."""
        await self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))

    def set_trailing_metadata(self, trailing_metadata: Wire) -> None:
        """See `grpc.aio.ServicerContext`."""
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Wire:
        """See `grpc.aio.ServicerContext`."""
        return self._trailing

    def invocation_metadata(self) -> Metadata:
        """See `grpc.aio.ServicerContext`."""
        return self._metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """See `grpc.aio.ServicerContext`."""
        self._code = code

    def code(self) -> grpc.StatusCode | int:
        """See `grpc.aio.ServicerContext`; 0 while nothing is set, as there."""
        return self._code

    def set_details(self, details: str) -> None:
        """See `grpc.aio.ServicerContext`."""
        self._details = details

    def details(self) -> str:
        """See `grpc.aio.ServicerContext`."""
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing: what travels within a machine room is not worth the time."""

    def disable_next_message_compression(self) -> None:
        """Nothing: see `set_compression`."""

    def peer(self) -> str:
        """See `grpc.aio.ServicerContext`: the other end of the tunnel."""
        return self._carrier.carrying.peer()

    def peer_identities(self) -> Iterable[bytes] | None:
        """See `grpc.aio.ServicerContext`: of the tunnel."""
        return self._carrier.carrying.peer_identities()

    def peer_identity_key(self) -> str | None:
        """See `grpc.aio.ServicerContext`: of the tunnel."""
        return self._carrier.carrying.peer_identity_key()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """See `grpc.aio.ServicerContext`: of the tunnel."""
        return self._carrier.carrying.auth_context()

    def time_remaining(self) -> float | None:
        """See `grpc.aio.ServicerContext`."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:  # Any: as above
        """See `grpc.aio.ServicerContext`."""
        if self._is_done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """See `grpc.aio.ServicerContext`."""
        return self._is_cancelled

    def done(self) -> bool:
        """See `grpc.aio.ServicerContext`."""
        return self._is_done

    async def _run(self, first: bytes | None) -> None:
        served = self._served
        try:
            if first is None:
                request: Any = Requests(self)  # Any: as in `Served`
            else:
                request = first if served.parse is None else served.parse(first)
            answer = served.behaviour(request, self)
            if served.streams_responses and inspect.isasyncgen(answer):
                async for message in answer:
                    await self.write(message)
                self._finish(None)
            else:
                response = await answer
                self._finish(None if served.streams_responses else response)
        except grpc.aio.AbortError:
            pass  # its status is on its way
        except asyncio.CancelledError:
            if not self._is_done:
                self._send_status(_CANCELLED, "", ())
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: what interceptors translate never comes here
            _log.error("tunnel_call_failed", exc_info=error)
            if not self._is_done:  # gRPC tells the text; it may hold what must not leave the process
                self._send_status(_UNKNOWN, f"Unexpected {type(error)}", ())

    def _finish(self, response: Any) -> None:  # Any: a response; None where they were streamed
        if self._is_done:
            return
        code = self._code if isinstance(self._code, int) else int(self._code.value[0])
        if code != _OK or self._trailing or self._served.streams_responses:
            if response is not None and code == _OK:
                data = self._serialized(response)
                if data is None:
                    return
                self._carrier.outbox.send(self._number, MESSAGE, data)
            self._send_status(code, self._details, self._trailing)
            return
        data = self._serialized(response)
        if data is not None:
            self._carrier.outbox.send(self._number, LAST, data)
            self._end()

    def _serialized(self, message: Any) -> bytes | None:  # Any: a response
        serialize = self._served.serialize
        data: bytes = message if serialize is None else serialize(message)
        if len(data) > MESSAGE_BYTES_MAX:
            self._send_status(_EXHAUSTED, f"Sent message larger than max ({len(data)} vs. {MESSAGE_BYTES_MAX})", ())
            return None
        return data

    def _send_status(self, code: int, details: str, metadata: Wire) -> None:
        self._code = _CODES.get(code, grpc.StatusCode.UNKNOWN)
        self._carrier.outbox.send(self._number, STATUS, ending(code, details, metadata))
        self._end()

    def _expire(self) -> None:
        if not self._is_done:
            self._carrier.outbox.drop(self._number)
            self._send_status(_DEADLINE_EXCEEDED, "Deadline Exceeded", ())
        if self._task is not None:
            self._task.cancel()

    def _end(self) -> None:
        self._is_done = True
        if self._timer is not None:
            self._timer.cancel()
        if self._is_cancelled:
            self._carrier.outbox.drop(self._number)
        self._inbox, self._parts = None, []
        _wake(self._reader)
        _wake(self._writer)
        self._carrier.ended(self._number)
        if self._callbacks:
            for callback in self._callbacks:
                self._carrier.loop.call_soon(callback, self)  # so that what they raise does not hit the tunnel


class Requests:
    """The messages of a client that streams, as its handler gets them."""

    __slots__ = ("_context",)

    def __init__(self, context: TunnelContext) -> None:
        self._context = context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:  # Any: a request
        message = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
