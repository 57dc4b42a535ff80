"""Serves servicers until SIGTERM, then drains without failing a call.

await serve(
settings,
servicers=[lambda server: add_TokenServiceServicer_to_server(TokenServicer(...), server)],
verifier=internal_verifier("auth", keys),
loops=[Loop("outbox", relay.run)],
checks=[Check("database", database.ping)],
)
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from parley.mesh.v1.tunnel_service_pb2_grpc import add_TunnelServiceServicer_to_server
from services.mesh import telemetry
from services.mesh.debug_http import Check, Health, serving
from services.mesh.identity import TokenVerifier
from services.mesh.interceptors.chain import Chain, is_async, pinned_stages
from services.mesh.interceptors.leaving import Leaving
from services.mesh.limiter import InFlightLimiter
from services.mesh.policy import INFRASTRUCTURE, Policy, policy_table
from services.mesh.settings import MeshSettings, ServerSettings
from services.mesh.tasks import Loop, periodic, supervised
from services.mesh.tls.certificates import CertificateFiles, certificate_files, server_credentials
from services.mesh.tls.peers import Peers
from services.mesh.tunnel.server import PATH, TunnelServer

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of one request or response. Nested messages grow tenfold in memory: 40 MB at worst. Uploads come in chunks."""
METADATA_BYTES_MAX: Final = 16 * 1024
"""gRPC refuses metadata between its soft limit and this at random; ours stays below 8 KiB by design."""
PENDING_CALLS_MAX: Final = 1_000_000
"""At gRPC's own limits (1,000 and 3,000) a burst on a busy loop ended with 2,275 of 5,000 calls CANCELLED; load is
shed by the limit stage instead, with a reason."""
UNREQUESTED_S_MAX: Final = 600
CONNECTION_AGE_S: Final = 60
"""Clients reconnect about this often and so find new replicas."""
CONNECTION_GRACE_S: Final = 3_720
"""What is under way on an aged connection ends in its time: the longest stream, and for a tunnel the calls that began
on it until it was exchanged (`tunnel.backend.EXCHANGE_S`)."""
KEEPALIVE_S: Final = 30
"""A client that is gone without a word is noticed after this and `KEEPALIVE_ANSWER_S`; until then its calls go on."""
KEEPALIVE_ANSWER_S: Final = 15
LAST_WORDS_S: Final = 0.5
"""Before the end of a drain, for the calls that have not ended to be told so."""

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.so_reuseport", 0),  # two processes on one port fail loudly instead of splitting the traffic
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
    ("grpc.server_max_unrequested_time_in_server", UNREQUESTED_S_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_S * 1_000),
    ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_S * 1_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1_000),
    # Not `grpc.keepalive_timeout_ms`: below a minute, gRPC 1.85 waits for this one.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_ANSWER_S * 1_000),
    ("grpc.http2.max_pings_without_data", 0),
)

Register = Callable[[grpc.aio.Server], object]
"""Adds one servicer: `lambda server: add_XServicer_to_server(servicer, server)`."""

_log = telemetry.logger("mesh.server")


class ServerError(Exception):
    """The server must not start as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A started server, for tests and composition.

    Attributes:
        port: of the gRPC API.
        debug_port: of /readyz and its neighbours.
        policies: the method table that is enforced.
        health_port: that answers health checks alone; 0 where there is none.
    """

    port: int
    debug_port: int
    policies: Mapping[str, Policy]
    health_port: int


async def serve(
    settings: ServerSettings,
    *,
    servicers: Sequence[Register],
    verifier: TokenVerifier | None,
    loops: Sequence[Loop] = (),
    checks: Sequence[Check] = (),
) -> None:
    """Serves until SIGTERM or SIGINT, then drains: calls for at most `settings.drain_s`, then loops for as long again.

    Before that, clients find other replicas and leave for them; streams that can be resumed end in between.

    Args:
        settings: addresses and limits.
        servicers: what is served.
        verifier: of internal tokens for this service; without one, only public methods answer.
        loops: background work; starts before the API and ends after it.
        checks: what /readyz asks.

    Raises:
        PolicyError: a method has no sound policy.
        ServerError: a handler is not async, or the port is taken.
    """
    stop = _stop_signal()
    async with running(settings, servicers=servicers, verifier=verifier, loops=loops, checks=checks) as server:
        _log.info("server_ready", grpc_port=server.port, debug_port=server.debug_port, methods=len(server.policies))
        await stop.wait()
        _log.info("server_draining", drain_s=settings.drain_s)
    _log.info("server_stopped")


async def run_worker(settings: MeshSettings, *, loops: Sequence[Loop], checks: Sequence[Check] = ()) -> None:
    """Runs a process without a gRPC API until SIGTERM: its loops, and the second port for probes and metrics."""
    stop = _stop_signal()
    async with running_worker(settings, loops=loops, checks=checks) as debug_port:
        _log.info("worker_ready", debug_port=debug_port, loops=[loop.name for loop in loops])
        await stop.wait()
        _log.info("worker_draining", drain_s=settings.drain_s)
    _log.info("worker_stopped")


@asynccontextmanager
async def running(
    settings: ServerSettings,
    *,
    servicers: Sequence[Register],
    verifier: TokenVerifier | None,
    loops: Sequence[Loop] = (),
    checks: Sequence[Check] = (),
) -> AsyncIterator[RunningServer]:
    """The server while the body runs; leaving drains it. What `serve` does, without the signals."""
    registry = _Registry()
    for register in servicers:
        # The generated functions call two methods of the server; the registry has both and learns the handlers.
        register(cast("grpc.aio.Server", registry))
    policies = dict(policy_table(registry.handlers))
    registry.refuse_sync_handlers()
    leaving = Leaving()
    files = certificate_files(settings)
    peers = _peers(settings, files)
    stages = pinned_stages(verifier=verifier, peers=peers, limiter=InFlightLimiter(settings.calls_max), leaving=leaving)
    chain = Chain(stages, {**INFRASTRUCTURE, **policies}, carrier=PATH)
    server = grpc.aio.server(interceptors=[chain], options=_OPTIONS)
    for register in servicers:
        register(server)
    tunnels = TunnelServer(
        lambda path: chain.around(path, registry.handlers.get(path)), admit=None if peers is None else peers.name_of
    )
    add_TunnelServiceServicer_to_server(tunnels, server)
    health_servicer = health.aio.HealthServicer()
    await health_servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    if settings.reflection:
        reflection.enable_server_reflection([*registry.services, health.SERVICE_NAME], server)
    port = _bind(server, settings.grpc_listen, files)
    process_health = Health(checks, is_starting=True)
    if files is not None:
        loops = [*loops, periodic("certificates", _looking(files), every_s=settings.mesh_tls_look_every_s)]
    async with (
        _process(settings, process_health, loops) as debug_port,
        _health_port(settings.health_listen, health_servicer) as health_port,
        _started(server, settings, leaving, tunnels),
    ):
        for name in ("", *registry.services):
            await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        process_health.is_starting = False
        try:
            yield RunningServer(port, debug_port, policies, health_port)
        finally:
            process_health.is_draining = True
            # The replica that came up a moment ago is no place to go yet for clients that were told of its absence.
            await asyncio.sleep(settings.not_serving_pause_s)
            await health_servicer.enter_graceful_shutdown()
            tunnels.leave()


@asynccontextmanager
async def running_worker(
    settings: MeshSettings, *, loops: Sequence[Loop], checks: Sequence[Check] = ()
) -> AsyncIterator[int]:
    """Loops and second port while the body runs; gives the port. Leaving drains the loops."""
    process_health = Health(checks)
    async with _process(settings, process_health, loops) as debug_port:
        try:
            yield debug_port
        finally:
            process_health.is_draining = True


@asynccontextmanager
async def _process(settings: MeshSettings, process_health: Health, loops: Sequence[Loop]) -> AsyncIterator[int]:
    # The second port is opened first and closed last: an operator can look at a process that starts or drains.
    async with serving(settings, process_health) as debug_port, supervised(tuple(loops), drain_s=settings.drain_s):
        yield debug_port


@asynccontextmanager
async def _started(
    server: grpc.aio.Server, settings: ServerSettings, leaving: Leaving, tunnels: TunnelServer
) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        # Clients that watch health have left by then; `stop` alone failed 3 calls each time, with this 0 of 7,526.
        await asyncio.sleep(settings.not_serving_pause_s)
        leaving.begin()
        tunnels.refuse()
        wait_s = settings.drain_s - min(LAST_WORDS_S, settings.drain_s / 2)
        last_words = asyncio.get_running_loop().call_later(wait_s, leaving.end)
        try:
            await server.stop(settings.drain_s)
            await tunnels.ended()
        finally:
            last_words.cancel()


@asynccontextmanager
async def _health_port(address: str, servicer: health.aio.HealthServicer) -> AsyncIterator[int]:
    """The same answers as on the port of the API, in the clear, for probes that have no certificate.

    A kubelet's gRPC probes know no TLS. This port belongs to a server of its own, so that nothing else can be asked.
    """
    if not address:
        yield 0
        return
    server = grpc.aio.server(options=_OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = _bind(server, address, None)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def _bind(server: grpc.aio.Server, address: str, files: CertificateFiles | None) -> int:
    try:
        if files is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, server_credentials(files))
    except RuntimeError as error:
        raise ServerError(f"cannot listen on {address}: is it taken by another process?") from error


def _peers(settings: ServerSettings, files: CertificateFiles | None) -> Peers | None:
    if files is None:
        return None
    if not settings.mesh_tls_peers:
        raise ServerError("PARLEY_MESH_TLS_PEERS is empty: with PARLEY_MESH_TLS_FOLDER set, nobody could call")
    return Peers(settings.mesh_tls_peers)


def _looking(files: CertificateFiles) -> Callable[[], Awaitable[None]]:
    async def look() -> None:
        files.look()

    return look


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class _Registry:
    """Stands in for a server once, to learn which methods the generated code registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}  # Any: handlers of all messages
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, _handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """The same handlers in a form that cannot be listed."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """Takes note of a service."""
        self.services.append(service_name)
        for name, handler in method_handlers.items():
            self.handlers[f"/{service_name}/{name}"] = handler

    def refuse_sync_handlers(self) -> None:
        """A plain `def` runs in a thread pool, without the call's context; nobody means that."""
        blocking = sorted(path for path, handler in self.handlers.items() if not is_async(handler))
        if blocking:
            raise ServerError("handlers must be `async def`: " + ", ".join(blocking))
