"""A service of four shapes for tests of the chassis: its contract is made here, its messages are StringValues."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.wrappers_pb2 import StringValue

from parley.options.v1 import method_pb2
from services.mesh.client import open_channel
from services.mesh.identity import TokenVerifier
from services.mesh.rpc import RpcContext
from services.mesh.server import RunningServer, running
from services.mesh.settings import ServerSettings

SERVICE: Final = "parley.testing.v1.EchoService"
PACKAGE: Final = "parley.testing.v1"

READ: Final = method_pb2.IDEMPOTENCY_READ
NONE: Final = method_pb2.IDEMPOTENCY_NONE


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    policy: method_pb2.MethodPolicy | None
    streams_requests: bool = False
    streams_responses: bool = False


METHODS: Final = (
    Method("Echo", method_pb2.MethodPolicy(scopes=["echo:read"], idempotency=READ)),
    Method("Write", method_pb2.MethodPolicy(scopes=["echo:read", "echo:write"], idempotency=NONE)),
    Method("Hello", method_pb2.MethodPolicy(public=True, idempotency=READ)),
    Method("Shout", method_pb2.MethodPolicy(public=True, idempotency=NONE)),
    Method("Hurry", method_pb2.MethodPolicy(public=True, idempotency=READ, timeout_ms=50)),
    Method("Inner", method_pb2.MethodPolicy(callers=["edge"], idempotency=READ)),
    Method("Split", method_pb2.MethodPolicy(public=True, idempotency=READ), streams_responses=True),
    Method(
        "Resume",
        method_pb2.MethodPolicy(
            public=True, idempotency=NONE, event_stream=method_pb2.EventStream(resume_field="value")
        ),
        streams_responses=True,
    ),
    Method("Join", method_pb2.MethodPolicy(public=True, idempotency=NONE), streams_requests=True),
    Method(
        "Talk", method_pb2.MethodPolicy(public=True, idempotency=NONE), streams_requests=True, streams_responses=True
    ),
)


def contract(name: str, *methods: Method) -> FileDescriptor:
    """Adds a file with one service to the default pool, as generated code does on import."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"parley/testing/v1/{name}.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name, method_pb2.DESCRIPTOR.name],
    )
    service = file.service.add(name=name)
    for method in methods:
        added = service.method.add(
            name=method.name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=method.streams_requests,
            server_streaming=method.streams_responses,
        )
        if method.policy is not None:
            added.options.Extensions[method_pb2.method].CopyFrom(method.policy)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


CONTRACT: Final = contract("EchoService", *METHODS)

# Any: a behaviour has one of four signatures.
Behaviour = Callable[..., Any]


class Echo:
    """Does what the names say; a test replaces the behaviours that it is about."""

    async def echo(self, request: StringValue, _context: RpcContext) -> StringValue:
        return StringValue(value=request.value)

    async def split(self, request: StringValue, _context: RpcContext) -> AsyncIterator[StringValue]:
        for word in request.value.split():
            yield StringValue(value=word)

    async def join(self, requests: AsyncIterator[StringValue], _context: RpcContext) -> StringValue:
        return StringValue(value=" ".join([request.value async for request in requests]))

    async def talk(self, requests: AsyncIterator[StringValue], _context: RpcContext) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield request

    def behaviours(self) -> dict[str, Behaviour]:
        unary = ("Echo", "Write", "Hello", "Shout", "Hurry", "Inner")
        streams: dict[str, Behaviour] = {
            "Split": self.split,
            "Resume": self.split,
            "Join": self.join,
            "Talk": self.talk,
        }
        return {**dict.fromkeys(unary, self.echo), **streams}


def register(server: grpc.aio.Server, **replaced: Behaviour) -> None:
    """What a generated `add_EchoServiceServicer_to_server` does, with some behaviours replaced."""
    behaviours = Echo().behaviours() | replaced
    add(server, SERVICE, METHODS, behaviours)


def add(
    server: grpc.aio.Server, service: str, methods: tuple[Method, ...], behaviours: Mapping[str, Behaviour]
) -> None:
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    handlers = {
        method.name: makers[method.streams_requests, method.streams_responses](
            behaviours[method.name],
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
        for method in methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_registered_method_handlers(service, handlers)


@asynccontextmanager
async def echo_server(
    *, verifier: TokenVerifier | None = None, settings: ServerSettings | None = None, **replaced: Behaviour
) -> AsyncIterator[RunningServer]:
    """The service on a free port, behind all interceptors."""
    async with running(
        settings or ServerSettings(drain_s=1.0, not_serving_pause_s=0.0),
        servicers=[lambda server: register(server, **replaced)],
        verifier=verifier,
    ) as server:
        yield server


class EchoStub:
    """What generated code would give."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary(self, method: str) -> grpc.aio.UnaryUnaryMultiCallable[StringValue, StringValue]:
        return self._channel.unary_unary(f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString)

    @property
    def split(self) -> grpc.aio.UnaryStreamMultiCallable[StringValue, StringValue]:
        return self.stream("Split")

    def stream(self, method: str) -> grpc.aio.UnaryStreamMultiCallable[StringValue, StringValue]:
        return self._channel.unary_stream(f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString)

    @property
    def join(self) -> grpc.aio.StreamUnaryMultiCallable[StringValue, StringValue]:
        return self._channel.stream_unary(f"/{SERVICE}/Join", StringValue.SerializeToString, StringValue.FromString)

    @property
    def talk(self) -> grpc.aio.StreamStreamMultiCallable[StringValue, StringValue]:
        return self._channel.stream_stream(f"/{SERVICE}/Talk", StringValue.SerializeToString, StringValue.FromString)


def echo_channel(port: int) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    """A channel of ours to a server on this machine."""
    return open_channel(f"127.0.0.1:{port}", [CONTRACT])


@asynccontextmanager
async def echo_stub(
    *, verifier: TokenVerifier | None = None, settings: ServerSettings | None = None, **replaced: Behaviour
) -> AsyncIterator[EchoStub]:
    """Server and client in one."""
    async with (
        echo_server(verifier=verifier, settings=settings, **replaced) as server,
        echo_channel(server.port) as channel,
    ):
        yield EchoStub(channel)
