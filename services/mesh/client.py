"""Channels to other services, and the one way to call through them.

    contracts = [search_service_pb2.DESCRIPTOR]
    channel = await stack.enter_async_context(open_channel(settings.retrieval_target, contracts, settings))
    search = SearchServiceStub(channel)
    response = await unary(search.Search(request, metadata=await tokens.metadata("retrieval", principal)))
    async with streaming(generation.StreamGenerate(request, metadata=...)) as deltas:
        async for delta in deltas: ...

Callers depend on `grpc.aio.Channel` only. Deadline, request id and trace context are added to every call by the
channel; retries are gRPC's own, for methods that the contract declares safe to repeat, and nowhere else.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor
from opentelemetry.context import get_current
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.mesh import context, deadline
from services.mesh.policy import DEFAULT_TIMEOUT_S, Policy, methods_of, policies_of, policy_of
from services.mesh.settings import MeshSettings
from services.mesh.status import from_rpc_error
from services.mesh.tls.certificates import certificate_files
from services.mesh.tls.channel import renewed_channel
from services.mesh.tunnel.channel import TunnelChannel

ATTEMPTS_MAX: Final = 3
BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 0.5
RETRY_BUDGET_TOKENS: Final = 10
RETRY_BUDGET_RATIO: Final = 0.1
"""At most one call in ten is a repeat once things go wrong (gRFC A6, retryThrottling)."""
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
STREAM_S_MAX: Final = 3_600.0
KEEPALIVE_S: Final = 30
KEEPALIVE_ANSWER_S: Final = 15
"""A peer that is gone without a word is noticed after both; until then calls to it wait for their deadlines."""
CONNECT_S_MAX: Final = 3
"""For the connection and the first frames of HTTP/2; a process that has just started is busy with other things."""
RECONNECT_MS_MIN: Final = 100
RECONNECT_MS_MAX: Final = 500
"""With gRPC's jitter of a fifth, a process that is back is found within 0.6 s. A process that leaves serves for longer
than that (`not_serving_pause_s`), because it may be the only one that its clients are connected to."""

NAME_SCHEME: Final = "dns:///"
LIST_SCHEME: Final = "ipv4:"

_Options = tuple[tuple[str, str | int], ...]
_OPTIONS: Final[_Options] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1_000),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_MIN),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
    # Not a backoff, in spite of its name: how long gRPC waits for one attempt to connect.
    ("grpc.min_reconnect_backoff_ms", CONNECT_S_MAX * 1_000),
    ("grpc.enable_http_proxy", 0),  # a proxy for the outside must not catch calls between our own processes
)
_TUNNEL_OPTIONS: Final[_Options] = (
    # Not `grpc.keepalive_timeout_ms`: below a minute, gRPC 1.85 waits for this one.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_ANSWER_S * 1_000),
    ("grpc.http2.max_pings_without_data", 0),  # a tunnel may be idle for hours, and has to be there all the same
    ("grpc.use_local_subchannel_pool", 1),  # a tunnel has a connection of its own
)

Req = TypeVar("Req")
Res = TypeVar("Res")
T = TypeVar("T")

_Metadata = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]] | None
_PROPAGATOR: Final = TraceContextTextMapPropagator()


@asynccontextmanager
async def open_channel(
    target: str, contracts: Iterable[FileDescriptor], settings: MeshSettings | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to all processes of `target`, closed on leaving. It connects when it is first used.

    Args:
        target: `host:port`, or several with commas between; several must be IP addresses.
        contracts: files of the services that are called; retries and timeouts come from their policies.
        settings: of this process: by which certificates it and its peers know each other. Without them, or without
            certificates in them, calls travel in the clear. The peers' certificates have to name the target's host; of
            several addresses, all of them the first.

    Raises:
        SettingsError: the certificates cannot be used.
    """
    files = tuple(contracts)
    policies = policies_of(files)
    make = _tunnels if (settings or MeshSettings()).mesh_transport == "tunnel" else _plain
    async with _connecting(make(channel_target(target), files, policies), settings) as channel:
        yield MeshChannel(channel, policies)


Credentials = grpc.ChannelCredentials | None
_Make = Callable[[Credentials], grpc.aio.Channel]


def _plain(target: str, contracts: Iterable[FileDescriptor], _policies: Mapping[str, Policy]) -> _Make:
    options: _Options = (*_OPTIONS, ("grpc.service_config", json.dumps(service_config(contracts))))
    first, separator, _ = target.partition(",")
    if separator:  # gRPC would look for the whole list in a certificate
        options = (*options, ("grpc.default_authority", first.removeprefix(LIST_SCHEME)))
    return partial(_dialled, target, options)


def _tunnels(target: str, _contracts: Iterable[FileDescriptor], policies: Mapping[str, Policy]) -> _Make:
    options: _Options = (*_OPTIONS, *_TUNNEL_OPTIONS)
    if target.startswith(NAME_SCHEME):  # what the certificate of each address behind the name has to be for
        options = (*options, ("grpc.default_authority", target.removeprefix(NAME_SCHEME)))

    def make(credentials: Credentials) -> grpc.aio.Channel:
        return TunnelChannel(target, policies, lambda address: _dialled(address, options, credentials))

    return make


def _dialled(target: str, options: _Options, credentials: Credentials) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


@asynccontextmanager
async def _connecting(make: _Make, settings: MeshSettings | None) -> AsyncIterator[grpc.aio.Channel]:
    files = certificate_files(settings)
    if settings is None or files is None:
        async with make(None) as channel:
            yield channel
        return
    async with renewed_channel(files, make, look_every_s=settings.mesh_tls_look_every_s) as channel:
        yield channel


async def unary(call: Awaitable[T]) -> T:
    """The response of a unary call.

    Raises:
        MeshError: what the server said, or what its silence means.
    """
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


@asynccontextmanager
async def streaming(
    call: grpc.aio.UnaryStreamCall[Req, Res] | grpc.aio.StreamStreamCall[Req, Res],
) -> AsyncIterator[AsyncIterator[Res]]:
    """The responses of a streaming call, which is cancelled on leaving, however that happens.

    Leaving an `async for` early does not cancel a call: the server would go on sending to nobody.
    The iterator raises MeshError where the stream fails.
    """
    try:
        yield _translated(call)
    finally:
        call.cancel()


def channel_target(target: str) -> str:
    """Our notation for addresses in gRPC's: a static list for IP addresses, DNS for a name.

    Raises:
        ValueError: several addresses, and not all of them IPv4.
    """
    addresses = [address.strip() for address in target.split(",")]
    if all(_is_ipv4(address.rpartition(":")[0]) for address in addresses):
        return LIST_SCHEME + ",".join(addresses)
    if len(addresses) > 1:
        raise ValueError(f"{target!r}: several addresses must be IPv4 addresses, or one name that resolves to them")
    return f"{NAME_SCHEME}{addresses[0]}"


def service_config(contracts: Iterable[FileDescriptor]) -> Mapping[str, object]:
    """GRPC's service config: balancing, health, and retries for what the contracts call safe to repeat.

    No `timeout` here: it fires early and the server never sees it. UNAVAILABLE is retried, and CANCELLED, with which a
    server that shuts down drops what it has not begun; where a repeat would do harm, the server says so
    (`status.to_wire`).
    """
    retried = [
        {"service": method.containing_service.full_name, "method": method.name}
        for method in methods_of(contracts)
        if policy_of(method).idempotency.is_retryable
    ]
    config: dict[str, object] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "retryThrottling": {"maxTokens": RETRY_BUDGET_TOKENS, "tokenRatio": RETRY_BUDGET_RATIO},
    }
    if retried:
        config["methodConfig"] = [
            {
                "name": retried,
                "retryPolicy": {
                    "maxAttempts": ATTEMPTS_MAX,
                    "initialBackoff": f"{BACKOFF_S_MIN}s",
                    "maxBackoff": f"{BACKOFF_S_MAX}s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    return config


class MeshChannel(grpc.aio.Channel):
    """A channel that adds deadline, request id and trace context to each call on another channel.

    Wraps instead of intercepting: gRPC's aio client interceptors cost a task per call, and a wrapper works the same
    on any channel.
    """

    def __init__(self, inner: grpc.aio.Channel, policies: Mapping[str, Policy]) -> None:
        self._inner = inner
        self._policies = policies

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: generated code's own call
        """See `grpc.aio.Channel`."""
        policy = self._policies.get(method)
        timeout_s = DEFAULT_TIMEOUT_S if policy is None else policy.timeout_s
        return _MultiCallable(self._inner.unary_unary(method, *args, **kwargs), timeout_s)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        return _MultiCallable(self._inner.unary_stream(method, *args, **kwargs), STREAM_S_MAX)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        policy = self._policies.get(method)
        timeout_s = DEFAULT_TIMEOUT_S if policy is None else policy.timeout_s
        return _MultiCallable(self._inner.stream_unary(method, *args, **kwargs), timeout_s)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        return _MultiCallable(self._inner.stream_stream(method, *args, **kwargs), STREAM_S_MAX)

    async def close(self, grace: float | None = None) -> None:
        """See `grpc.aio.Channel`."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """See `grpc.aio.Channel`."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See `grpc.aio.Channel`."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See `grpc.aio.Channel`."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._inner.close()


class _MultiCallable:
    """A stub's method; `timeout` only ever shortens what policy and caller leave."""

    def __init__(self, inner: Callable[..., Any], timeout_s: float) -> None:  # Any: calls of all shapes
        self._inner = inner
        self._timeout_s = timeout_s

    def __call__(
        self, request: object = None, *, timeout: float | None = None, metadata: _Metadata = None, **options: Any
    ) -> Any:  # Any: as above
        budget_s = deadline.budget_s(self._timeout_s if timeout is None else timeout)
        return self._inner(request, timeout=budget_s, metadata=_with_context(metadata), **options)


def _with_context(metadata: _Metadata) -> tuple[tuple[str, str | bytes], ...]:
    carrier: dict[str, str] = {}
    if get_current():  # empty where no trace is handed on, and to look into it costs as much as all else here
        _PROPAGATOR.inject(carrier)
    request_id = context.request_id()
    if request_id:
        carrier[context.REQUEST_ID_KEY] = request_id
    return (*(metadata or ()), *carrier.items())


async def _translated(call: AsyncIterator[Res] | Any) -> AsyncIterator[Res]:  # Any: gRPC's two call types
    try:
        async for message in call:
            yield message
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _is_ipv4(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts)  # noqa: PLR2004 - what an IPv4 address is
