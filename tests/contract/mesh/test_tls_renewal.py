"""Certificates are renewed under calls, and none of the calls fails."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from dev.certificates import Authority, spiffe_id
from services.mesh.client import channel_target, open_channel, service_config, streaming, unary
from services.mesh.errors import MeshError, Unavailable
from services.mesh.rpc import RpcContext
from services.mesh.tls.certificates import CertificateFiles
from services.mesh.tls.channel import renewed_channel
from tests.support.certificates import (
    LOOK_EVERY_S,
    TRANSPORTS,
    client_settings,
    credentials,
    party,
    server_settings,
)
from tests.support.echo import CONTRACT, EchoStub, echo_server
from tests.support.waiting import until

HELLO = StringValue(value="hello")
CALLS = 50
PATIENCE_S = 120.0


@dataclass(slots=True)
class Seen:
    """What a server saw of its callers, and what they met.

    Attributes:
        certificate: that the last call came with.
    """

    certificate: bytes = b""
    answered: int = 0
    failures: list[MeshError] = field(default_factory=list)

    async def hello(self, request: StringValue, context: RpcContext) -> StringValue:
        (self.certificate,) = context.auth_context()["x509_pem_cert"]
        return request

    async def more(self) -> None:
        """Returns when many more calls have been answered."""
        enough = self.answered + CALLS
        await until(lambda: self.answered >= enough, within_s=PATIENCE_S)


@asynccontextmanager
async def calling(seen: Seen, channel: grpc.aio.Channel) -> AsyncIterator[None]:
    """Calls that gRPC repeats never, one after the other, while the body runs."""
    is_over = False

    async def call() -> None:
        while not is_over:
            try:
                await unary(EchoStub(channel).unary("Shout")(HELLO))
                seen.answered += 1
            except MeshError as error:
                seen.failures.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(call())
        yield
        is_over = True


@pytest.fixture(autouse=True, params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_MESH_TRANSPORT", request.param)


def own(folder: Path) -> bytes:
    return (folder / "tls.crt").read_bytes()


async def test_renewed_certificates_are_used_and_no_call_fails(tmp_path: Path) -> None:
    authority, seen = Authority.made(), Seen()
    served = party(tmp_path / "server", authority, "inference")
    edge = party(tmp_path / "edge", authority, "edge")
    async with (
        echo_server(settings=server_settings(served), Shout=seen.hello) as server,
        open_channel(f"127.0.0.1:{server.port}", [CONTRACT], client_settings(edge)) as channel,
        calling(seen, channel),
    ):
        await seen.more()
        for _ in range(2):
            party(tmp_path / "server", authority, "inference")
            party(tmp_path / "edge", authority, "edge")
            await until(lambda: seen.certificate == own(edge), within_s=PATIENCE_S)
            await seen.more()
    assert seen.failures == []


async def test_ca_is_replaced_and_no_call_fails(tmp_path: Path) -> None:
    """As docs/kubernetes.md tells it: both CAs are trusted, then the new one issues, then the old one goes."""
    old, new, seen = Authority.made("old"), Authority.made("new"), Seen()
    served, edge = tmp_path / "server", tmp_path / "edge"

    def step(issuer: Authority, bundle: str) -> None:
        party(served, issuer, "inference", bundle=bundle)
        party(edge, issuer, "edge", bundle=bundle)

    step(old, old.pem)
    async with (
        echo_server(settings=server_settings(served), Shout=seen.hello) as server,
        open_channel(f"127.0.0.1:{server.port}", [CONTRACT], client_settings(edge)) as channel,
    ):
        async with calling(seen, channel):
            for issuer, bundle in ((old, old.pem + new.pem), (new, old.pem + new.pem), (new, new.pem)):
                step(issuer, bundle)
                await until(lambda: seen.certificate == own(edge), within_s=PATIENCE_S)
                await seen.more()
        assert seen.failures == []
        late = credentials(new.pem, old.issue([spiffe_id("edge")]))
        async with grpc.aio.secure_channel(f"ipv4:127.0.0.1:{server.port}", late) as refused:
            with pytest.raises(Unavailable):
                await unary(EchoStub(refused).unary("Hello")(HELLO, timeout=30.0))


async def test_stream_goes_on_over_the_channel_that_it_began_on(tmp_path: Path) -> None:
    authority, seen, release = Authority.made(), Seen(), asyncio.Event()
    served = party(tmp_path / "server", authority, "inference")
    edge = party(tmp_path / "edge", authority, "edge")

    async def split(_request: StringValue, _context: RpcContext) -> AsyncIterator[StringValue]:
        yield StringValue(value="before")
        await release.wait()
        yield StringValue(value="after")

    async with (
        echo_server(settings=server_settings(served), Shout=seen.hello, Split=split) as server,
        open_channel(f"127.0.0.1:{server.port}", [CONTRACT], client_settings(edge)) as channel,
        streaming(EchoStub(channel).split(HELLO)) as words,
    ):
        assert (await anext(words)).value == "before"
        async with calling(seen, channel):
            party(tmp_path / "edge", authority, "edge")
            await until(lambda: seen.certificate == own(edge), within_s=PATIENCE_S)
        release.set()
        assert [word.value async for word in words] == ["after"]
    assert seen.failures == []


async def test_channel_before_goes_on_while_nobody_takes_the_new_certificate(tmp_path: Path) -> None:
    """The CA was replaced at the client first: a mistake of an operator, and no outage."""
    old, new, seen = Authority.made("old"), Authority.made("new"), Seen()
    served = party(tmp_path / "server", old, "inference")
    edge = party(tmp_path / "edge", old, "edge", bundle=old.pem + new.pem)
    before = own(edge)
    async with echo_server(settings=server_settings(served), Shout=seen.hello) as server:
        dial = Dial(server.port)
        async with (
            renewed_channel(CertificateFiles(edge), dial, look_every_s=LOOK_EVERY_S, answer_s_max=1.0) as channel,
            calling(seen, channel),
        ):
            await seen.more()
            party(edge, new, "edge", bundle=old.pem + new.pem)
            await until(lambda: dial.made > 2, within_s=PATIENCE_S)  # the first one, and then again and again
            await seen.more()
            assert seen.certificate == before
            party(served, old, "inference", bundle=old.pem + new.pem)
            await until(lambda: seen.certificate == own(edge), within_s=PATIENCE_S)
    assert seen.failures == []


@pytest.mark.parametrize("damage", ["not PEM", "another key", "nothing"])
async def test_damaged_files_change_nothing(tmp_path: Path, damage: str) -> None:
    authority, seen = Authority.made(), Seen()
    served = party(tmp_path / "server", authority, "inference")
    edge = party(tmp_path / "edge", authority, "edge")
    before = own(edge)
    async with (
        echo_server(settings=server_settings(served), Shout=seen.hello) as server,
        open_channel(f"127.0.0.1:{server.port}", [CONTRACT], client_settings(edge)) as channel,
        calling(seen, channel),
    ):
        for folder in (served, edge):
            _damage(folder, damage)
        await seen.more()
        assert seen.certificate == before
        party(tmp_path / "edge", authority, "edge")
        await until(lambda: seen.certificate == own(edge), within_s=PATIENCE_S)
    assert seen.failures == []


def _damage(folder: Path, damage: str) -> None:
    if damage == "not PEM":
        (folder / "tls.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    elif damage == "another key":
        (folder / "tls.key").write_text(Authority.made().issue([])[1])
    else:
        (folder / "tls.crt").unlink()


class Dial:
    """Channels to a server, and how many there were."""

    def __init__(self, port: int) -> None:
        self.made = 0
        options = [("grpc.service_config", json.dumps(service_config([CONTRACT])))]
        self._make: Callable[[grpc.ChannelCredentials], grpc.aio.Channel] = partial(
            grpc.aio.secure_channel, channel_target(f"127.0.0.1:{port}"), options=options
        )

    def __call__(self, given: grpc.ChannelCredentials) -> grpc.aio.Channel:
        self.made += 1
        return self._make(given)
