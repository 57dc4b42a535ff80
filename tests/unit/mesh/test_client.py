import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Never

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.mesh import context, deadline
from services.mesh.client import ATTEMPTS_MAX, channel_target, open_channel, service_config, streaming, unary
from services.mesh.errors import DeadlineExceeded, MeshError, Overloaded, Unavailable
from services.mesh.policy import DEFAULT_TIMEOUT_S
from services.mesh.rpc import RpcContext, current
from tests.support.echo import CONTRACT, SERVICE, EchoStub, echo_channel, echo_server, echo_stub

HELLO = StringValue(value="hello")


class Flaky:
    """Fails a given number of times, then answers."""

    def __init__(self, error: MeshError, times: int) -> None:
        self.error = error
        self.times = times
        self.calls = 0

    async def answer(self, request: StringValue, _call: RpcContext) -> StringValue:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return request


# ------------------------------------------------------------------------------------------------------------- retries


async def test_idempotent_call_is_repeated_when_the_server_is_away() -> None:
    flaky = Flaky(Unavailable(), times=ATTEMPTS_MAX - 1)
    async with echo_stub(Hello=flaky.answer) as stub:
        assert await unary(stub.unary("Hello")(HELLO)) == HELLO
    assert flaky.calls == ATTEMPTS_MAX


async def test_repeats_are_bounded() -> None:
    flaky = Flaky(Unavailable(), times=100)
    async with echo_stub(Hello=flaky.answer) as stub:
        with pytest.raises(Unavailable):
            await unary(stub.unary("Hello")(HELLO))
    assert flaky.calls == ATTEMPTS_MAX


async def test_call_with_an_effect_is_never_repeated() -> None:
    flaky = Flaky(Unavailable(), times=1)
    async with echo_stub(Shout=flaky.answer) as stub:
        with pytest.raises(Unavailable):
            await unary(stub.unary("Shout")(HELLO))
    assert flaky.calls == 1


async def test_call_that_a_leaving_server_dropped_is_repeated_where_that_is_safe() -> None:
    """GRPC answers CANCELLED, without a word of ours, for what arrived and was not begun when a server shut down."""
    calls = 0

    async def dropped(request: StringValue, call: grpc.aio.ServicerContext[StringValue, StringValue]) -> StringValue:
        nonlocal calls
        calls += 1
        if calls % 2:
            await call.abort(grpc.StatusCode.CANCELLED)
        return request

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            dropped, request_deserializer=StringValue.FromString, response_serializer=StringValue.SerializeToString
        )
        for name in ("Hello", "Shout")
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with echo_channel(port) as channel:
        stub = EchoStub(channel)
        assert await unary(stub.unary("Hello")(HELLO)) == HELLO
        assert calls == 2
        with pytest.raises(Unavailable):
            await unary(stub.unary("Shout")(HELLO))
    await server.stop(None)
    assert calls == 3


async def test_server_that_is_full_is_not_asked_again() -> None:
    flaky = Flaky(Overloaded(), times=1)
    async with echo_stub(Hello=flaky.answer) as stub:
        with pytest.raises(Overloaded):
            await unary(stub.unary("Hello")(HELLO))
    assert flaky.calls == 1


async def test_stream_is_not_repeated_after_its_first_message() -> None:
    calls = 0

    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        nonlocal calls
        calls += 1
        yield HELLO
        raise Unavailable

    async with echo_stub(Split=split) as stub, streaming(stub.split(HELLO)) as words:
        assert await anext(words) == HELLO
        with pytest.raises(Unavailable):
            await anext(words)
    assert calls == 1


async def test_server_that_is_slow_to_shake_hands_is_reached() -> None:
    """A process that has just started accepts connections in the kernel before it has time for them."""
    async with echo_server() as server, slow_to_begin(server.port, delay_s=0.7) as port, echo_channel(port) as channel:
        assert await unary(EchoStub(channel).unary("Hello")(HELLO)) == HELLO


@asynccontextmanager
async def slow_to_begin(port: int, *, delay_s: float) -> AsyncIterator[int]:
    """A way to `port` on which every connection is served so much later than it is accepted."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    connections: set[asyncio.Task[object]] = set()
    ends: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        await asyncio.sleep(delay_s)
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        ends.update((writer, inner_writer))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for end in ends:  # a connection outlives its channel for as long as Python keeps what was on it
            end.close()
        if connections:
            await asyncio.wait(connections, timeout=60)


def test_service_config_names_exactly_the_repeatable_methods() -> None:
    config = json.loads(json.dumps(service_config([CONTRACT])))
    assert {entry["method"] for entry in config["methodConfig"][0]["name"]} == {
        "Echo",
        "Hello",
        "Hurry",
        "Inner",
        "Split",
    }
    assert {entry["service"] for entry in config["methodConfig"][0]["name"]} == {SERVICE}
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert "methodConfig" not in service_config([])


# ----------------------------------------------------------------------------------------------------------- deadlines


async def deadline_seen(_request: StringValue, call: RpcContext) -> StringValue:
    return StringValue(value=str(call.time_remaining()))


async def test_own_timeout_is_the_methods_unless_told() -> None:
    async with echo_stub(Hello=deadline_seen) as stub:
        seen = float((await unary(stub.unary("Hello")(HELLO))).value)
        assert DEFAULT_TIMEOUT_S - 5 < seen <= DEFAULT_TIMEOUT_S
        seen = float((await unary(stub.unary("Hello")(HELLO, timeout=2.0))).value)
        assert 0 < seen < 3.0  # gRPC rounds up on the wire


async def test_outgoing_call_has_what_the_caller_has_left() -> None:
    async with echo_stub(Hello=deadline_seen) as stub:
        with deadline.within(1.0):
            seen = float((await unary(stub.unary("Hello")(HELLO, timeout=5.0))).value)
        assert 0 < seen < 1.1  # gRPC rounds up on the wire


async def test_call_that_cannot_finish_is_not_started() -> None:
    async with echo_stub() as stub:
        with deadline.within(deadline.SHAVE_S), pytest.raises(DeadlineExceeded):
            stub.unary("Hello")(HELLO)


async def test_hung_neighbour_costs_the_deadline_and_no_more() -> None:
    async def hello(_request: StringValue, _call: RpcContext) -> Never:
        await asyncio.Event().wait()
        raise AssertionError

    async with echo_stub(Hello=hello) as stub:
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(unary(stub.unary("Hello")(HELLO, timeout=0.05)), 5)


async def test_server_that_is_not_there_is_unavailable() -> None:
    async with open_channel("127.0.0.1:1", [CONTRACT]) as channel:
        with pytest.raises(Unavailable):
            await unary(EchoStub(channel).unary("Shout")(HELLO, timeout=5.0))


# ------------------------------------------------------------------------------------------------- streams, ids, traces


@pytest.mark.parametrize("leave", ["break", "raise", "cancel"])
async def test_stream_that_is_left_early_ends_on_the_server(leave: str) -> None:
    ended = asyncio.Event()

    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield HELLO
                await asyncio.sleep(0)
        finally:
            ended.set()

    async def read(stub: EchoStub) -> None:
        async with streaming(stub.split(HELLO)) as words:
            async for _ in words:
                if leave == "break":
                    break
                if leave == "raise":
                    raise LookupError
                await asyncio.Event().wait()

    async with echo_stub(Split=split) as stub:
        task = asyncio.ensure_future(read(stub))
        if leave == "cancel":
            await asyncio.sleep(0.05)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(ended.wait(), 5)


async def test_request_id_follows_the_call() -> None:
    async def hello(_request: StringValue, _call: RpcContext) -> StringValue:
        return StringValue(value=context.request_id())

    async with echo_stub(Hello=hello) as stub:
        with context.request("from-the-edge"):
            assert (await unary(stub.unary("Hello")(HELLO))).value == "from-the-edge"


async def test_trace_of_the_caller_goes_through_a_process_that_exports_nothing() -> None:
    seen: list[str] = []

    async def hello(request: StringValue, _call: RpcContext) -> StringValue:
        call = current()
        assert call is not None
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        seen.extend((call.trace_id, carrier["traceparent"]))
        return request

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with echo_stub(Hello=hello) as stub:
        await unary(stub.unary("Hello")(HELLO, metadata=(("traceparent", parent),)))
    assert seen == ["0af7651916cd43dd8448eb211c80319c", parent]


async def test_malformed_trace_is_ignored() -> None:
    async with echo_stub() as stub:
        for parent in ("", "x", "00-0-0-00", "ff-" + "0" * 32 + "-" + "0" * 16 + "-01"):
            assert await unary(stub.unary("Hello")(HELLO, metadata=(("traceparent", parent),))) == HELLO


# ------------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1:50051", "ipv4:127.0.0.1:50051"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("localhost:50051", "dns:///localhost:50051"),
        ("parley-auth.parley.svc:50051", "dns:///parley-auth.parley.svc:50051"),
        ("999.0.0.1:1", "dns:///999.0.0.1:1"),
    ],
)
def test_target_in_grpcs_notation(target: str, expected: str) -> None:
    assert channel_target(target) == expected


def test_several_names_are_refused() -> None:
    with pytest.raises(ValueError, match="several addresses"):
        channel_target("a:1,b:1")


async def test_calls_go_to_all_addresses_in_turn() -> None:
    seen: dict[str, int] = {}

    def counting(name: str) -> dict[str, object]:
        async def hello(request: StringValue, _call: RpcContext) -> StringValue:
            seen[name] = seen.get(name, 0) + 1
            return request

        return {"Hello": hello}

    async with (
        echo_server(**counting("a")) as first,  # type: ignore[arg-type] # a mapping of behaviours
        echo_server(**counting("b")) as second,  # type: ignore[arg-type] # as above
        open_channel(f"127.0.0.1:{first.port},127.0.0.1:{second.port}", [CONTRACT]) as channel,
    ):
        stub = EchoStub(channel)
        for _ in range(200):
            await unary(stub.unary("Hello")(HELLO))
    # The very first calls go to whichever connection is ready first.
    assert min(seen.values()) >= 80


async def test_channel_is_closed_on_leaving() -> None:
    async with echo_server() as server:
        async with echo_channel(server.port) as channel:
            await unary(EchoStub(channel).unary("Hello")(HELLO))
            assert channel.get_state() is grpc.ChannelConnectivity.READY
        with pytest.raises(grpc.aio.UsageError):
            await EchoStub(channel).unary("Hello")(HELLO)
