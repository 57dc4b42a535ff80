"""The server's side of a TCP connection: half-sent requests are timed out, and work for a caller who left is cancelled.

uvicorn keeps a half-sent head for ever and lets the application run on when the client has gone. Both are seen where
bytes and hang-ups arrive, in the protocol; the application finds its `Connection` in the scope.
"""

import asyncio
from typing import Final

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SCOPE_KEY: Final = "parley.connection"
HEAD_TIMEOUT_S: Final = 10.0
"""From the opening of a connection, or the first byte of a further request, to the end of its head."""
LEFTOVER_TIMEOUT_S: Final = 30.0
"""For the rest of a body that was refused: the client may send it to its end and then reads the answer."""

_TIMED_OUT: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection:
    """A client's connection, for the application."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._tasks: set[asyncio.Task[object]] = set()
        self.is_lost = False

    def watch(self, task: asyncio.Task[object]) -> None:
        """Cancel `task` when the client leaves."""
        self._tasks.add(task)

    def unwatch(self, task: asyncio.Task[object]) -> None:
        """The task has come to its end."""
        self._tasks.discard(task)

    def abort(self) -> None:
        """Hang up: the client does not read."""
        self._transport.abort()

    def lose(self) -> None:
        """The client has gone."""
        self.is_lost = True
        for task in self._tasks:
            task.cancel()


def connection_of(scope: Scope) -> Connection | None:
    """The connection of a request; None under another server, as in some tests."""
    return scope.get(SCOPE_KEY)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bound on every wait for the client."""

    _timer: asyncio.TimerHandle | None = None
    _guard: Connection | None = None
    _reads_body: bool = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """See asyncio."""
        super().connection_made(transport)
        self._guard = Connection(transport)
        self._arm(HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._disarm()
        super().connection_lost(exc)
        if self._guard is not None:
            self._guard.lose()

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self.scope[SCOPE_KEY] = self._guard  # type: ignore[typeddict-unknown-key] # open in ASGI, closed in uvicorn's types
        self._arm(HEAD_TIMEOUT_S)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._disarm()
        self._reads_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See httptools."""
        self._reads_body = False
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See uvicorn: the answer has been sent, perhaps before the end of the request."""
        super().on_response_complete()
        if self._reads_body and self.cycle.response_complete and not self.transport.is_closing():
            self._arm(LEFTOVER_TIMEOUT_S)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        if self.transport.is_closing():
            return
        if not getattr(self.cycle, "response_complete", True):  # there is none before the first request
            self._arm(HEAD_TIMEOUT_S)  # an answer is under way to a client that has begun its next request
            return
        self.transport.write(_TIMED_OUT)
        self.transport.close()
