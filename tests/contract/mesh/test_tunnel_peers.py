"""Peers that say what ours say seldom, or never: the last word before any answer, and frames that nobody can read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from parley.mesh.v1 import tunnel_service_pb2 as pb
from parley.mesh.v1.tunnel_service_pb2_grpc import (
    TunnelServiceServicer,
    TunnelServiceStub,
    add_TunnelServiceServicer_to_server,
)
from services.mesh.client import open_channel, unary
from services.mesh.rpc import RpcContext
from services.mesh.settings import MeshSettings
from services.mesh.tunnel.frames import CANCEL, HELLO_BODY, KIND_MASK, LAST, OPEN, PART, STATUS, Kind, ending, head
from tests.support.echo import CONTRACT, EchoStub, echo_server

HELLO: Final = StringValue(value="hello")
PATIENCE_S: Final = 60.0
TUNNEL: Final = MeshSettings(mesh_transport="tunnel")


class Peer(TunnelServiceServicer):
    """Leaves its first tunnel as soon as a call is on it, and answers on the next one; notes what it saw."""

    def __init__(self) -> None:
        self.tunnels = 0
        self.seen: list[tuple[int, int]] = []

    async def Open(  # type: ignore[override] # noqa: N802 - it writes where the stub's base class yields
        self, request_iterator: AsyncIterator[pb.OpenRequest], context: RpcContext
    ) -> None:
        self.tunnels += 1
        tunnel = self.tunnels
        await context.write(pb.OpenResponse(heads=[head(0, Kind.HELLO)], bodies=[HELLO_BODY]))
        async for batch in request_iterator:
            for frame in batch.heads:
                self.seen.append((tunnel, frame & KIND_MASK))
                if frame & KIND_MASK == OPEN and tunnel == 1:
                    await self.leave(context, frame >> 4)
                    return
                if frame & KIND_MASK == LAST:
                    await self.answer(context, frame >> 4)

    async def leave(self, context: RpcContext, _call: int) -> None:
        """Its last word, which names no call."""
        heads = [head(0, Kind.LEAVING), head(99, LAST), head(0, 15), head(0, Kind.CLOSING)]
        await context.write(pb.OpenResponse(heads=heads, bodies=[b"", b"x", b"", b"0"]))

    async def answer(self, context: RpcContext, call: int) -> None:
        """Its answer, and then words of a call that has ended."""
        heads = [head(call, LAST), head(call, LAST), head(call, STATUS)]
        bodies = [HELLO.SerializeToString(), b"", ending(13, "too late", ())]
        await context.write(pb.OpenResponse(heads=heads, bodies=bodies))


class Broken(Peer):
    """Breaks off in the middle of its first answer."""

    async def leave(self, context: RpcContext, call: int) -> None:
        await context.write(pb.OpenResponse(heads=[head(call, PART)], bodies=[b"half of an answer"]))


@asynccontextmanager
async def served(peer: Peer) -> AsyncIterator[EchoStub]:
    server = grpc.aio.server()
    add_TunnelServiceServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}", [CONTRACT], TUNNEL) as channel:
        yield EchoStub(channel)
    await server.stop(None)


async def read_out(rpc: Any) -> list[int]:  # Any: gRPC's call
    said: list[int] = []
    while (batch := await rpc.read()) is not grpc.aio.EOF:
        said += batch.heads
    return said


async def test_call_that_the_last_word_does_not_name_is_begun_elsewhere() -> None:
    peer = Peer()
    async with served(peer) as stub:
        # Not safe to repeat, and the peer did not begin it.
        shout = stub.unary("Shout")
        assert await unary(shout(HELLO, timeout=PATIENCE_S, wait_for_ready=True)) == HELLO
        assert await unary(shout(HELLO, timeout=PATIENCE_S, wait_for_ready=True)) == HELLO
    assert peer.tunnels == 2
    assert [kind for tunnel, kind in peer.seen if tunnel == 2 and kind != Kind.HELLO] == [OPEN, LAST, OPEN, LAST]


async def test_half_of_an_answer_is_no_part_of_the_next_one() -> None:
    peer = Broken()
    async with served(peer) as stub:
        assert await unary(stub.unary("Hello")(HELLO, timeout=PATIENCE_S, wait_for_ready=True)) == HELLO
    assert peer.tunnels == 2


@pytest.mark.parametrize(
    ("frame", "body"),
    [(head(1, OPEN), b"not an opening"), (head(1, OPEN), b"/a/B\n\nkey"), (head(0, Kind.HELLO), b"many")],
)
async def test_frame_that_cannot_be_read_ends_the_tunnel(frame: int, body: bytes) -> None:
    async with echo_server() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rpc: Any = TunnelServiceStub(channel).Open()  # Any: gRPC's call
        await rpc.write(pb.OpenRequest(heads=[frame], bodies=[body]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_out(rpc)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_words_about_calls_that_do_not_exist_are_passed_over() -> None:
    async with echo_server() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rpc: Any = TunnelServiceStub(channel).Open()  # Any: as above
        heads = [head(0, Kind.HELLO), head(7, LAST), head(7, CANCEL), head(0, 15)]
        await rpc.write(pb.OpenRequest(heads=heads, bodies=[HELLO_BODY, b"x", b"", b""]))
        await rpc.done_writing()
        assert await read_out(rpc) == [Kind.HELLO, Kind.CLOSING]
