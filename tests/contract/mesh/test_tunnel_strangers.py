"""Tunnels of others than our own processes: whoever reaches a service's port can open one, before any token is read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from parley.mesh.v1 import tunnel_service_pb2 as pb
from parley.mesh.v1.tunnel_service_pb2_grpc import TunnelServiceStub
from services.mesh.rpc import RpcContext
from services.mesh.tunnel.frames import (
    END,
    HELLO_BODY,
    KIND_BITS,
    KIND_MASK,
    LAST,
    MESSAGE,
    MESSAGE_COST_BYTES,
    OPEN,
    OPENING_BYTES_MAX,
    STATUS,
    WINDOW_BYTES,
    Kind,
    head,
    opening,
    parse_ending,
)
from services.mesh.tunnel.outbox import BACKLOG_BYTES_MAX
from services.mesh.tunnel.server import TunnelServer
from tests.support.echo import SERVICE, echo_server
from tests.support.waiting import until

PATIENCE_S: Final = 90.0
HELLO: Final = StringValue(value="hello").SerializeToString()
NOBODYS: Final = opening("/nobody/Serves", None, "")


async def answers(rpc: Any, calls: int) -> dict[int, tuple[int, bytes]]:  # Any: gRPC's call
    """The last words of so many calls, by number."""
    found: dict[int, tuple[int, bytes]] = {}
    while len(found) < calls:
        batch = await rpc.read()
        assert batch is not grpc.aio.EOF
        for frame, body in zip(batch.heads, batch.bodies, strict=True):
            if frame & KIND_MASK in (LAST, STATUS):
                found[frame >> KIND_BITS] = (frame & KIND_MASK, body)
    return found


@pytest.mark.parametrize("beyond", [0, 1])
async def test_opening_has_a_bound_and_is_refused_alone(beyond: int) -> None:
    path = f"/{SERVICE}/Hello"
    key = "\nx-padding\n"
    padding = "x" * (OPENING_BYTES_MAX + beyond - len(opening(path, None, key)))
    async with echo_server() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rpc: Any = TunnelServiceStub(channel).Open(timeout=PATIENCE_S)  # Any: gRPC's call
        heads = [head(0, Kind.HELLO), head(1, OPEN), head(1, LAST), head(2, OPEN), head(2, LAST)]
        bodies = [HELLO_BODY, opening(path, None, key + padding), HELLO, opening(path, None, ""), HELLO]
        await rpc.write(pb.OpenRequest(heads=heads, bodies=bodies))
        found = await answers(rpc, 2)
    assert found[2] == (LAST, HELLO)
    if not beyond:
        assert found[1] == (LAST, HELLO)
        return
    assert parse_ending(found[1][1]).code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def test_number_that_is_taken_ends_the_tunnel_and_both_calls() -> None:
    entered = ended = 0
    forever = asyncio.Event()

    async def hello(request: StringValue, _call: RpcContext) -> StringValue:
        nonlocal entered, ended
        entered += 1
        try:
            await forever.wait()
        finally:
            ended += 1
        return request

    async with (
        echo_server(Hello=hello) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        rpc: Any = TunnelServiceStub(channel).Open(timeout=PATIENCE_S)  # Any: as above
        call = pb.OpenRequest(
            heads=[head(1, OPEN), head(1, LAST)], bodies=[opening(f"/{SERVICE}/Hello", None, ""), HELLO]
        )
        await rpc.write(call)
        await until(lambda: entered == 1, within_s=PATIENCE_S)
        await rpc.write(call)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answers(rpc, 2)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        await until(lambda: ended == 1, within_s=PATIENCE_S)
    assert entered == 1


@pytest.mark.parametrize(
    "request_",
    [
        pb.OpenRequest(heads=[head(1, OPEN)], bodies=[b"/a/B\n" + b"9" * 400]),
        pb.OpenRequest(heads=[head(1, OPEN), head(1, LAST)], bodies=[NOBODYS]),
    ],
    ids=["bound without end", "head without body"],
)
async def test_batch_that_cannot_be_read_ends_the_tunnel(request_: pb.OpenRequest) -> None:
    async with echo_server() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rpc: Any = TunnelServiceStub(channel).Open(timeout=PATIENCE_S)  # Any: as above
        await rpc.write(request_)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answers(rpc, 2)
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.INTERNAL,
        "a frame that cannot be read",
    )


@pytest.mark.parametrize("beyond", [0, 1])
async def test_who_sends_without_being_asked_loses_the_call(beyond: int) -> None:
    is_read = asyncio.Event()

    async def join(requests: AsyncIterator[StringValue], _call: RpcContext) -> StringValue:
        await is_read.wait()
        return StringValue(value=str(len([request async for request in requests])))

    # The last but one fills the window, or leaves a byte of it.
    whole, left = divmod(WINDOW_BYTES, 1_024 + MESSAGE_COST_BYTES)
    sizes = [*([1_024] * whole), left - MESSAGE_COST_BYTES - 1 + beyond, 256]
    messages = [StringValue(value="x" * (size - 3)).SerializeToString() for size in sizes]
    assert [len(message) for message in messages] == sizes
    async with (
        echo_server(Join=join) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        rpc: Any = TunnelServiceStub(channel).Open(timeout=PATIENCE_S)  # Any: as above
        heads = [head(1, OPEN), *([head(1, MESSAGE)] * len(messages)), head(1, END), head(2, OPEN), head(2, LAST)]
        bodies = [opening(f"/{SERVICE}/Join", None, ""), *messages, b"", opening(f"/{SERVICE}/Hello", None, ""), HELLO]
        await rpc.write(pb.OpenRequest(heads=heads, bodies=bodies))
        if not beyond:
            is_read.set()
        found = await answers(rpc, 2)
    assert found[2] == (LAST, HELLO)
    if not beyond:
        assert StringValue.FromString(found[1][1]).value == str(len(messages))
        return
    assert parse_ending(found[1][1]).code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


class Deaf:
    """A context of a peer that has a million calls to make, and reads no answer."""

    def __init__(self) -> None:
        self.batches = 0

    async def read(self) -> object:
        """The next thousand calls."""
        await asyncio.sleep(0)
        first = 1 + self.batches * 1_000
        self.batches += 1
        if self.batches > 1_000:
            return grpc.aio.EOF
        heads = [head(call, OPEN) for call in range(first, first + 1_000)]
        return pb.OpenRequest(heads=heads, bodies=[NOBODYS] * 1_000)

    async def write(self, _message: object) -> None:
        """Never comes back."""
        await asyncio.Event().wait()


async def test_who_asks_and_does_not_listen_is_heard_no_more() -> None:
    peer = Deaf()
    tunnel = asyncio.ensure_future(TunnelServer(lambda _: None).Open(iter(()), peer))  # type: ignore[arg-type]  # what a session uses of both
    seen = -1
    while seen != peer.batches:
        seen = peer.batches
        for _ in range(100):  # turns, of which each batch needs one
            await asyncio.sleep(0)
    tunnel.cancel()
    await asyncio.gather(tunnel, return_exceptions=True)
    answer = len("12\nMethod%20not%20found%21")
    assert 0 < seen * 1_000 * answer < BACKLOG_BYTES_MAX + 10_000 * answer
