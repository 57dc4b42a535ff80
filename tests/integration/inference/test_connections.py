"""Connections to providers over real sockets: what is kept, what is cut off, and what nobody may make of an answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest

from services.inference.providers import connection as one
from services.inference.providers import transport
from services.inference.providers.transport import Connections, body_of, connections
from tests.support.waiting import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
TIMEOUT = httpx2.Timeout(60.0)


class Provider:
    """Answers each request of a connection with the same bytes; closes the connection behind them if told to."""

    def __init__(self) -> None:
        self.answer = WHOLE
        self.is_closing = False
        self.requests: list[bytes] = []
        self.made = self.left = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self.writers.append(writer)
        try:
            while head := await self._request(reader):
                self.requests.append(head)
                writer.write(self.answer)
                await writer.drain()
                if self.is_closing:
                    return
        except OSError:  # the other side hung up
            pass
        finally:
            self.left += 1
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
        if b"content-length" in lines:
            return head + await reader.readexactly(int(lines[b"content-length"]))
        if b"transfer-encoding" in lines:
            return head + await reader.readuntil(b"0\r\n\r\n")
        return head


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def http(provider: Provider) -> AsyncIterator[httpx2.AsyncClient]:
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = httpx2.AsyncClient(
        transport=Connections(), base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT, follow_redirects=True
    )
    async with client:
        yield client
    server.close()


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED, b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + WHOLE])
async def test_answer_is_read_and_its_connection_used_again(
    http: httpx2.AsyncClient, provider: Provider, answer: bytes
) -> None:
    provider.answer = answer

    answers = [await http.post("/", content=b"question") for _ in range(3)]

    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "hello")] * 3
    assert provider.made == 1
    assert all(request.endswith(b"question") for request in provider.requests)


async def test_requests_at_the_same_time_have_connections_of_their_own(
    http: httpx2.AsyncClient, provider: Provider
) -> None:
    async with http.stream("POST", "/", content=b"1") as first, http.stream("POST", "/", content=b"2") as second:
        assert [await first.aread(), await second.aread()] == [b"hello", b"hello"]

    assert provider.made == 2


async def test_body_without_a_length_ends_with_its_connection(http: httpx2.AsyncClient, provider: Provider) -> None:
    provider.answer, provider.is_closing = b"HTTP/1.1 200 OK\r\n\r\nhello", True

    answers = [await http.post("/") for _ in range(2)]

    assert [answer.text for answer in answers] == ["hello"] * 2
    assert provider.made == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
        CHUNKED[:-2],
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot a length\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_answer_that_breaks_off_or_is_not_http_is_an_error(
    http: httpx2.AsyncClient, provider: Provider, answer: bytes
) -> None:
    provider.answer, provider.is_closing = answer, True

    with pytest.raises(httpx2.RemoteProtocolError):
        await http.post("/")


@pytest.mark.parametrize("excess", [0, 1])
async def test_head_of_an_answer_is_bounded(
    http: httpx2.AsyncClient, provider: Provider, monkeypatch: pytest.MonkeyPatch, excess: int
) -> None:
    monkeypatch.setattr(one, "HEAD_BYTES_MAX", 1_000)
    provider.answer = b"HTTP/1.1 200 OK\r\nx: ".ljust(1_000 + excess, b"x")
    asking = asyncio.create_task(http.post("/"))
    await until(lambda: provider.requests)

    if excess:
        with pytest.raises(httpx2.RemoteProtocolError, match="does not end"):
            await asking
        return
    provider.writers[0].write(b"\r\ncontent-length: 0\r\n\r\n")
    assert (await asking).status_code == 200


async def test_connection_that_says_more_than_was_asked_is_not_used_again(
    http: httpx2.AsyncClient, provider: Provider
) -> None:
    provider.answer = WHOLE + WHOLE

    answers = [await http.post("/") for _ in range(2)]

    assert [answer.text for answer in answers] == ["hello"] * 2
    assert provider.made == 2


async def test_connection_that_speaks_unasked_or_is_closed_is_not_used_again(
    http: httpx2.AsyncClient, provider: Provider
) -> None:
    await http.post("/")
    provider.writers[0].write(WHOLE)
    await until(lambda: provider.left == 1)
    await http.post("/")
    provider.writers[1].close()
    await provider.writers[1].wait_closed()
    await http.post("/")

    assert provider.made == 3


async def test_connection_that_is_too_old_is_not_used_again(
    http: httpx2.AsyncClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await http.post("/")
    monkeypatch.setattr(transport, "IDLE_S", -1.0)

    await http.post("/")

    assert provider.made == 2
    await until(lambda: provider.left == 2)


async def test_idle_connections_are_bounded(
    http: httpx2.AsyncClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "IDLE_MAX", 1)

    async with http.stream("POST", "/") as first, http.stream("POST", "/") as second:
        await first.aread()
        await second.aread()

    await until(lambda: provider.left == 1)
    await http.post("/")
    assert provider.made == 2


async def test_reader_who_leaves_frees_the_connection(http: httpx2.AsyncClient, provider: Provider) -> None:
    provider.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"

    async with http.stream("POST", "/") as answer:
        assert await anext(body_of(answer)) == b"hello"

    await until(lambda: provider.left == 1)


async def test_caller_who_leaves_before_the_head_frees_the_connection(
    http: httpx2.AsyncClient, provider: Provider
) -> None:
    provider.answer = b""
    asking = asyncio.create_task(http.post("/"))
    await until(lambda: provider.requests)

    asking.cancel()

    await until(lambda: provider.left == 1)
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"])
async def test_silence_is_a_timeout(http: httpx2.AsyncClient, provider: Provider, answer: bytes) -> None:
    provider.answer = answer

    with pytest.raises(httpx2.ReadTimeout):
        await http.post("/", timeout=httpx2.Timeout(60.0, read=0.05))

    await until(lambda: provider.left == 1)


async def test_provider_waits_for_a_reader_that_is_slow(
    http: httpx2.AsyncClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one, "AHEAD_BYTES_MAX", 1_000)
    size = 32 * 1024 * 1024  # more than the sockets between them hold
    provider.answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size

    async with http.stream("POST", "/") as answer:
        body = body_of(answer)
        first = await anext(body)
        await asyncio.wait_for(_turns(100), 60)
        assert provider.writers[0].transport.get_write_buffer_size() > size // 2
        rest = [len(piece) async for piece in body]

    assert len(first) + sum(rest) == size


async def test_place_is_waited_for_within_the_bound(http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "IN_USE_MAX", 1)
    async with httpx2.AsyncClient(transport=Connections(), base_url=http.base_url, timeout=TIMEOUT) as narrow:
        async with narrow.stream("POST", "/") as held:
            with pytest.raises(httpx2.PoolTimeout):
                await narrow.post("/", timeout=httpx2.Timeout(60.0, pool=0.05))
            await held.aread()

        assert (await narrow.post("/")).text == "hello"


async def test_bodies_are_sent_in_pieces_with_and_without_a_length(
    http: httpx2.AsyncClient, provider: Provider
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"a"

    await http.post("/", content=pieces())
    await http.post("/", files={"file": b"b" * 3_000_000}, data={"purpose": "batch"})

    assert provider.requests[0].endswith(b"\r\n\r\n" + b"1\r\na\r\n" * 3 + b"0\r\n\r\n")
    assert provider.requests[1].count(b"b" * 3_000_000) == 1


async def test_compressed_answer_is_decoded(http: httpx2.AsyncClient, provider: Provider) -> None:
    import gzip  # noqa: PLC0415 - of this test alone

    body = gzip.compress(b"hello")
    provider.answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    async with http.stream("POST", "/") as answer:
        assert b"".join([piece async for piece in body_of(answer)]) == b"hello"


async def test_header_that_would_be_two_is_refused(http: httpx2.AsyncClient, provider: Provider) -> None:
    with pytest.raises(httpx2.LocalProtocolError):
        await http.post("/", headers={"x": "1\r\ny: 2"})

    assert provider.requests == []


async def test_nobody_listens(unused_tcp_port: int) -> None:
    async with httpx2.AsyncClient(transport=Connections()) as http:
        with pytest.raises(httpx2.ConnectError):
            await http.post(f"http://127.0.0.1:{unused_tcp_port}/")
        with pytest.raises(httpx2.UnsupportedProtocol):
            await http.post("ftp://127.0.0.1/")


async def test_next_address_of_a_name_is_tried(http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    known = loop.getaddrinfo

    async def resolve(host: str, port: int, **options: int) -> object:
        assert host == "provider.example"
        # Nobody listens on the second loopback address.
        return [found for name in ("127.0.0.2", "127.0.0.1") for found in await known(name, port, **options)]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)

    answer = await http.post(http.base_url.copy_with(host="provider.example"))

    assert answer.text == "hello"


@pytest.mark.parametrize("scheme", ["http", "https", "all"])
def test_proxy_of_the_environment_is_left_to_httpx(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert isinstance(connections(), Connections)

    monkeypatch.setenv(f"{scheme}_proxy", "http://proxy.example:3128")

    assert connections() is None


async def _turns(count: int) -> None:
    """Lets everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
