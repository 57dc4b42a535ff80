"""The second port: /healthz, /readyz, /metrics and /debug/config, for operators and probes only.

A few lines on asyncio streams instead of a web framework: it answers GET, one request per connection, everything
bounded, and it keeps answering while the process drains.
"""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from prometheus_client.exposition import choose_encoder

from services.mesh import lag, telemetry
from services.mesh.effective import effective
from services.mesh.settings import MeshSettings

REQUEST_BYTES_MAX: Final = 8_192
REQUEST_TIMEOUT_S: Final = 5.0
CHECK_TIMEOUT_S: Final = 1.0

_JSON: Final = "application/json"
_log = telemetry.logger("mesh.debug_http")
_PASSED: Final = telemetry.gauge(
    "parley_mesh_check_passed_ratio", "Whether what the process needs was there at the last look: 1, or 0.", ["check"]
)


@dataclass(frozen=True, slots=True)
class Check:
    """Something a process needs to be ready; `probe` raises when it is not there."""

    name: str
    probe: Callable[[], Awaitable[object]]


class Health:
    """Whether the process is ready, as /readyz and the gRPC health service say.

    Attributes:
        is_starting: it does not serve yet; this port is open first.
        is_draining: it is about to end.
    """

    def __init__(self, checks: Sequence[Check] = (), *, is_starting: bool = False) -> None:
        self._checks = tuple(checks)
        self.is_starting = is_starting
        self.is_draining = False

    async def problems(self) -> dict[str, str]:
        """What keeps the process from being ready, by name of the check; empty when it is ready."""
        if self.is_draining:
            return {"process": "draining"}
        if self.is_starting:
            return {"process": "starting"}
        results = await asyncio.gather(*(self._problem(check) for check in self._checks))
        return {check.name: result for check, result in zip(self._checks, results, strict=True) if result}

    async def _problem(self, check: Check) -> str:
        passed = _PASSED.labels(check.name)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await check.probe()
            passed.set(1)
        except Exception as error:  # noqa: BLE001 - a probe may fail in any way, and each means: not ready
            passed.set(0)
            _log.warning("check_failed", check=check.name, error=repr(error))
            return type(error).__name__  # not its text: this port is unauthenticated
        return ""


@dataclass(frozen=True, slots=True)
class _Response:
    status: HTTPStatus
    media_type: str
    body: bytes


@asynccontextmanager
async def serving(settings: MeshSettings, health: Health) -> AsyncIterator[int]:
    """Serves the second port at `settings.debug_listen` while the body runs; gives the port's number."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, TimeoutError):
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    writer.write(_encode(await _answer(reader, settings, health)))
                    await writer.drain()
            finally:
                writer.close()

    host, _, port = settings.debug_listen.rpartition(":")
    server = await asyncio.start_server(connected, host.strip("[]"), int(port), limit=REQUEST_BYTES_MAX)
    async with server:
        with lag.measured():
            yield server.sockets[0].getsockname()[1]


async def _answer(reader: asyncio.StreamReader, settings: MeshSettings, health: Health) -> _Response:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return _json(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, {"error": "request too large"})
    except asyncio.IncompleteReadError:
        return _json(HTTPStatus.BAD_REQUEST, {"error": "incomplete request"})
    lines = head.decode("latin-1").split("\r\n")
    method, _, rest = lines[0].partition(" ")
    if method != "GET":
        return _json(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "only GET"})
    path = rest.partition(" ")[0].partition("?")[0]
    if path == "/metrics":
        await health.problems()  # so that what was scraped is as fresh as the rest
    if path == "/readyz":
        problems = await health.problems()
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        return _json(status, {"status": "not ready" if problems else "ready", "problems": problems})
    return _page(path, lines, settings)


def _page(path: str, lines: Sequence[str], settings: MeshSettings) -> _Response:
    match path:
        case "/healthz":
            return _json(HTTPStatus.OK, {"status": "alive"})
        case "/metrics":
            return _metrics(lines)
        case "/debug/config":
            return _json(HTTPStatus.OK, [dataclasses.asdict(setting) for setting in effective(settings)])
        case _:
            return _json(HTTPStatus.NOT_FOUND, {"error": "no such page"})


def _metrics(lines: Sequence[str]) -> _Response:
    accept = next((line[7:].strip() for line in lines if line.lower().startswith("accept:")), "")
    encoder, media_type = choose_encoder(accept)
    return _Response(HTTPStatus.OK, media_type, encoder(telemetry.REGISTRY))


def _json(status: HTTPStatus, content: object) -> _Response:
    return _Response(status, _JSON, json.dumps(content, indent=1).encode() + b"\n")


def _encode(response: _Response) -> bytes:
    head = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"content-type: {response.media_type}\r\n"
        f"content-length: {len(response.body)}\r\n"
        "cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + response.body
