"""Around every request: its id, its errors, its headers, its log line and its metrics. Pure ASGI, one layer."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from time import monotonic
from typing import Final

from opentelemetry.trace import Span
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.connection import Connection, connection_of
from edge.errors import CLIENT_CLOSED, Surfaces
from edge.tracing import answered, traced
from services.mesh import context, telemetry
from services.mesh.errors import Reason
from services.mesh.ids import new_id
from services.mesh.status import public

ROUTE_KEY: Final = "parley.route"
"""Where an endpoint leaves the name of what answers: an RPC's full name, or the name of a hand-written route."""
CALLER_KEY: Final = "parley.caller"
"""Where identity leaves the id of the caller's credential."""
UNROUTED: Final = "none"
API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
CORS_AGE_S: Final = 600

_HSTS: Final = "max-age=31536000; includeSubDomains"
_EXPOSED: Final = (
    "x-request-id, request-id, x-parley-turn, x-parley-conversation, parley-position, etag, location, retry-after"
)

_REQUESTS: Final = telemetry.counter(
    "parley_edge_requests", "Requests answered, by route and status.", ["route", "method", "status"]
)
# With the bounds of what is promised of reads (0.08 and 0.2 s) and of accepting a turn (0.3 s) among them.
_START_BUCKETS_S: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_START_SECONDS: Final = telemetry.histogram(
    "parley_edge_response_start_seconds",
    "From the head of a request to the head of its answer.",
    ["route"],
    buckets=_START_BUCKETS_S,
)
_IN_FLIGHT: Final = telemetry.gauge(
    "parley_edge_requests_in_flight_count", "Requests being answered, streams included."
)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_log = telemetry.logger("edge")

RawHeaders = list[tuple[bytes, bytes]]


class SecurityHeaders:
    """Headers of every answer; an endpoint that sets one of them itself keeps its own."""

    def __init__(self, *, is_https: bool) -> None:
        headers = {
            "content-security-policy": API_POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "camera=(), microphone=(), geolocation=()",
            "cache-control": "no-store",
        }
        if is_https:
            headers["strict-transport-security"] = _HSTS
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    def add_to(self, headers: RawHeaders) -> None:
        """Adds what is missing."""
        present = {name for name, _ in headers}
        headers += (header for header in self._headers if header[0] not in present)


class Cors:
    """Which pages of other origins may read answers: none unless listed, and never with the session cookie."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    def headers(self, scope: Scope) -> RawHeaders:
        """What the answer to this request says about its origin."""
        origin = _raw_header(scope, b"origin")
        if origin is None or origin.decode("latin-1") not in self._origins:
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED.encode()),
            (b"cross-origin-resource-policy", b"cross-origin"),
            (b"vary", b"origin"),
        ]

    def preflight(self, scope: Scope) -> RawHeaders | None:
        """The answer to a preflight of a listed origin; None for every other request."""
        if scope["method"] != "OPTIONS" or _raw_header(scope, b"access-control-request-method") is None:
            return None
        allowed = self.headers(scope)
        if not allowed:
            return None
        asked = _raw_header(scope, b"access-control-request-headers") or b""
        return [
            *allowed,
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", str(CORS_AGE_S).encode()),
        ]


class Observed:
    """ASGI application with everything around it that is the same for every request."""

    def __init__(self, app: ASGIApp, *, surfaces: Surfaces, security: SecurityHeaders, cors: Cors) -> None:
        self._app = app
        self._surfaces = surfaces
        self._security = security
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = (_raw_header(scope, b"x-request-id") or b"").decode("latin-1")
        request_id = given if context.is_request_id(given) else new_id("req")
        observation = _Observation(scope, send, request_id, self._security, self._cors)
        _IN_FLIGHT.inc()
        try:
            with context.request(request_id), traced(scope, request_id, observation.method) as span:
                await self._run(observation, receive)
                observation.record(span)
        finally:
            _IN_FLIGHT.dec()

    async def _run(self, observation: "_Observation", receive: Receive) -> None:
        scope, connection, task = observation.scope, connection_of(observation.scope), asyncio.current_task()
        assert task is not None
        if connection is not None:
            connection.watch(task)
        try:
            preflight = self._cors.preflight(scope)
            if preflight is None:
                await self._app(scope, receive, observation.send)
            else:
                await observation.answer(HTTPStatus.NO_CONTENT, b"", preflight)
        except asyncio.CancelledError:
            if connection is None or not connection.is_lost:
                raise
            observation.status = CLIENT_CLOSED
        except Exception as error:  # noqa: BLE001 - the translator: whatever happened, the caller gets an answer
            await self._fail(observation, error, connection)
        finally:
            if connection is not None:
                connection.unwatch(task)

    async def _fail(self, observation: "_Observation", error: Exception, connection: Connection | None) -> None:
        shown = public(error)
        observation.reason = shown.reason
        if shown.reason is Reason.INTERNAL:
            _log.error("request_failed", exc_info=error)
        if observation.is_started:
            # Half an answer cannot be taken back; a broken connection is the one way left to say so.
            if connection is not None:
                connection.abort()
            return
        answer = self._surfaces.answer(shown, path=observation.scope["path"], request_id=observation.request_id)
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers]
        headers.append((b"content-type", answer.media_type.encode()))
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await observation.answer(answer.status, answer.body, headers)


class _Observation:
    """What is known about one request so far."""

    def __init__(self, scope: Scope, send: Send, request_id: str, security: SecurityHeaders, cors: Cors) -> None:
        self.scope = scope
        self.method = scope["method"] if scope["method"] in _METHODS else "other"
        self.request_id = request_id
        self.status = 0
        self.reason: str = ""
        self.is_started = False
        self._send = send
        self._security = security
        self._cors = cors
        self._bytes = 0
        self._began = monotonic()
        self._start_s = 0.0

    async def send(self, message: Message) -> None:
        """ASGI `send` that completes the head and counts the body."""
        if message["type"] == "http.response.start":
            self.is_started = True
            self.status = message["status"]
            self._start_s = monotonic() - self._began
            headers: RawHeaders = list(message["headers"])
            headers += self._cors.headers(self.scope)
            headers.append((b"x-request-id", self.request_id.encode()))
            self._security.add_to(headers)
            message = {**message, "headers": headers}
        else:
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    async def answer(self, status: int, body: bytes, headers: RawHeaders) -> None:
        """A whole answer that no endpoint made."""
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})

    def record(self, span: Span | None) -> None:
        """The one line, the figures and the span of this request."""
        route, method = self.scope.get(ROUTE_KEY, UNROUTED), self.method
        answered(span, method=method, route=route, status=self.status, reason=self.reason)
        _REQUESTS.labels(route, method, str(self.status)).inc()
        if self.is_started:
            _START_SECONDS.labels(route).observe(self._start_s)
        _log.info(
            "request",
            route=route,
            method=method,
            status=self.status,
            reason=self.reason,
            start_ms=round(self._start_s * 1000, 2),
            duration_ms=round((monotonic() - self._began) * 1000, 2),
            bytes_sent=self._bytes,
            credential_id=self.scope.get(CALLER_KEY, ""),
        )


def _raw_header(scope: Scope, wanted: bytes) -> bytes | None:
    for name, value in scope["headers"]:
        if name == wanted:
            raw: bytes = value
            return raw
    return None
