"""One HTTP/1.1 connection to a provider: a request goes out at once, its answer is read as it comes.

An answer of a model is hundreds of pieces of a few bytes, which cost what their way through the layers costs. Here a
piece passes a parser in C and a list.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from typing import Final, cast

import httptools
import httpx2

HEAD_BYTES_MAX: Final = 65_536
"""Of an answer; those of both vendors have about 2 KB."""
AHEAD_BYTES_MAX: Final = 262_144
"""Of a body that nobody has read yet; beyond it the provider waits."""

_INFORMATIONAL: Final = 200
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})

Release = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """A connection that carries one exchange after the other.

    Attributes:
        idle_since: when the last exchange ended, by the loop's clock.
        is_sound: it can carry another exchange, as far as one can tell.
    """

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._writable: asyncio.Future[None] | None = None
        self.idle_since = 0.0
        self.is_sound = True

    async def ask(self, request: httpx2.Request, *, silence_s: float | None, release: Release) -> "Answer":
        """Sends a request and returns with the head of its answer, whose `aclose` calls `release`.

        Args:
            request: what to ask.
            silence_s: the provider may say nothing for this long.
            release: called once, when the exchange is over, whatever became of it.

        Raises:
            httpx2.TransportError: it could not be asked, or said nothing, or nothing that is HTTP.
        """
        answer = self._answer = Answer(self, self._loop, silence_s, release)
        try:
            await self._write(request)
            await answer.begun()
        except BaseException:
            await answer.aclose()
            raise
        return answer

    def is_quiet(self) -> bool:
        """Whether nothing has come, the end of the connection least of all, that the loop has yet to tell of."""
        assert self._transport is not None
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """Hangs up."""
        self.is_sound = False
        if self._transport is not None:
            self._transport.abort()

    def read_on(self, *, is_on: bool) -> None:
        """Whether the provider may go on sending."""
        if self._transport is None or self._transport.is_closing():
            return
        if is_on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # of a stream, as every connection is

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.is_sound = False
        self.resume_writing()
        answer = self._answer
        if answer is None:
            return
        if exc is None and answer.ends_with_connection:
            answer.end()
        else:
            answer.fail(httpx2.RemoteProtocolError("the connection was closed before the end of the answer"))

    def pause_writing(self) -> None:
        """See asyncio."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        answer = self._answer
        if answer is None:  # nobody asked for anything
            self.abort()
            return
        if not answer.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break_off(answer, "the answer is not HTTP")
            return
        if not answer.status and self._head_bytes > HEAD_BYTES_MAX:
            self._break_off(answer, "the head of the answer does not end")

    def on_message_begin(self) -> None:
        """See httptools."""
        self._headers = []
        if self._answer is None or self._answer.is_ended:
            self.is_sound = False  # it says more than it was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """See httptools."""
        status = self._parser.get_status_code()
        if status >= _INFORMATIONAL and self._answer is not None and not self._answer.status:
            self._head_bytes = 0
            self._answer.begin(status, self._headers)

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if self._answer is not None and not self._answer.is_ended:
            self._answer.feed(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._answer is not None and self._answer.status:
            self.is_sound = self.is_sound and self._parser.should_keep_alive()
            self._answer.end()

    def leave(self, *, is_whole: bool) -> None:
        """The exchange is over; an answer that was not read to its end takes the connection with it."""
        self._answer = None
        self.idle_since = self._loop.time()
        if not is_whole or not self.is_sound:
            self.abort()

    def _break_off(self, answer: "Answer", why: str) -> None:
        answer.fail(httpx2.RemoteProtocolError(why))
        self.abort()

    async def _write(self, request: httpx2.Request) -> None:
        assert self._transport is not None
        try:
            content = request.content
        except httpx2.RequestNotRead:
            await self._write_pieces(request, self._transport)
        else:
            self._transport.write(_head(request) + content)

    async def _write_pieces(self, request: httpx2.Request, transport: asyncio.Transport) -> None:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        is_chunked = "transfer-encoding" in request.headers
        transport.write(_head(request))
        async for piece in request.stream:
            if piece:
                transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            if self._writable is not None:
                await self._writable
            if transport.is_closing():  # it has answered already, or never will
                return
        if is_chunked:
            transport.write(b"0\r\n\r\n")


class Answer(httpx2.AsyncByteStream):
    """What comes back: a head, then the body as it comes.

    Attributes:
        status: of the head; 0 before it has come.
        headers: of the head.
        is_ended: nothing follows.
        ends_with_connection: only the end of the connection ends the body.
    """

    def __init__(
        self, connection: Connection, loop: asyncio.AbstractEventLoop, silence_s: float | None, release: Release
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._silence_s = silence_s
        self._release: Release | None = release
        self._pieces: list[bytes] = []
        self._ahead_bytes = 0
        self._is_held = False
        self._error: httpx2.TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._heard_at = loop.time()
        self._timer = None if silence_s is None else loop.call_later(silence_s, self._look)
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_ended = False
        self.ends_with_connection = False

    async def begun(self) -> None:
        """Returns with the head.

        Raises:
            httpx2.TransportError: none came.
        """
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._news()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body; what has come together is given together."""
        while True:
            if self._pieces:
                yield self._taken()
            elif self._error is not None:
                raise self._error
            elif self.is_ended:
                return
            else:
                await self._news()

    async def aclose(self) -> None:
        """See httpx."""
        release, self._release = self._release, None
        if release is not None:
            self._rest()
            self._connection.leave(is_whole=self.is_ended and self._error is None)
            release(self._connection)

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head has come."""
        self.status, self.headers = status, headers
        self.ends_with_connection = not any(name.lower() in _FRAMING for name, _ in headers)
        self._wake()

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come."""
        self._pieces.append(piece)
        self._ahead_bytes += len(piece)
        if self._ahead_bytes > AHEAD_BYTES_MAX and not self._is_held:
            self._is_held = True
            self._connection.read_on(is_on=False)
        self._wake()

    def end(self) -> None:
        """Nothing follows."""
        self.is_ended = True
        self._rest()
        self._wake()

    def fail(self, error: httpx2.TransportError) -> None:
        """Nothing good follows."""
        if not self.is_ended and self._error is None:
            self._error = error
            self._rest()
            self._wake()

    def _taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self._ahead_bytes = 0
        if self._is_held:
            self._is_held = False
            self._connection.read_on(is_on=True)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _news(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        self._heard_at = self._loop.time()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self) -> None:
        """One timer for all of the answer: it looks when the provider was heard last, and comes back."""
        assert self._silence_s is not None
        silent_s = self._loop.time() - self._heard_at
        if self._waiter is not None and silent_s >= self._silence_s:
            self.fail(httpx2.ReadTimeout("the provider says nothing"))
            return
        left_s = self._silence_s - silent_s
        self._timer = self._loop.call_later(left_s if left_s > 0 else self._silence_s, self._look)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _head(request: httpx2.Request) -> bytes:
    """The head of a request.

    Raises:
        httpx2.LocalProtocolError: a value would be read as more than one.
    """
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    ends = len(lines) + 1
    if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
        raise httpx2.LocalProtocolError("a header holds a character that none may hold")
    return head
