"""Who gets through to a server with certificates, and as whom, over real connections."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from dev.certificates import Authority, spiffe_id
from services.mesh.client import open_channel, unary
from services.mesh.errors import CallerForbidden, MeshError, Unavailable
from services.mesh.rpc import RpcContext, current
from services.mesh.server import RunningServer, ServerError
from services.mesh.settings import MeshSettings, ServerSettings, SettingsError
from tests.support.certificates import (
    TRANSPORTS,
    client_settings,
    credentials,
    party,
    server_settings,
)
from tests.support.echo import CONTRACT, EchoStub, echo_server
from tests.support.tokens import Issuer

HELLO = StringValue(value="hello")
ISSUER = Issuer()
every_transport = pytest.mark.usefixtures("transport")
ENDED = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_MESH_TRANSPORT", request.param)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.made()


@pytest.fixture
async def server(tmp_path: Path, authority: Authority) -> AsyncIterator[RunningServer]:
    """The echo service with a certificate; `Hello` answers who its caller is."""

    async def hello(_request: StringValue, _context: RpcContext) -> StringValue:
        call = current()
        assert call is not None
        return StringValue(value=call.peer or "")

    settings = server_settings(party(tmp_path / "server", authority, "inference"), health_listen="127.0.0.1:0")
    async with echo_server(verifier=ISSUER.verifier(), settings=settings, Hello=hello) as running:
        yield running


async def asked(port: int, given: grpc.ChannelCredentials | None, method: str = "Hello") -> str:
    """What the method answers to somebody with these credentials."""
    target = f"ipv4:127.0.0.1:{port}"
    opened = grpc.aio.secure_channel(target, given) if given else grpc.aio.insecure_channel(target)
    async with opened as channel:
        answer: StringValue = await unary(EchoStub(channel).unary(method)(HELLO, timeout=30.0))
        return answer.value


@every_transport
async def test_caller_is_who_its_certificate_names(server: RunningServer, authority: Authority, tmp_path: Path) -> None:
    own = client_settings(party(tmp_path / "edge", authority, "edge"))
    async with open_channel(f"127.0.0.1:{server.port}", [CONTRACT], own) as channel:
        answer: StringValue = await unary(EchoStub(channel).unary("Hello")(HELLO))
    assert answer.value == "edge"


@every_transport
async def test_several_servers_may_share_a_name(authority: Authority, tmp_path: Path) -> None:
    settings = server_settings(party(tmp_path / "server", authority, "inference"))
    own = client_settings(party(tmp_path / "edge", authority, "edge"))
    async with echo_server(settings=settings) as first, echo_server(settings=settings) as second:
        target = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        async with open_channel(target, [CONTRACT], own) as channel:
            assert (await unary(EchoStub(channel).unary("Hello")(HELLO))).value == "hello"


@pytest.mark.parametrize(
    ("uris", "told"),
    [
        ([], "has not one SPIFFE id"),
        ([spiffe_id("edge"), spiffe_id("auth")], "has not one SPIFFE id"),
        (["https://parley.dev/edge"], "has not one SPIFFE id"),
        ([spiffe_id("stranger")], "no peer is 'spiffe://parley.dev/stranger'"),
        (["spiffe://elsewhere.dev/edge"], "no peer is 'spiffe://elsewhere.dev/edge'"),
    ],
)
async def test_certificate_that_names_nobody_known_is_refused(
    server: RunningServer, authority: Authority, uris: list[str], told: str
) -> None:
    with capture_logs() as logs, pytest.raises(CallerForbidden, match="certificate") as refused:
        await asked(server.port, credentials(authority.pem, authority.issue(uris)))
    assert "parley.dev" not in str(refused.value)
    (line,) = [line for line in logs if line["event"] == "rpc_failed"]
    assert told in line["cause"].replace("\\'", "'")


@pytest.mark.parametrize("case", ["expired", "another CA's", "none", "in the clear"])
async def test_caller_without_a_good_certificate_does_not_get_in(
    server: RunningServer, authority: Authority, case: str
) -> None:
    uris = [spiffe_id("edge")]
    given = {
        "expired": credentials(authority.pem, authority.issue(uris, ends=ENDED)),
        "another CA's": credentials(authority.pem, Authority.made().issue(uris)),
        "none": credentials(authority.pem, None),
        "in the clear": None,
    }[case]
    with pytest.raises(Unavailable):
        await asked(server.port, given)


async def test_caller_refuses_a_server_of_another_ca(server: RunningServer, authority: Authority) -> None:
    other = Authority.made()
    with pytest.raises(Unavailable) as refused:
        await asked(server.port, credentials(other.pem, authority.issue([spiffe_id("edge")])))
    assert "CERTIFICATE_VERIFY_FAILED" in repr(refused.value.__cause__)


@pytest.mark.parametrize(
    ("names", "ends", "told"),
    [
        (["elsewhere"], None, "Hostname Verification Check failed"),
        (["127.0.0.1"], ENDED, "certificate has expired"),
    ],
)
async def test_caller_refuses_a_server_that_is_not_who_it_should_be(
    authority: Authority, tmp_path: Path, names: list[str], ends: datetime | None, told: str
) -> None:
    folder = party(tmp_path / "server", authority, "inference")
    chain, key = authority.issue([spiffe_id("inference")], names=names, ends=ends)
    (folder / "tls.crt").write_text(chain)
    (folder / "tls.key").write_text(key)
    async with echo_server(settings=server_settings(folder)) as server:
        with pytest.raises(Unavailable) as refused:
            await asked(server.port, credentials(authority.pem, authority.issue([spiffe_id("edge")])))
    assert told in repr(refused.value.__cause__)


@every_transport
@pytest.mark.parametrize(
    ("case", "is_allowed"),
    [
        # `Inner` is open to the edge alone; `Echo` to whoever has the scope.
        (("edge", "edge", "Inner"), True),
        (("edge", None, "Inner"), False),
        (("conversation", "conversation", "Inner"), False),
        (("conversation", "edge", "Inner"), False),
        (("consumer", "edge", "Inner"), False),
        (("edge", "edge", "Echo"), True),
        (("conversation", "edge", "Echo"), False),
        (("consumer", "edge", "Echo"), False),
        (("consumer", None, "Echo"), True),
        (("edge", None, "Echo"), True),
    ],
)
async def test_token_of_a_workload_is_good_with_its_own_certificate_only(
    server: RunningServer, authority: Authority, tmp_path: Path, case: tuple[str, str | None, str], *, is_allowed: bool
) -> None:
    peer, caller, method = case
    own = client_settings(party(tmp_path / peer, authority, peer))
    async with open_channel(f"127.0.0.1:{server.port}", [CONTRACT], own) as channel:
        metadata = ISSUER.metadata(caller=caller, scopes=["echo:read"])
        call = EchoStub(channel).unary(method)(HELLO, metadata=metadata)
        if is_allowed:
            await unary(call)
        else:
            with pytest.raises(CallerForbidden):
                await unary(call)


async def test_certificate_alone_is_nobodys_token(server: RunningServer, authority: Authority) -> None:
    given = credentials(authority.pem, authority.issue([spiffe_id("edge")]))
    with pytest.raises(MeshError) as refused:
        await asked(server.port, given, method="Inner")
    assert refused.value.reason == "CREDENTIALS_INVALID"


async def test_health_is_told_to_any_certificate_of_the_ca(server: RunningServer, authority: Authority) -> None:
    given = credentials(authority.pem, authority.issue([spiffe_id("balancer")]))
    async with grpc.aio.secure_channel(f"ipv4:127.0.0.1:{server.port}", given) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30.0)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_port_answers_in_the_clear_and_nothing_else(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(f"ipv4:127.0.0.1:{server.health_port}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30.0)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await EchoStub(channel).unary("Hello")(HELLO, timeout=30.0)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_server_that_nobody_could_call_does_not_start(authority: Authority, tmp_path: Path) -> None:
    settings = ServerSettings(mesh_tls_folder=str(party(tmp_path, authority, "inference")))
    with pytest.raises(ServerError, match="PARLEY_MESH_TLS_PEERS is empty"):
        async with echo_server(settings=settings):
            pass


async def test_process_without_its_files_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"PARLEY_MESH_TLS_FOLDER: cannot read .*tls\.crt"):
        async with open_channel("127.0.0.1:1", [CONTRACT], MeshSettings(mesh_tls_folder=str(tmp_path))):
            pass
