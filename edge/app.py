"""Composition root of the edge: settings to one ASGI application and the server around it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Receive, Scope, Send

from edge import health as health_endpoints
from edge.clients import AuthTokens, Channels, multicallable
from edge.compat.anthropic.errors import anthropic_error
from edge.compat.anthropic.routes import PREFIX as ANTHROPIC_PREFIX
from edge.compat.anthropic.routes import anthropic_routes
from edge.compat.openai.errors import openai_error
from edge.compat.openai.routes import PREFIX as OPENAI_PREFIX
from edge.compat.openai.routes import openai_routes
from edge.errors import Surfaces
from edge.http import Exchange
from edge.identity import CookieRule, Identities, Metadata, credential_of
from edge.limits import BodyLimit, Limited, json_limit, upload_limit
from edge.middleware import CALLER_KEY, Cors, Observed, SecurityHeaders
from edge.pages import Asset, StaticEndpoint, web_files
from edge.session import BeginSession, EndSession
from edge.settings import EdgeSettings
from edge.sse import EventStreams
from edge.transcoding.contracts import Contract, bindings
from edge.transcoding.decoding import Decoders
from edge.transcoding.encoding import Encoders
from edge.transcoding.endpoints import Tools, derived_routes
from edge.transcoding.openapi import document
from edge.transcoding.routes import DerivedRoutes, RouteTable, Template
from edge.transcoding.streams import StreamPump
from edge.upload import PATH as UPLOAD_PATH
from edge.upload import UploadDocument
from parley.auth.v1 import token_service_pb2_grpc
from parley.retrieval.v1 import document_service_pb2_grpc
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.debug_http import Health
from services.mesh.errors import CredentialsInvalid, NotFound
from services.mesh.limiter import InFlightLimiter

SESSION_PATH: Final = "/api/v1/auth/session"

# Pictures travel in their bodies, by four thirds of what the mesh may carry; of batches, many requests.
_LARGE: Final = frozenset(
    {"/v1/chat/completions", "/anthropic/v1/messages", "/anthropic/v1/messages/count_tokens", "/api/v1/batches"}
)
STRANGERS_PART: Final = 10
"""One place in so many is for bodies that are read before anybody is known: of logins, mostly. They may dribble for
half a minute, and a thousand of them would leave nobody else a place."""
_PATH_SHOWN_CHARACTERS_MAX: Final = 200
_UPLOAD: Final = re.compile(r"/api/v1/knowledge_bases/[^/]+/documents")


class EdgeBorder:
    """Implements `endpoints.Border`. Methods that are not public need a caller: deny is the default."""

    def __init__(self, channels: Channels, identities: Identities, cookie: CookieRule) -> None:
        self._channels = channels
        self._identities = identities
        self._cookie = cookie

    async def metadata(self, exchange: Exchange, contract: Contract) -> Metadata:
        """See `Border.metadata`."""
        if contract.policy.is_public:
            return ()
        return await self.metadata_for(exchange, contract.service)

    async def metadata_for(self, exchange: Exchange, service: str) -> Metadata:
        """Metadata of calls to a service on behalf of the request's caller.

        Raises:
            CredentialsInvalid: there is no credential, or it is refused.
        """
        credential = credential_of(exchange, self._cookie)
        if credential is None:
            raise CredentialsInvalid
        caller = await self._identities.caller(credential)
        exchange.scope[CALLER_KEY] = caller.credential_id
        return caller.metadata[service]

    def multicallable(self, contract: Contract) -> Any:  # Any: grpc.aio's generic callables
        """See `Border.multicallable`."""
        return multicallable(self._channels, contract)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The assembled application.

    Attributes:
        app: the ASGI application.
        routes: all its routes, for tests.
        streams: its event streams, for the server to drain.
    """

    app: ASGIApp
    routes: RouteTable
    streams: EventStreams


def build(settings: EdgeSettings, channels: Channels, health: Health, *, clock: Clock = SYSTEM_CLOCK) -> Edge:
    """The application on given channels."""
    streams = EventStreams(streams_max=settings.streams_max)
    identities = Identities(
        AuthTokens(channels), workload_secret=settings.workload_secret.get_secret_value(), clock=clock
    )
    cookie = CookieRule.of(settings.public_url, is_secure=settings.is_cookie_secure)
    border = EdgeBorder(channels, identities, cookie)
    tools = Tools(border=border, pump=StreamPump(streams), encoders=Encoders(), decoders=Decoders())
    table = derived_routes(tools)
    parts = Parts(channels, border, tools, streams, health, identities, cookie)
    for (verb, path), endpoint in handwritten(parts).items():
        table.add(verb, Template.parse(path), endpoint)
    return Edge(app=_application(settings, table), routes=table, streams=streams)


@dataclass(frozen=True, slots=True)
class Parts:
    """What hand-written endpoints are made of."""

    channels: Channels
    border: EdgeBorder
    tools: Tools
    streams: EventStreams
    health: Health
    identities: Identities
    cookie: CookieRule


def handwritten(parts: Parts) -> Mapping[tuple[str, str], ASGIApp]:
    """The routes that no contract derives, by verb and path template."""
    encoders, cookie = parts.tools.encoders, parts.cookie
    tokens = token_service_pb2_grpc.TokenServiceStub(parts.channels["auth"])
    documents = document_service_pb2_grpc.DocumentServiceStub(parts.channels["retrieval"])
    assets = web_files()
    pages = {"/": assets["index.html"], "/docs": assets["docs.html"], "/favicon.ico": assets["icon.svg"]}
    pages |= {f"/web/{name}": asset for name, asset in assets.items()}
    pages["/openapi.json"] = Asset.of(document(), "application/json")
    routes: dict[tuple[str, str], ASGIApp] = {
        ("POST", SESSION_PATH): BeginSession(tokens, cookie, encoders, parts.tools.decoders),
        ("DELETE", SESSION_PATH): EndSession(tokens, cookie, parts.identities),
        ("POST", UPLOAD_PATH): UploadDocument(parts.border, documents, encoders),
        ("GET", "/healthz"): health_endpoints.alive,
        ("GET", "/readyz"): health_endpoints.Ready(parts.health),
    }
    for path, asset in pages.items():
        routes["GET", path] = routes["HEAD", path] = StaticEndpoint(asset)
    routes |= openai_routes(parts.channels, parts.border, parts.streams, encoders)
    return routes | anthropic_routes(parts.channels, parts.border, parts.streams)


def _application(settings: EdgeSettings, table: RouteTable) -> ASGIApp:
    # FastAPI's own documents would load scripts from a foreign host, and describe none of the derived routes. Its spans
    # would stand beside ours, below whatever trace a stranger names, with whole paths and the texts of exceptions.
    silent: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, telemetry=silent)
    app.router.routes.append(DerivedRoutes(table))
    app.router.default = _not_found
    json, upload = json_limit(settings.request_bytes_max), upload_limit(settings.document_bytes_max)
    prompt = json_limit(settings.prompt_bytes_max)

    def limit_of(scope: Scope) -> BodyLimit:
        if scope["method"] != "POST":
            return json
        if scope["path"] in _LARGE:
            return prompt
        return upload if _UPLOAD.fullmatch(scope["path"]) else json

    # FastAPI's stack would answer errors before ours and add layers; routes need its exit stack only.
    limited = Limited(AsyncExitStackMiddleware(app.router), limit_of=limit_of, places_of=_places(settings))
    observed = Observed(
        limited,
        surfaces=Surfaces({OPENAI_PREFIX: openai_error, ANTHROPIC_PREFIX: anthropic_error}),
        security=SecurityHeaders(is_https=settings.is_https),
        cors=Cors(settings.origins),
    )
    app.build_middleware_stack = lambda: observed  # type: ignore[method-assign]  # FastAPI's hook for its own stack
    return app


def _places(settings: EdgeSettings) -> Callable[[Scope], InFlightLimiter]:
    everybody = InFlightLimiter(settings.requests_in_flight_max)
    strangers = InFlightLimiter(max(1, settings.requests_in_flight_max // STRANGERS_PART))
    public = {it.template for it in bindings() if it.contract.policy.is_public and it.body} | {SESSION_PATH}

    def places_of(scope: Scope) -> InFlightLimiter:
        return strangers if scope["path"] in public and scope["method"] == "POST" else everybody

    return places_of


async def _not_found(scope: Scope, _receive: Receive, _send: Send) -> None:
    # A base URL with a /v1 too many or too few is the commonest mistake with SDKs, which do not show what they ask for.
    path = scope["path"][:_PATH_SHOWN_CHARACTERS_MAX]
    raise NotFound(f"nothing is served at {path!r}: see /docs for what is", metadata={"resource": "path"})
