"""The HTTP server: uvicorn with every wait bounded, and an end that breaks no answer."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import uvicorn

from edge.app import Edge, build
from edge.clients import checks, open_channels
from edge.connection import GuardedProtocol
from edge.settings import EdgeSettings
from services.mesh import telemetry
from services.mesh.debug_http import Health, serving
from services.mesh.server import ServerError
from services.mesh.tasks import supervised

BACKLOG: Final = 4_096
"""Connections that wait to be accepted: 10,000 streams that come back after a restart arrive at once."""
KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s after which load balancers commonly reuse no connection, so that they close it, not we."""

_CLOSE: Final = (b"connection", b"close")

_log = telemetry.logger("edge.server")


@dataclass(frozen=True, slots=True)
class RunningEdge:
    """A started edge.

    Attributes:
        port: of the HTTP API.
        debug_port: of the second port.
        edge: the application.
    """

    port: int
    debug_port: int
    edge: Edge


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the edge decides when it ends, and knows when it has begun."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn."""
        yield

    def part(self) -> None:
        """Each answer from now on asks its client for another connection, which leads to an edge that stays.

        An idle connection that is closed under a request fails it; one that is not there any more cannot.
        """
        # uvicorn makes the headers of all answers from the first list once a second, and these count till then.
        self.config.encoded_headers.append(_CLOSE)
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        self.listening.set()


async def serve(settings: EdgeSettings) -> None:
    """Serves until SIGTERM or SIGINT, then drains for at most `settings.drain_s`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as edge:
        _log.info("server_ready", http_port=edge.port, debug_port=edge.debug_port, routes=len(list(edge.edge.routes)))
        await stop.wait()
        _log.info("server_draining", drain_s=settings.drain_s)
    _log.info("server_stopped")


@asynccontextmanager
async def running(settings: EdgeSettings) -> AsyncIterator[RunningEdge]:
    """The edge while the body runs; leaving drains it."""
    async with open_channels(settings) as channels:
        health = Health(checks(channels), is_starting=True)
        edge = build(settings, channels, health)
        async with (
            serving(settings, health) as debug_port,
            listening(settings, edge, health) as port,
        ):
            yield RunningEdge(port, debug_port, edge)


@asynccontextmanager
async def listening(settings: EdgeSettings, edge: Edge, health: Health) -> AsyncIterator[int]:
    """The HTTP port while the body runs; leaving ends streams that can be resumed and finishes everything else."""
    bound = _bind(settings.http_listen)
    server = _Server(_config(settings, edge))
    async with supervised((edge.streams.loop(),), drain_s=1.0), asyncio.TaskGroup() as group:
        group.create_task(server.serve([bound]), name="uvicorn")
        try:
            await server.listening.wait()
            health.is_starting = False
            yield bound.getsockname()[1]
        finally:
            health.is_draining = True
            server.part()
            await asyncio.sleep(settings.not_serving_pause_s)
            server.should_exit = True  # no new connections; answers under way are finished
            await _drain(settings, edge)


async def _drain(settings: EdgeSettings, edge: Edge) -> None:
    try:
        async with asyncio.timeout(settings.drain_s):
            await edge.streams.drain()
    except TimeoutError:
        _log.warning("streams_not_drained", drain_s=settings.drain_s)
        edge.streams.end_all()


def _config(settings: EdgeSettings, edge: Edge) -> uvicorn.Config:
    proxies = settings.forwarded_allow_ips
    return uvicorn.Config(
        edge.app,
        loop="none",
        http=GuardedProtocol,
        ws="none",
        lifespan="off",
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        timeout_keep_alive=KEEP_ALIVE_S,
        # Answers that drained streams leave behind; the drain itself has its own bound.
        timeout_graceful_shutdown=int(settings.drain_s) + 1,
    )


def _bind(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        raise ServerError(f"cannot listen on {address}: {error.strerror}") from error
    return bound
