"""A TCP proxy that spoils connections: what networks do to packets, as far as the two ends can tell."""

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from dev.ports import LOOPBACK

_BLOCK_BYTES: Final = 65_536
_CONNECT_S_MAX: Final = 2.0
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Trouble(StrEnum):
    """What happens on a link until it is healed."""

    NONE = "none"
    LATENCY = "latency"
    """Every block arrives late."""
    BLACK_HOLE = "black hole"
    """Nothing arrives; what was sent arrives after the healing, as after TCP's retransmission."""
    RESET = "reset"
    """Every connection is reset, new ones too."""
    TRUNCATE = "truncation"
    """The next answer on each open connection is cut in half, then the connection is reset; new ones are good."""
    LOST_REPLY = "lost reply"
    """The next answer on each open connection is lost with the connection: the request was carried out."""


_LAST_WORDS: Final = frozenset({Trouble.TRUNCATE, Trouble.LOST_REPLY})


class _Pipe:
    """One proxied connection."""

    def __init__(self, inner: asyncio.StreamWriter, outer: asyncio.StreamWriter) -> None:
        self.ends = (inner, outer)
        self.fate = Trouble.NONE

    def reset(self) -> None:
        for end in self.ends:
            abort(end)


class Proxy:
    """Forwards connections to a port of this machine.

    Args:
        upstream: the port; asked for each connection, so that it may be unknown before the first one.
        latency_s: of one block while `Trouble.LATENCY` lasts.

    Attributes:
        port: where it listens, once it is open.
    """

    def __init__(self, upstream: Callable[[], int], *, latency_s: float = 0.15) -> None:
        self._upstream = upstream
        self._latency_s = latency_s
        self._trouble = Trouble.NONE
        self._healed = asyncio.Event()
        self._healed.set()
        self._pipes: set[_Pipe] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Drops every connection and stops."""
        self.heal()
        assert self._server is not None
        self._server.close()
        for pipe in tuple(self._pipes):
            pipe.reset()

    def trouble(self, trouble: Trouble) -> None:
        """Begins a trouble, which lasts until `heal`."""
        self._trouble = trouble
        if trouble is Trouble.BLACK_HOLE:
            self._healed.clear()
        for pipe in tuple(self._pipes):
            if trouble in _LAST_WORDS:
                pipe.fate = trouble
            elif trouble is Trouble.RESET:
                pipe.reset()

    def heal(self) -> None:
        """Ends any trouble; connections that were hit before they spoke again are spared."""
        self._trouble = Trouble.NONE
        for pipe in self._pipes:
            pipe.fate = Trouble.NONE
        self._healed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._trouble is Trouble.RESET:
            abort(writer)
            return
        await self._healed.wait()
        try:
            async with asyncio.timeout(_CONNECT_S_MAX):
                inner_reader, inner_writer = await asyncio.open_connection(LOOPBACK, self._upstream())
        except OSError:
            abort(writer)
            return
        pipe = _Pipe(inner_writer, writer)
        self._pipes.add(pipe)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(pipe, reader, inner_writer))
                group.create_task(self._answers(pipe, inner_reader, writer))
        except* (OSError, RuntimeError):  # uvloop's word for a connection that is closed already
            pass
        finally:
            self._pipes.discard(pipe)
            pipe.reset()

    async def _requests(self, pipe: _Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(_BLOCK_BYTES):
            await self._delay()
            writer.write(block)
            await writer.drain()
        await _end(writer)

    async def _answers(self, pipe: _Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(_BLOCK_BYTES):
            await self._delay()
            if pipe.fate is not Trouble.NONE:
                if pipe.fate is Trouble.TRUNCATE:
                    writer.write(block[: len(block) // 2])
                    await writer.drain()
                raise ConnectionResetError
            writer.write(block)
            await writer.drain()
        await _end(writer)

    async def _delay(self) -> None:
        if self._trouble is Trouble.LATENCY:
            await asyncio.sleep(self._latency_s)
        await self._healed.wait()


async def _end(writer: asyncio.StreamWriter) -> None:
    """Passes the end of a stream on, while the other direction may go on."""
    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def abort(writer: asyncio.StreamWriter) -> None:
    """Closes with RST, as a crashed or firewalled peer does."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    writer.transport.abort()
