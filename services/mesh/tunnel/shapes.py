"""The four shapes of calls: what is done with requests and responses, one or many."""

import asyncio
from collections.abc import AsyncIterable, Generator, Iterable
from typing import Any, Final, Self

import grpc.aio

from services.mesh import telemetry
from services.mesh.tunnel.calls import EXHAUSTED, UNKNOWN, Call
from services.mesh.tunnel.frames import MESSAGE_BYTES_MAX, MESSAGE_COST_BYTES, WINDOW_BYTES

_STYLE_TEXT: Final = "The iterator and read/write APIs may not be mixed on a single RPC."
_ENDED_TEXT: Final = "RPC already finished."
_HALF_CLOSED_TEXT: Final = 'RPC is half closed after calling "done_writing".'

_log = telemetry.logger("mesh.tunnel")

Requests = AsyncIterable[Any] | Iterable[Any]  # Any: requests of all services


class _OneRequest(Call):
    """A call that sends one message, with its beginning."""

    __slots__ = ()

    def ask(self, request: object) -> Self:
        """Begins the call."""
        serialize = self.method.serialize
        data = serialize(request) if serialize is not None else request
        assert isinstance(data, bytes)
        if len(data) > MESSAGE_BYTES_MAX:
            self.finish(EXHAUSTED, f"Sent message larger than max ({len(data)} vs. {MESSAGE_BYTES_MAX})")
            return self
        self.request = data
        if not self.is_done:
            self.starter.start(self)
        return self


class _ManyRequests(Call):
    """A call that sends messages of an iterator, or those that it is given to write."""

    __slots__ = ()

    def ask(self, requests: Requests | None) -> Self:
        """Begins the call."""
        self.starter.start(self)
        if requests is not None:
            self._poller = self.starter.loop.create_task(self._send_all(requests))
        return self

    async def write(self, request: object) -> None:
        """See `grpc.aio.StreamUnaryCall`."""
        if self._poller is not None:
            raise grpc.aio.UsageError(_STYLE_TEXT)
        await self._write(request)

    async def done_writing(self) -> None:
        """See `grpc.aio.StreamUnaryCall`."""
        if self._poller is not None:
            raise grpc.aio.UsageError(_STYLE_TEXT)
        await self._done_writing()

    async def _send_all(self, requests: Requests) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._write(request)
            else:
                for request in requests:
                    await self._write(request)
            await self._done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended, and says so to who awaits it
        except BaseException as error:  # as gRPC does: whatever ends the iterator ends the call
            if not isinstance(error, asyncio.CancelledError):
                _log.warning("tunnel_requests_failed", error=repr(error))
            self.cancel()
            if not isinstance(error, Exception):
                raise

    async def _write(self, request: object) -> None:
        if self.is_done:
            raise asyncio.InvalidStateError(_ENDED_TEXT)
        if self.is_half_closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED_TEXT)
        serialize = self.method.serialize
        data = serialize(request) if serialize is not None else request
        assert isinstance(data, bytes)
        if len(data) > MESSAGE_BYTES_MAX:
            self._leave(EXHAUSTED, f"Sent message larger than max ({len(data)} vs. {MESSAGE_BYTES_MAX})")
            self.raise_for_status()
        await self.wait_for_connection()
        if self.link is None:
            raise asyncio.InvalidStateError(_ENDED_TEXT)
        self._is_committed = True
        self._credit -= len(data) + MESSAGE_COST_BYTES
        room = self.link.send(self, data)
        if room is not None:
            await room
        while self._credit <= 0 and not self.done():
            self._writer = self.starter.loop.create_future()
            await self._shared(self._writer)
        if self.done():
            self.raise_for_status()

    async def _done_writing(self) -> None:
        if self.is_done or self.is_half_closed:
            return
        self.is_half_closed = True
        await self.wait_for_connection()
        if self.link is not None:
            self.link.end(self)


class _OneResponse(Call):
    """A call that is answered by one message."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.is_done:
            yield from self.ended().__await__()
        self.raise_for_status()
        if not self._inbox:
            self.finish_again(UNKNOWN, "the call ended without a response")
        parse = self.method.parse
        return self._inbox[0] if parse is None else parse(self._inbox[0])

    def finish_again(self, code: int, details: str) -> None:
        """A server that ended well has not said what it had to."""
        self._code, self._details = code, details
        self._raise()


class _ManyResponses(Call):
    """A call that is answered by any number of messages."""

    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:  # Any: a response
        while not self._inbox:
            if self.is_done:
                self.raise_for_status()
                raise StopAsyncIteration
            await self._message()
        return self._take()

    async def read(self) -> Any:  # Any: a response, or gRPC's EOF
        """See `grpc.aio.UnaryStreamCall`."""
        while not self._inbox:
            if self.is_done:
                self.raise_for_status()
                return grpc.aio.EOF
            await self._message()
        return self._take()

    async def _message(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = self.starter.loop.create_future()
        await self._shared(self._reader)

    def _take(self) -> Any:  # Any: a response
        message = self._inbox.popleft()
        self._taken += len(message) + MESSAGE_COST_BYTES
        if self._taken >= WINDOW_BYTES // 2 and self.link is not None:
            self.link.grant(self, self._taken)
            self._taken = 0
        parse = self.method.parse
        return message if parse is None else parse(message)


class UnaryUnary(_OneRequest, _OneResponse):
    """See `grpc.aio.UnaryUnaryCall`."""

    __slots__ = ()


class UnaryStream(_OneRequest, _ManyResponses):
    """See `grpc.aio.UnaryStreamCall`."""

    __slots__ = ()


class StreamUnary(_ManyRequests, _OneResponse):
    """See `grpc.aio.StreamUnaryCall`."""

    __slots__ = ()


class StreamStream(_ManyRequests, _ManyResponses):
    """See `grpc.aio.StreamStreamCall`."""

    __slots__ = ()
