"""The channel of generated stubs whose calls travel in tunnels: it has the interface of `grpc.aio.Channel`."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio

from services.mesh.policy import Policy
from services.mesh.tunnel.backend import Dial
from services.mesh.tunnel.calls import Method
from services.mesh.tunnel.fleet import Fleet
from services.mesh.tunnel.frames import metadata_text
from services.mesh.tunnel.shapes import StreamStream, StreamUnary, UnaryStream, UnaryUnary

_CLOSED_TEXT: Final = "Channel is closed."

_Sent = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]] | None
_Shape = type[UnaryUnary] | type[UnaryStream] | type[StreamUnary] | type[StreamStream]


class TunnelChannel(grpc.aio.Channel):
    """See the module. It connects when it is first used, and then keeps connected to all processes of its target.

    Args:
        target: in gRPC's notation: `ipv4:` with addresses, or `dns:///` with a name.
        policies: of the methods that are called; they say which calls may be repeated.
        dial: makes a plain channel to one address.
    """

    def __init__(self, target: str, policies: Mapping[str, Policy], dial: Dial) -> None:
        self._policies = policies
        self._fleet = Fleet(target, dial)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: generated code's own call
        """See `grpc.aio.Channel`."""
        return self._multicallable(UnaryUnary, method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        return self._multicallable(UnaryStream, method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        return self._multicallable(StreamUnary, method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        return self._multicallable(StreamStream, method, *args, **kwargs)

    async def close(self, grace: float | None = None) -> None:
        """See `grpc.aio.Channel`: calls get `grace` seconds to end, and are cancelled then."""
        await self._fleet.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """See `grpc.aio.Channel`."""
        if try_to_connect:
            self._fleet.connect()
        return self._fleet.state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See `grpc.aio.Channel`."""
        while self._fleet.state is last_observed_state:
            await self._fleet.changed()

    async def channel_ready(self) -> None:
        """See `grpc.aio.Channel`."""
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise grpc.aio.UsageError(_CLOSED_TEXT)
            await self.wait_for_state_change(state)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _multicallable(
        self,
        shape: _Shape,
        path: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = None,  # noqa: FBT001 - what generated code gives
    ) -> "_MultiCallable":  # Any: messages of all services
        policy = self._policies.get(path)
        method = Method(
            path=path,
            serialize=request_serializer,
            parse=response_deserializer,
            is_retryable=policy is not None and policy.idempotency.is_retryable,
            streams_requests=shape in {StreamUnary, StreamStream},
            streams_responses=shape in {UnaryStream, StreamStream},
        )
        return _MultiCallable(self._fleet, shape, method)


class _MultiCallable:
    """A stub's method."""

    def __init__(self, fleet: Fleet, shape: _Shape, method: Method) -> None:
        self._fleet = fleet
        self._shape = shape
        self._method = method

    def __call__(
        self,
        request: Any = None,  # Any: a request, or many
        timeout: float | None = None,
        metadata: _Sent = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,  # noqa: FBT001 - gRPC's signature
        compression: grpc.Compression | None = None,
    ) -> Any:  # Any: a call of the shape that the stub has
        if credentials is not None:
            raise grpc.aio.UsageError("Call credentials are only valid on secure channels")
        if self._fleet.is_closed:
            raise grpc.aio.UsageError(_CLOSED_TEXT)
        sent = metadata_text(tuple(metadata)) if metadata else ""
        call = self._shape(self._fleet, self._method, sent, timeout, waits_for_ready=bool(wait_for_ready))
        return call.ask(request)
