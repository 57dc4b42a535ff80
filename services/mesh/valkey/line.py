"""One connection that many commands share: what is asked in one round of the event loop is written together.

A command that has a connection of a pool to itself costs ten times the processor time, nearly all of it in redis-py's
Python around the socket. Here it is packed and parsed in C. redis-py still makes the connection: name, TLS, login,
sentinels.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import hiredis
from redis.asyncio import ConnectionPool
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - the driver's own, named as it names it
    InvalidResponse,
    TimeoutError,  # noqa: A004 - as above
)

from services.mesh.errors import Overloaded

IN_FLIGHT_MAX: Final = 20_000
"""Commands that wait for their answers. Valkey needs about a second for as many, so a longer wait only moves the queue
from it to us."""
GRACE_S: Final = 0.001
"""A process that was paused for longer than a command may take has the answer in its socket, and reads it meanwhile."""
_MORE: Final = object()


@dataclass(frozen=True, slots=True)
class Streams:
    """A connection that redis-py has made, and knows nothing of any more.

    Attributes:
        error_of: the error that an answer of the server stands for.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    error_of: Callable[[str], Exception]


class Line:
    """Asks over one connection, which is made when it is first used, and anew after a failure.

    Args:
        connections: makes the connection, which is none of the pool's; its class can give itself away.
        timeout_s: of a command. One that is late ends the connection, for what is behind it can be no earlier.
        is_final: whether an answer says that the server is not the right one any more: the next command goes to a new
            connection then.
        in_flight_max: commands that may wait for their answers.
    """

    def __init__(
        self,
        connections: ConnectionPool,
        *,
        timeout_s: float,
        is_final: Callable[[Exception], bool],
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        self._connections = connections
        self._timeout_s = timeout_s
        self._is_final = is_final
        self._in_flight_max = in_flight_max
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._tries = 0
        self._trouble: Exception | None = None

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:  # Any: what commands take and return
        """Sends commands together, each once; errors that the server answers with are among the answers.

        A caller that is cancelled takes nothing back: its commands run.

        Raises:
            Overloaded: too many commands wait for their answers.
            Exception: redis-py's own, as `client.translated` knows them; any of the commands may have run.
        """
        if not commands:
            return []
        packed = b"".join([_packed(command) for command in commands])
        link = self._link
        if link is None or link.is_over:
            link = await self._connected()
        if link.in_flight and link.in_flight + len(commands) > self._in_flight_max:
            raise Overloaded("too many commands wait for Valkey", retry_after_s=1.0)
        return await link.ask(packed, len(commands))

    def close(self) -> None:
        """Ends the connection, and fails what waits for answers. A later use makes another one."""
        link, self._link = self._link, None
        if link is not None:
            link.end(ConnectionError("the connection was closed"))

    async def _connected(self) -> "_Link":
        """A connection that stands. Who comes while one is made shares what comes of it."""
        while True:
            tries = self._tries
            async with self._connecting:
                if self._link is not None and not self._link.is_over:
                    return self._link
                if self._tries == tries:
                    self._tries += 1
                    self._trouble = None
                    try:
                        self._link = await self._connect()
                    except Exception as error:  # noqa: BLE001 - it is handed to all who wait
                        self._trouble = error
                if self._trouble is not None:
                    raise self._trouble.with_traceback(None)

    async def _connect(self) -> "_Link":
        connection = self._connections.make_connection()  # type: ignore[no-untyped-call] # redis-py left it untyped
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        link = _Link(connection.given_away(), timeout_s=self._timeout_s, is_final=self._is_final)
        if link.is_over:
            raise ConnectionError("the connection was closed as soon as it was made")
        return link


class _Asked:
    """Commands that were sent together, and are answered together."""

    __slots__ = ("answered", "answers", "count", "sent_at")

    def __init__(self, count: int, answered: asyncio.Future[list[Any]]) -> None:
        self.count = count
        self.sent_at = monotonic()
        self.answered = answered
        self.answers: list[Any] = []


class _Link(asyncio.Protocol):
    """A connection that stands.

    Args:
        streams: of the connection.
        timeout_s, is_final: see `Line`.

    Attributes:
        in_flight: commands that wait for their answers.
        is_over: whether nothing more may be asked.
    """

    def __init__(self, streams: Streams, *, timeout_s: float, is_final: Callable[[Exception], bool]) -> None:
        self._writer = streams.writer  # kept, for it closes its transport when it is collected
        self._transport = streams.writer.transport
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=streams.error_of, notEnoughData=_MORE)
        self._timeout_s = timeout_s
        self._is_final = is_final
        self._loop = asyncio.get_running_loop()
        self._asked: deque[_Asked] = deque()
        self.in_flight = 0
        self._unsent: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self.is_over = False
        self._transport.set_protocol(self)
        if streams.reader.at_eof():
            self.end(ConnectionError("the connection was closed"))

    async def ask(self, packed: bytes, count: int) -> list[Any]:
        """See `Line.ask`."""
        asked = _Asked(count, self._loop.create_future())
        self._asked.append(asked)
        self.in_flight += count
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(packed)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._look)
        return await asked.answered

    def data_received(self, data: bytes) -> None:
        """Hands answers out, in the order of the commands."""
        try:
            self._parser.feed(data)
            while (answer := self._parser.gets()) is not _MORE:
                self._take(answer)
        except (InvalidResponse, IndexError) as error:
            self.end(ConnectionError(f"an answer cannot be read: {error!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails what waits."""
        self.end(ConnectionError(f"the connection is gone: {exc!r}"))

    def end(self, error: Exception) -> None:
        """Closes the connection; what waits fails."""
        self.is_over = True
        self._unsent.clear()
        self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
        while self._asked:
            answered = self._asked.popleft().answered
            if not answered.done():
                answered.set_exception(type(error)(*error.args))

    def _send(self) -> None:
        if self._unsent:  # else it has ended since
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _take(self, answer: Any) -> None:
        asked = self._asked[0]
        asked.answers.append(answer)
        if isinstance(answer, Exception) and self._is_final(answer):
            self.is_over = True
        if len(asked.answers) < asked.count:
            return
        self._asked.popleft()
        self.in_flight -= asked.count
        if not asked.answered.done():  # else its caller was cancelled
            asked.answered.set_result(asked.answers)
        if self.is_over and not self._asked:
            self.end(ConnectionError("the server is not the right one any more"))

    def _look(self, suspect: _Asked | None = None) -> None:
        """Ends the connection if the first answer is late, and was so a moment ago."""
        self._watch = None
        if not self._asked:
            return
        first = self._asked[0]
        left_s = first.sent_at + self._timeout_s - monotonic()
        if left_s > 0.0:
            self._watch = self._loop.call_later(left_s, self._look)
        elif first is suspect:
            self.end(TimeoutError("Timeout reading from socket"))
        else:
            self._watch = self._loop.call_later(GRACE_S, self._look, first)


def _packed(command: Sequence[Any]) -> bytes:
    """redis-py writes names of several words as one."""
    name = command[0]
    if isinstance(name, str) and " " in name:
        command = (*name.split(), *command[1:])
    packed: bytes = hiredis.pack_command(tuple(command))
    return packed
