import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import Proxy, Trouble

BOUND_S = 5.0
QUIET_S = 0.1


@asynccontextmanager
async def echoing() -> AsyncIterator[Proxy]:
    """A proxy before a server that says everything twice."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line * 2)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(lambda: int(server.sockets[0].getsockname()[1]))
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()


class Peer:
    """A client of the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, proxy: Proxy) -> "Peer":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def say(self, line: bytes, *, size: int) -> bytes:
        self.writer.write(line)
        async with asyncio.timeout(BOUND_S):
            return await self.reader.readexactly(size)

    async def close(self) -> None:
        self.writer.transport.abort()


async def test_healthy_link_passes_everything_on() -> None:
    async with echoing() as proxy:
        peer = await Peer.of(proxy)
        assert await peer.say(b"hello\n", size=12) == b"hello\nhello\n"
        peer.writer.write_eof()
        assert await peer.reader.read() == b""
        await peer.close()


async def test_latency_delays_and_loses_nothing() -> None:
    async with echoing() as proxy:
        peer = await Peer.of(proxy)
        proxy.trouble(Trouble.LATENCY)
        assert await peer.say(b"a\n", size=4) == b"a\na\n"
        await peer.close()


async def test_black_hole_swallows_until_it_is_healed() -> None:
    async with echoing() as proxy:
        peer = await Peer.of(proxy)
        await peer.say(b"a\n", size=4)
        proxy.trouble(Trouble.BLACK_HOLE)
        peer.writer.write(b"b\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.reader.readexactly(4), QUIET_S)
        proxy.heal()
        async with asyncio.timeout(BOUND_S):
            assert await peer.reader.readexactly(4) == b"b\nb\n"
        await peer.close()


async def test_reset_breaks_open_connections_and_new_ones_until_it_is_healed() -> None:
    async with echoing() as proxy:
        peer = await Peer.of(proxy)
        await peer.say(b"a\n", size=4)
        proxy.trouble(Trouble.RESET)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await peer.say(b"b\n", size=4)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await (await Peer.of(proxy)).say(b"c\n", size=4)
        proxy.heal()
        healed = await Peer.of(proxy)
        assert await healed.say(b"d\n", size=4) == b"d\nd\n"
        await healed.close()


async def test_truncated_answer_is_cut_in_half() -> None:
    async with echoing() as proxy:
        peer = await Peer.of(proxy)
        await peer.say(b"a\n", size=4)
        proxy.trouble(Trouble.TRUNCATE)
        peer.writer.write(b"b\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)) as caught:
            await asyncio.wait_for(peer.reader.readexactly(4), BOUND_S)
        if isinstance(caught.value, asyncio.IncompleteReadError):
            assert caught.value.partial in {b"", b"b\n"}


async def test_lost_reply_loses_the_answer_to_a_request_that_was_carried_out() -> None:
    async with echoing() as proxy:
        peer, other = await Peer.of(proxy), await Peer.of(proxy)
        await peer.say(b"a\n", size=4)
        await other.say(b"a\n", size=4)
        proxy.trouble(Trouble.LOST_REPLY)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await peer.say(b"b\n", size=4)
        fresh = await Peer.of(proxy)
        assert await fresh.say(b"c\n", size=4) == b"c\nc\n"
        proxy.heal()
        assert await other.say(b"d\n", size=4) == b"d\nd\n"
        for each in (other, fresh):
            await each.close()


async def test_upstream_that_is_away_resets() -> None:
    proxy = Proxy(lambda: 1)
    await proxy.open()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await (await Peer.of(proxy)).say(b"a\n", size=4)
    await proxy.close()
