"""What calls do, whichever way they travel: plain gRPC and tunnels pass the same suite."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, Never

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from services.mesh.client import MESSAGE_BYTES_MAX, open_channel, streaming, unary
from services.mesh.errors import FieldViolation, InvalidArgument, NotFound, QuotaExhausted, Unavailable
from services.mesh.rpc import RpcContext, current
from services.mesh.server import RunningServer
from services.mesh.settings import MeshSettings
from tests.support.echo import CONTRACT, SERVICE, Behaviour, EchoStub, echo_server

HELLO: Final = StringValue(value="hello")
PATIENCE_S: Final = 60.0

Transport = Literal["grpc", "tunnel"]


@pytest.fixture(params=["grpc", "tunnel"])
def transport(request: pytest.FixtureRequest) -> Transport:
    return "tunnel" if request.param == "tunnel" else "grpc"


@asynccontextmanager
async def channel_to(transport: Transport, *servers: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    target = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    async with open_channel(target, [CONTRACT], MeshSettings(mesh_transport=transport)) as channel:
        yield channel


@asynccontextmanager
async def stub_to(transport: Transport, **replaced: Behaviour) -> AsyncIterator[EchoStub]:
    behaviours: Any = replaced  # Any: names of methods, and not those of other arguments
    async with echo_server(**behaviours) as server, channel_to(transport, server) as channel:
        yield EchoStub(channel)


async def words(*values: str) -> AsyncIterator[StringValue]:
    for value in values:
        yield StringValue(value=value)


async def answered(stub: EchoStub, shape: str) -> None:
    if shape == "Hello":
        await unary(stub.unary("Hello")(HELLO))
    elif shape == "Join":
        await unary(stub.join(words("a")))
    else:
        async with streaming(stub.split(HELLO) if shape == "Split" else stub.talk(words("a"))) as messages:
            async for message in messages:
                assert message == HELLO


async def error_of(call: Any) -> grpc.aio.AioRpcError:  # Any: calls of all shapes
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


# --------------------------------------------------------------------------------------------------------- four shapes


async def test_each_shape_carries_its_messages(transport: Transport) -> None:
    async with stub_to(transport) as stub:
        assert await stub.unary("Hello")(HELLO) == HELLO
        assert [word.value async for word in stub.split(StringValue(value="a b c"))] == ["a", "b", "c"]
        assert (await stub.join(words("a", "b"))).value == "a b"
        assert [word.value async for word in stub.talk(words("a", "b"))] == ["a", "b"]


async def test_call_that_ended_tells_how(transport: Transport) -> None:
    ended: list[object] = []
    async with stub_to(transport) as stub:
        call = stub.unary("Hello")(HELLO, timeout=PATIENCE_S)
        call.add_done_callback(ended.append)
        assert not call.done()
        remaining = call.time_remaining()
        assert remaining is not None
        assert 0 < remaining <= PATIENCE_S
        await call.wait_for_connection()
        assert await call == HELLO
        assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
        assert (call.done(), call.cancelled()) == (True, False)
        assert await call == HELLO  # as often as one likes
        assert not call.cancel()
        assert ended == [call]


async def test_stream_is_written_and_read_by_hand(transport: Transport) -> None:
    async with stub_to(transport) as stub:
        call = stub.talk()
        for value in ("a", "b"):
            await call.write(StringValue(value=value))
            assert await call.read() == StringValue(value=value)
        await call.done_writing()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(HELLO)


async def test_requests_that_fail_cancel_their_call(transport: Transport) -> None:
    async def broken() -> AsyncIterator[StringValue]:
        yield HELLO
        raise LookupError

    async with stub_to(transport) as stub:
        call = stub.join(broken())
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()


async def test_many_messages_arrive_in_their_order(transport: Transport) -> None:
    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        for number in range(3_000):
            yield StringValue(value=str(number))

    async with stub_to(transport, Split=split) as stub:
        assert [word.value async for word in stub.split(HELLO)] == [str(number) for number in range(3_000)]


# -------------------------------------------------------------------------------------------------- errors and metadata


@pytest.mark.parametrize("shape", ["Hello", "Split", "Join", "Talk"])
async def test_error_arrives_with_all_its_details(transport: Transport, shape: str) -> None:
    violations = (FieldViolation("name", "too long: é\n%"),)

    async def unary_one(_request: object, _call: RpcContext) -> Never:
        raise InvalidArgument("no good: é\n%", fields=violations, metadata={"k": "v"})

    async def stream_one(_request: object, _call: RpcContext) -> AsyncIterator[StringValue]:
        yield HELLO
        raise InvalidArgument("no good: é\n%", fields=violations, metadata={"k": "v"})

    behaviour = unary_one if shape in {"Hello", "Join"} else stream_one
    async with stub_to(transport, **{shape: behaviour}) as stub:
        with pytest.raises(InvalidArgument) as caught:
            await answered(stub, shape)
    assert caught.value.message == "no good: é\n%"
    assert (caught.value.fields, dict(caught.value.metadata)) == (violations, {"k": "v"})


async def test_retry_hint_arrives(transport: Transport) -> None:
    async def hello(_request: StringValue, _call: RpcContext) -> Never:
        raise QuotaExhausted("spent", retry_after_s=2.5)

    async with stub_to(transport, Hello=hello) as stub:
        with pytest.raises(QuotaExhausted) as caught:
            await unary(stub.unary("Hello")(HELLO))
    assert caught.value.retry_after_s == 2.5


async def test_metadata_goes_both_ways(transport: Transport) -> None:
    sent = (("x-text", "a b"), ("x-text", "again"), ("x-empty", ""), ("x-raw-bin", b"\x00\n\xff"))

    async def hello(_request: StringValue, call: RpcContext) -> StringValue:
        await call.send_initial_metadata((("x-first", "1"),))
        received = tuple(pair for pair in call.invocation_metadata() or () if pair[0].startswith("x-"))
        call.set_trailing_metadata((("x-count", str(len(received))), ("x-raw-bin", dict(received)["x-raw-bin"])))
        return StringValue(value=repr([tuple(pair) for pair in received if pair[0] != "x-request-id"]))

    async with stub_to(transport, Hello=hello) as stub:
        call = stub.unary("Hello")(HELLO, metadata=sent)
        assert ("x-first", "1") in tuple(await call.initial_metadata())
        assert (await call).value == repr(list(sent))
        trailing = dict(tuple(await call.trailing_metadata()))
        assert trailing["x-raw-bin"] == b"\x00\n\xff"


async def test_metadata_cannot_smuggle_a_line(transport: Transport) -> None:
    async with stub_to(transport) as stub:
        with pytest.raises((ValueError, grpc.aio.BaseError)):
            await stub.unary("Hello")(HELLO, metadata=(("x-text", "a\nx-other\nb"),))


async def test_code_that_a_handler_sets_arrives(transport: Transport) -> None:
    async def hello(_request: StringValue, call: RpcContext) -> StringValue:
        call.set_code(grpc.StatusCode.DATA_LOSS)
        call.set_details("gone")
        return HELLO

    async with stub_to(transport, Hello=hello) as stub:
        error = await error_of(stub.unary("Hello")(HELLO))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "gone")


async def test_unknown_method_is_unimplemented(transport: Transport) -> None:
    async with echo_server() as server, channel_to(transport, server) as channel:
        error = await error_of(channel.unary_unary(f"/{SERVICE}/Nothing", bytes)(b"", timeout=PATIENCE_S))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_interceptors_run_around_the_call(transport: Transport) -> None:
    seen: list[str] = []

    async def hello(request: StringValue, call: RpcContext) -> StringValue:
        running = current()
        assert running is not None
        seen.extend((running.method, running.request_id))
        assert call.peer()
        assert call.auth_context().get("peer_spiffe_id") is None
        return request

    async with stub_to(transport, Hello=hello) as stub:
        await stub.unary("Hello")(HELLO, metadata=(("x-request-id", "mine"),))
        error = await error_of(stub.unary("Echo")(HELLO))
    assert seen == [f"/{SERVICE}/Hello", "mine"]
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


# ----------------------------------------------------------------------------------------- deadlines and cancellation


async def test_deadline_ends_both_ends(transport: Transport) -> None:
    ended = asyncio.Event()

    async def hello(_request: StringValue, _call: RpcContext) -> Never:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with stub_to(transport, Hello=hello) as stub:
        error = await error_of(stub.unary("Hello")(HELLO, timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


@pytest.mark.parametrize("way", ["call", "task"])
async def test_cancelled_call_ends_on_the_server(transport: Transport, way: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    told = asyncio.Event()

    async def hello(_request: StringValue, call: RpcContext) -> Never:
        call.add_done_callback(lambda _: told.set())  # type: ignore[arg-type] # its stub wants a Callable of its own
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with stub_to(transport, Hello=hello) as stub:
        call = stub.unary("Hello")(HELLO)

        async def wait() -> StringValue:
            return await call

        task = asyncio.ensure_future(wait())
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        assert call.cancel() if way == "call" else task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
        await asyncio.wait_for(told.wait(), PATIENCE_S)


async def test_answer_of_a_stream_that_was_cancelled_is_cancellation(transport: Transport) -> None:
    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        yield HELLO
        await asyncio.Event().wait()

    async with stub_to(transport, Split=split) as stub:
        call = stub.split(HELLO)
        assert await call.read() == HELLO
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()


# ----------------------------------------------------------------------------------------------------- size and credit


@pytest.mark.parametrize("size", [0, 16_384, 16_385, 1_000_000])
async def test_messages_of_all_sizes_arrive_whole(transport: Transport, size: int) -> None:
    large = StringValue(value="x" * size)
    async with stub_to(transport) as stub:
        assert await stub.unary("Hello")(large) == large
        assert [word async for word in stub.talk(words(large.value, "a", large.value))] == [
            large,
            StringValue(value="a"),
            large,
        ]


@pytest.mark.parametrize(("beyond", "code"), [(0, grpc.StatusCode.OK), (1, grpc.StatusCode.RESOURCE_EXHAUSTED)])
@pytest.mark.parametrize("way", ["request", "response"])
async def test_largest_message_is_the_meshs(transport: Transport, beyond: int, code: grpc.StatusCode, way: str) -> None:
    overhead = len(StringValue(value="x" * (MESSAGE_BYTES_MAX - 10)).SerializeToString()) - (MESSAGE_BYTES_MAX - 10)
    large = StringValue(value="x" * (MESSAGE_BYTES_MAX - overhead + beyond))

    async def hello(_request: StringValue, _call: RpcContext) -> StringValue:
        return large if way == "response" else HELLO

    async with stub_to(transport, Shout=hello) as stub:
        call = stub.unary("Shout")(large if way == "request" else HELLO, timeout=PATIENCE_S)
        assert await call.code() is code


async def test_writer_waits_for_a_reader_who_does_not_read(transport: Transport) -> None:
    written = 0
    piece = StringValue(value="x" * 10_000)

    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        nonlocal written
        for _ in range(2_000):
            yield piece
            written += 1

    async with stub_to(transport, Split=split) as stub:
        call = stub.split(HELLO)
        assert await call.read() == piece
        for _ in range(50):  # more than enough turns for all of it, were there room
            await stub.unary("Hello")(HELLO)
        assert written < 1_000
        count = 1
        while await call.read() is not grpc.aio.EOF:
            count += 1
        assert count == 2_000


# ----------------------------------------------------------------------------------------------------- coming and going


async def test_repeats_are_for_what_is_safe(transport: Transport) -> None:
    calls: list[str] = []

    async def away(request: StringValue, _call: RpcContext) -> Never:
        calls.append(request.value)
        raise Unavailable

    async with stub_to(transport, Hello=away, Shout=away) as stub:
        for method in ("Hello", "Shout"):
            with pytest.raises(Unavailable):
                await unary(stub.unary(method)(StringValue(value=method)))
    assert calls == ["Hello", "Hello", "Hello", "Shout"]


async def test_error_of_the_server_is_no_reason_to_repeat(transport: Transport) -> None:
    calls = 0

    async def hello(_request: StringValue, _call: RpcContext) -> Never:
        nonlocal calls
        calls += 1
        raise NotFound.of("thing")

    async with stub_to(transport, Hello=hello) as stub:
        with pytest.raises(NotFound):
            await unary(stub.unary("Hello")(HELLO))
    assert calls == 1


async def test_state_follows_the_server(transport: Transport) -> None:
    state = grpc.ChannelConnectivity
    async with AsyncExitStack() as servers:
        server = await servers.enter_async_context(echo_server())
        async with channel_to(transport, server) as channel:
            assert channel.get_state() is state.IDLE
            async with asyncio.timeout(PATIENCE_S):
                await channel.channel_ready()
                assert channel.get_state() is state.READY
                await servers.aclose()
                while (seen := channel.get_state(try_to_connect=True)) is not state.TRANSIENT_FAILURE:
                    await channel.wait_for_state_change(seen)
            error = await error_of(EchoStub(channel).unary("Shout")(HELLO, timeout=PATIENCE_S))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            error = await error_of(EchoStub(channel).unary("Shout")(HELLO, timeout=0.2, wait_for_ready=True))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_closed_channel_ends_its_calls_and_begins_none(transport: Transport) -> None:
    async def hello(_request: StringValue, _call: RpcContext) -> Never:
        await asyncio.Event().wait()
        raise AssertionError

    async with echo_server(Hello=hello) as server:
        async with channel_to(transport, server) as channel:
            stub = EchoStub(channel)
            await stub.unary("Shout")(HELLO)
            call = stub.unary("Hello")(HELLO)
            await call.wait_for_connection() if transport == "tunnel" else await asyncio.sleep(0)
        assert call.cancelled()
        with pytest.raises(grpc.aio.UsageError):
            await stub.unary("Shout")(HELLO)
