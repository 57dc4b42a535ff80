"""The connections to providers, for httpx: made when needed, kept for a while, never more than the bound.

httpx's own took 1.5 of the 5.4 ms that a streamed answer of four tokens cost this process, and 0.09 of the 0.3 ms of
each further token: layers for several event loops, a parser in Python, a look at every connection for each request.
HTTP/1.1 only, which is what those spoke, too. Where the environment names a proxy, httpx's own are used: they know it.
"""

import asyncio
import socket
from asyncio.staggered import staggered_race
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final
from urllib.request import getproxies

import httpx2

from services.inference.providers.connection import Connection

IN_USE_MAX: Final = 10_000
"""Answers under way; the vendors' SDKs allow a tenth of that, and an answer above it would wait and then fail. How many
a process takes at all is set by PARLEY_CALLS_MAX."""
IDLE_MAX: Final = 100
"""Per address; as the vendors' SDKs have it."""
IDLE_S: Final = 4.0
"""Below the 5 s of uvicorn, behind which vLLM stands: a connection that is closed just when it is used is an error."""
NEXT_ADDRESS_S: Final = 0.25
"""Until the next address of a name is tried beside the one that does not answer (RFC 8305, section 5)."""

_PORTS: Final = {b"http": 80, b"https": 443}

_Origin = tuple[bytes, bytes, int]


def connections() -> httpx2.AsyncBaseTransport | None:
    """What an httpx client sends its requests through; None for its own."""
    proxies = getproxies()
    return None if any(proxies.get(scheme) for scheme in ("http", "https", "all")) else Connections()


def body_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body as it comes; past the layers that count and decode it, where there is nothing to decode."""
    if "content-encoding" in response.headers or not isinstance(response.stream, httpx2.AsyncByteStream):
        return response.aiter_bytes()
    return aiter(response.stream)


class Connections(httpx2.AsyncBaseTransport):
    """All connections of one client."""

    def __init__(self) -> None:
        self._tls = httpx2.create_ssl_context()
        self._idle: dict[_Origin, deque[Connection]] = {}
        self._in_use: set[Connection] = set()
        self._places = asyncio.Semaphore(IN_USE_MAX)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx.

        Raises:
            httpx2.TransportError: the provider could not be asked, or gave no head of an answer.
        """
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        origin = _origin(request.url)
        await self._place(limits.get("pool"))
        try:
            connection = self._kept(origin) or await self._made(origin, limits.get("connect"))
        except BaseException:
            self._places.release()
            raise
        self._in_use.add(connection)
        answer = await connection.ask(request, silence_s=limits.get("read"), release=partial(self._take_back, origin))
        return httpx2.Response(answer.status, headers=answer.headers, stream=answer)

    async def aclose(self) -> None:
        """See httpx."""
        for connection in [*self._in_use, *(one for kept in self._idle.values() for one in kept)]:
            connection.abort()
        self._idle.clear()

    async def _place(self, patience_s: float | None) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise httpx2.PoolTimeout("too many requests are under way") from None

    def _kept(self, origin: _Origin) -> Connection | None:
        """The connection that was used last: the others may grow too old."""
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.is_sound and not _is_old(connection) and connection.is_quiet():
                return connection
            connection.abort()
        return None

    def _take_back(self, origin: _Origin, connection: Connection) -> None:
        self._places.release()
        self._in_use.discard(connection)
        if not connection.is_sound:
            return
        kept = self._idle.setdefault(origin, deque())
        kept.append(connection)
        while kept and (len(kept) > IDLE_MAX or _is_old(kept[0])):
            kept.popleft().abort()

    async def _made(self, origin: _Origin, patience_s: float | None) -> Connection:
        scheme, host, port = origin
        name = host.decode("ascii")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(patience_s):
                dialled = await _dialled(name, port)
                _, connection = await loop.create_connection(
                    Connection,
                    sock=dialled,
                    ssl=self._tls if scheme == b"https" else None,
                    server_hostname=name if scheme == b"https" else None,
                )
        except TimeoutError:
            raise httpx2.ConnectTimeout("the provider does not take the connection") from None
        except OSError as error:
            raise httpx2.ConnectError(str(error)) from error
        return connection


async def _dialled(name: str, port: int) -> socket.socket:
    """A socket that is connected to one of the addresses of `name`.

    Raises:
        OSError: none of them can be reached.
    """
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    attempts = [partial(_dial, family, address) for family, _, _, _, address in found]
    if len(attempts) == 1:
        return await attempts[0]()
    dialled: socket.socket | None
    dialled, _, errors = await staggered_race(attempts, NEXT_ADDRESS_S)
    if dialled is None:
        raise next((error for error in errors if isinstance(error, OSError)), OSError(f"{name} has no address"))
    return dialled


async def _dial(family: int, address: Any) -> socket.socket:  # Any: families write theirs differently
    dialled = socket.socket(family, socket.SOCK_STREAM)
    try:
        dialled.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(dialled, address)
    except BaseException:
        dialled.close()
        raise
    return dialled


def _origin(url: httpx2.URL) -> _Origin:
    port = url.port or _PORTS.get(url.raw_scheme)
    if port is None:
        raise httpx2.UnsupportedProtocol(f"{url.scheme!r} is no scheme of a provider")
    return url.raw_scheme, url.raw_host, port


def _is_old(connection: Connection) -> bool:
    return asyncio.get_running_loop().time() - connection.idle_since > IDLE_S
