"""What the server's end of a tunnel needs to know of a method, and a call of its stream."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from services.mesh.tunnel.outbox import Outbox


@dataclass(frozen=True, slots=True)
class Served:
    """A method as a server's table has it. Any: behaviours and messages of all services.

    Attributes:
        behaviour: the servicer's method, with the interceptors around it.
        parse: makes a request of bytes.
        serialize: makes bytes of a response.
        streams_requests, streams_responses: its shape.
    """

    behaviour: Callable[..., Any]
    parse: Callable[[bytes], Any] | None
    serialize: Callable[[Any], bytes] | None
    streams_requests: bool
    streams_responses: bool


class Carrier(Protocol):
    """The stream that carries the call, and the loop of all of its calls."""

    outbox: Outbox
    loop: asyncio.AbstractEventLoop

    @property
    def carrying(self) -> "grpc.aio.ServicerContext[Any, Any]":  # Any: as in `Served`
        """The context of the RPC behind the tunnel."""
        ...

    def ended(self, number: int) -> None:
        """The call needs no more frames."""
        ...


def served(handler: "grpc.RpcMethodHandler[Any, Any]") -> Served:  # Any: as in `Served`
    """The method behind a handler, whatever its shape."""
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert behaviour is not None
    return Served(
        behaviour=behaviour,
        parse=handler.request_deserializer,
        serialize=handler.response_serializer,
        streams_requests=bool(handler.request_streaming),
        streams_responses=bool(handler.response_streaming),
    )
