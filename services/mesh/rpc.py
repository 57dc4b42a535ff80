"""What servicers need of the running call: its context type, its principal and its ids.

The chain of interceptors fills a `Call` per RPC; a contextvar carries it, so use cases need no gRPC parameter.
Remaining time is in `deadline.py`, the request id in `context.py`: both exist outside of RPCs too.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias

import grpc.aio

from services.mesh.errors import CredentialsInvalid
from services.mesh.identity import Principal
from services.mesh.policy import Policy


class Position(NamedTuple):
    """A place in a PostgreSQL log. After a failover the timeline is another one, and what was before says nothing."""

    timeline: int
    lsn: int


# Any: gRPC's context is generic over messages that servicers already name in their signatures.
RpcContext: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, kw_only=True)
class Call:
    """One RPC on its way through the interceptors; each of them fills the part that it owns.

    Attributes:
        method: full path, such as `/parley.auth.v1.TokenService/RefreshToken`.
        policy: who may call, from the descriptors.
        is_stream: whether the response is a stream.
        context: gRPC's own view of the call.
        handle: runs the servicer's method.
        metadata: what the caller sent, text values only.
        request_id: given by the first process of ours that saw the request.
        trace_id: of the span around the call, empty when it is not traced.
        peer: the workload that the certificate of the connection names; None where connections have none.
        principal: set by the identity interceptor; None for public calls.
        started: `time.monotonic()` when the call arrived.
        code: name of the gRPC code that the call ended with.
        reason: the error reason, for the log; empty on success.
        messages_sent: number of response messages.
        is_told: the last word is on its way, so whoever leaves now has all that they came for.
        requests: what a client sends that streams; None where it sends one message.
        positions: what the caller is told of `positions`, by place.
        is_infrastructure: health and reflection: asked by machines every second, never worth a log line.
    """

    method: str
    policy: Policy
    is_stream: bool
    context: RpcContext
    handle: "Proceed"
    metadata: tuple[tuple[str, str], ...]
    request_id: str = ""
    trace_id: str = ""
    peer: str | None = None
    principal: Principal | None = None
    started: float = field(default_factory=monotonic)
    code: str = "OK"
    reason: str = ""
    messages_sent: int = 0
    is_told: bool = False
    requests: AsyncIterator[object] | None = None
    positions: dict[str, Position] = field(default_factory=dict)
    is_infrastructure: bool = False

    def client_remaining_s(self) -> float | None:
        """Seconds until the caller's own deadline, None when it set none (gRPC's stub promises a float)."""
        remaining_s: float | None = self.context.time_remaining()
        return remaining_s

    def values(self, key: str) -> list[str]:
        """All values that the caller sent under a metadata key (lower case)."""
        return [value for name, value in self.metadata if name == key]


Proceed: TypeAlias = Callable[[Call], Awaitable[None]]
"""The rest of the chain, from a stage's point of view."""

CURRENT: Final[ContextVar[Call | None]] = ContextVar("parley_call", default=None)


def current() -> Call | None:
    """The running call, or None outside of one (worker loops, start-up)."""
    return CURRENT.get()


def peer() -> str | None:
    """The workload that the certificate of the running call's connection names; None where it has none."""
    call = CURRENT.get()
    return None if call is None else call.peer


def told() -> None:
    """The running call says its last word now: it has succeeded, even if its caller does not wait for the status."""
    call = CURRENT.get()
    if call is not None:
        call.is_told = True


def principal() -> Principal:
    """On whose behalf the running call acts.

    Raises:
        CredentialsInvalid: the call is public, or there is no call.
    """
    call = CURRENT.get()
    if call is None or call.principal is None:
        raise CredentialsInvalid
    return call.principal
