"""Connections to providers over TLS, as every vendor's are: to whom the name belongs, and to nobody else."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import pytest
import uvloop

from dev.certificates import Authority, write
from services.inference.providers.transport import Connections
from tests.support.waiting import until

PIECE = b"a" * 100_000


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> AbstractContextManager[asyncio.Runner]:
    make: Callable[[], asyncio.AbstractEventLoop] = request.param  # the services run on uvloop
    return asyncio.Runner(loop_factory=make)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The only CA that is trusted here."""
    made = Authority.made()
    (tmp_path / "trusted.crt").write_text(made.pem, encoding="ascii")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.crt"))
    return made


async def asked(folder: Path, authority: Authority, times: int, *, is_cut: bool = False) -> tuple[list[int], int]:
    """Lengths of so many answers of a server with a certificate of `authority`, and how many connections it took."""
    made = left = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made, left
        made += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(PIECE) * 2) + PIECE)
                await writer.drain()
                if is_cut:
                    writer.transport.abort()
                    return
                writer.write(PIECE)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            left += 1
            writer.close()

    write(folder, *authority.issue([]), bundle=authority.pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        async with httpx2.AsyncClient(transport=Connections(), timeout=60.0) as http:
            answers = [await http.get(url) for _ in range(times)]
    finally:
        await until(lambda: left == made)
        server.close()
    return [len(answer.content) for answer in answers], made


def test_answers_come_whole_over_one_connection(
    runner: AbstractContextManager[asyncio.Runner], tmp_path: Path, authority: Authority
) -> None:
    with runner as running:
        lengths, made = running.run(asked(tmp_path, authority, 3))

    assert lengths == [len(PIECE) * 2] * 3
    assert made == 1


def test_answer_that_is_cut_off_is_an_error(
    runner: AbstractContextManager[asyncio.Runner], tmp_path: Path, authority: Authority
) -> None:
    with runner as running, pytest.raises(httpx2.RemoteProtocolError):
        running.run(asked(tmp_path, authority, 1, is_cut=True))


@pytest.mark.usefixtures("authority")
def test_server_that_nobody_vouches_for_is_not_spoken_to(
    runner: AbstractContextManager[asyncio.Runner], tmp_path: Path
) -> None:
    with runner as running, pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
        running.run(asked(tmp_path, Authority.made("somebody else"), 1))
