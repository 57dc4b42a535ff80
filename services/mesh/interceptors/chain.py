"""The order of the interceptors, and the one gRPC interceptor that runs them around all four shapes of a call.

A stage runs around the whole call and never sees a message. One gRPC interceptor for all of them instead of nine
nested ones: a streamed message passes one layer of ours, and there is one place that knows the shapes.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import grpc
import grpc.aio

from services.mesh.identity import TokenVerifier
from services.mesh.interceptors.deadline import DeadlineStage
from services.mesh.interceptors.errors import ErrorStage
from services.mesh.interceptors.identity import IdentityStage
from services.mesh.interceptors.leaving import Leaving, LeavingStage
from services.mesh.interceptors.limits import LimitStage
from services.mesh.interceptors.logging import LoggingStage
from services.mesh.interceptors.metrics import MetricsStage
from services.mesh.interceptors.policy import PolicyStage
from services.mesh.interceptors.request_id import RequestIdStage
from services.mesh.interceptors.tracing import TracingStage
from services.mesh.limiter import InFlightLimiter
from services.mesh.policy import INFRASTRUCTURE, Policy
from services.mesh.rpc import CURRENT, Call, Proceed, RpcContext
from services.mesh.tls.peers import Peers

Req = TypeVar("Req")
Res = TypeVar("Res")

# Any: a behaviour is generated code's method of whatever messages; the chain looks at none of them.
_Behaviour = Callable[[Any, RpcContext], Any]


class Stage(Protocol):
    """One concern around a call. Inside of `errors` it may raise a MeshError; it lets `CancelledError` through."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Does its part before and after `await proceed(call)`, which is everything inside of it."""
        ...


STAGE_ORDER: Final = (
    # First, because every line, span and error below names the request.
    RequestIdStage,
    # Outside of everything that can end a call, so that each call has exactly one line, with its final code.
    LoggingStage,
    # Outside of errors for the same reason: refused calls count as well.
    MetricsStage,
    # Outside of errors, so that a span has the code that the client got; inside of logging, which shows its id.
    TracingStage,
    # Whatever is raised below becomes a google.rpc.Status here; nothing below talks to the client by itself.
    ErrorStage,
    # Before any work: a call that cannot finish in its time is refused before it costs a signature check.
    DeadlineStage,
    # Who calls. Before policy, which needs to know.
    IdentityStage,
    # Whether they may. Before limits, so that those who may not cannot take the places of those who may.
    PolicyStage,
    # A place is held by work only.
    LimitStage,
    # Last: what it ends is the handler, and everything outside treats that as the handler's own error.
    LeavingStage,
)


def pinned_stages(
    *, verifier: TokenVerifier | None, limiter: InFlightLimiter, leaving: Leaving, peers: Peers | None = None
) -> tuple[Stage, ...]:
    """The stages of a server, in `STAGE_ORDER`; without a verifier, only public methods can be served."""
    return (
        RequestIdStage(),
        LoggingStage(),
        MetricsStage(),
        TracingStage(),
        ErrorStage(),
        DeadlineStage(),
        IdentityStage(verifier, peers),
        PolicyStage(),
        LimitStage(limiter),
        LeavingStage(leaving),
    )


class Chain(grpc.aio.ServerInterceptor):
    """Runs stages around every call; methods without a policy do not exist for it.

    Args:
        stages: in the order in which they are entered.
        policies: of all methods.
        carrier: path of a method that carries calls: the stages run around each of those, and not around itself.
    """

    def __init__(self, stages: Sequence[Stage], policies: Mapping[str, Policy], *, carrier: str = "") -> None:
        self._run: Proceed = _innermost
        for stage in reversed(stages):
            self._run = partial(stage.run, proceed=self._run)
        self._policies = policies
        self._carrier = carrier
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Req, Res] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Req, Res] | None":
        """Gives the method's handler with the stages around it; None, that is UNIMPLEMENTED, for an unknown method."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            wrapped = handler if method == self._carrier else self.around(method, handler)
        return wrapped

    def around(
        self, method: str, handler: "grpc.RpcMethodHandler[Req, Res] | None"
    ) -> "grpc.RpcMethodHandler[Req, Res] | None":
        """A handler with the stages around it; None for one that is not there, or has no policy."""
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            policy = self._policies.get(method)
            if handler is None or policy is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, policy, handler)
        return wrapped

    def _wrap(
        self, method: str, policy: Policy, handler: "grpc.RpcMethodHandler[Req, Res]"
    ) -> "grpc.RpcMethodHandler[Req, Res]":
        behaviour: _Behaviour = behaviour_of(handler)

        async def unary(request: Any, context: RpcContext) -> Any:  # Any: see _Behaviour
            response: Any = None

            async def handle(call: Call) -> None:
                nonlocal response
                response = await behaviour(request, context)
                call.messages_sent = 1

            call = _call(method, policy, context, handle, is_stream=False)
            call.requests = request if handler.request_streaming else None
            await self._answer(call)
            return response

        async def stream(request: Any, context: RpcContext) -> None:  # Any: see _Behaviour
            # A coroutine that writes, not a generator that yields: gRPC does not close a generator when the client
            # leaves, so its `finally` would run some day, in some other context.
            async def handle(call: Call) -> None:
                messages = behaviour(request, context)
                if inspect.isawaitable(messages):  # a handler that calls context.write itself
                    await messages
                else:
                    await _write_all(messages, call)

            await self._answer(_call(method, policy, context, handle, is_stream=True))

        make = _MAKERS[bool(handler.request_streaming), bool(handler.response_streaming)]
        made: grpc.RpcMethodHandler[Req, Res] = make(
            stream if handler.response_streaming else unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    async def _answer(self, call: Call) -> None:
        token = CURRENT.set(call)
        try:
            await self._run(call)
        finally:
            CURRENT.reset(token)


async def _innermost(call: Call) -> None:
    await call.handle(call)


async def _write_all(messages: AsyncIterator[object], call: Call) -> None:
    async with AsyncExitStack() as stack:
        if inspect.isasyncgen(messages):
            await stack.enter_async_context(aclosing(messages))
        async for message in messages:
            await call.context.write(message)
            call.messages_sent += 1


def _call(method: str, policy: Policy, context: RpcContext, handle: Proceed, *, is_stream: bool) -> Call:
    metadata = context.invocation_metadata() or ()
    return Call(
        method=method,
        policy=policy,
        is_stream=is_stream,
        is_infrastructure=method in INFRASTRUCTURE,
        context=context,
        handle=handle,
        metadata=tuple([(key, value) for key, value in metadata if isinstance(value, str)]),
    )


def behaviour_of(handler: "grpc.RpcMethodHandler[Req, Res]") -> Any:  # Any: see _Behaviour
    """The function behind a handler, whatever its shape."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def is_async(handler: "grpc.RpcMethodHandler[Req, Res]") -> bool:
    """Whether a handler runs on the event loop; a plain `def`, even one returning a generator, runs in a thread."""
    behaviour = behaviour_of(handler)
    return inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)


# Any: grpc's own factories, chosen by (request is a stream, response is a stream).
_MAKERS: Final[Mapping[tuple[bool, bool], Callable[..., Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
