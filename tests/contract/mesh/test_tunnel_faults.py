"""What becomes of calls in a tunnel when networks and peers fail: asserted by order and number, never by time."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from services.mesh.client import channel_target, open_channel, streaming, unary
from services.mesh.errors import DeadlineExceeded, MeshError, Unavailable
from services.mesh.policy import policies_of
from services.mesh.rpc import RpcContext
from services.mesh.settings import MeshSettings, ServerSettings
from services.mesh.telemetry import REGISTRY
from services.mesh.tunnel import backend
from services.mesh.tunnel.channel import TunnelChannel
from services.mesh.tunnel.frames import MESSAGE_COST_BYTES, WINDOW_BYTES
from tests.chaos.proxy import Proxy, Trouble
from tests.support.echo import CONTRACT, METHODS, SERVICE, Behaviour, Echo, EchoStub, add, echo_server
from tests.support.waiting import until

HELLO: Final = StringValue(value="hello")
PATIENCE_S: Final = 90.0
TUNNEL: Final = MeshSettings(mesh_transport="tunnel")


@asynccontextmanager
async def proxied(**replaced: Behaviour) -> AsyncIterator[tuple[Proxy, EchoStub]]:
    """A server, and a stub that reaches it through a network that can fail."""
    behaviours: Any = replaced  # Any: names of methods, and not those of other arguments
    async with echo_server(**behaviours) as server:
        proxy = Proxy(lambda: server.port)
        await proxy.open()
        try:
            async with open_channel(f"127.0.0.1:{proxy.port}", [CONTRACT], TUNNEL) as channel:
                yield proxy, EchoStub(channel)
        finally:
            await close(proxy)


async def close(proxy: Proxy) -> None:
    await proxy.close()
    await until(lambda: not proxy._pipes, within_s=PATIENCE_S)  # or the loop ends before its connections do


class Gate:
    """A handler that waits until it is let through, and counts."""

    def __init__(self) -> None:
        self.entered = 0
        self.left = 0
        self.open = asyncio.Event()

    async def answer(self, request: StringValue, _call: RpcContext) -> StringValue:
        self.entered += 1
        try:
            await self.open.wait()
        finally:
            self.left += 1
        return request


async def patiently(stub: EchoStub, method: str) -> StringValue:
    return await unary(stub.unary(method)(HELLO, timeout=PATIENCE_S, wait_for_ready=True))


# ---------------------------------------------------------------------------------------------------------------- cuts


async def test_call_that_a_cut_may_have_hit_fails_once_and_the_next_one_is_carried() -> None:
    gate = Gate()
    async with proxied(Shout=gate.answer) as (proxy, stub), asyncio.TaskGroup() as group:
        call = group.create_task(failing(stub, "Shout"))
        await until(lambda: gate.entered == 1, within_s=PATIENCE_S)
        proxy.trouble(Trouble.RESET)
        assert isinstance(await call, Unavailable)
        await until(lambda: gate.left == 1, within_s=PATIENCE_S)  # its handler learns that nobody waits
        proxy.heal()
        gate.open.set()
        assert await patiently(stub, "Shout") == HELLO
    assert gate.entered == 2


async def failing(stub: EchoStub, method: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await unary(stub.unary(method)(HELLO, timeout=PATIENCE_S))
    return caught.value


async def test_call_that_is_safe_to_repeat_outlives_a_cut() -> None:
    gate = Gate()
    async with proxied(Hello=gate.answer) as (proxy, stub), asyncio.TaskGroup() as group:
        call = group.create_task(patiently(stub, "Hello"))
        await until(lambda: gate.entered == 1, within_s=PATIENCE_S)
        proxy.trouble(Trouble.RESET)
        await until(lambda: gate.left == 1, within_s=PATIENCE_S)
        gate.open.set()
        proxy.heal()
        assert await call == HELLO
    assert gate.entered == 2


async def test_stream_that_is_cut_fails_after_what_has_arrived() -> None:
    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        for number in range(5):
            yield StringValue(value=str(number))
        await asyncio.Event().wait()

    async with proxied(Split=split) as (proxy, stub), streaming(stub.split(HELLO)) as words:
        assert [(await anext(words)).value for _ in range(5)] == ["0", "1", "2", "3", "4"]
        proxy.trouble(Trouble.RESET)
        with pytest.raises(Unavailable):
            await anext(words)


async def test_half_open_connection_costs_a_call_its_deadline_and_no_more() -> None:
    async with proxied() as (proxy, stub):
        assert await patiently(stub, "Shout") == HELLO
        proxy.trouble(Trouble.BLACK_HOLE)
        with pytest.raises(DeadlineExceeded):
            await unary(stub.unary("Shout")(HELLO, timeout=0.3))
        proxy.heal()
        assert await patiently(stub, "Shout") == HELLO


async def test_half_open_connection_is_noticed_and_left() -> None:
    options = [
        ("grpc.keepalive_time_ms", 200),
        ("grpc.http2.ping_timeout_ms", 300),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    gate = Gate()
    async with echo_server(Shout=gate.answer) as server:
        proxy = Proxy(lambda: server.port)
        await proxy.open()
        channel = TunnelChannel(
            channel_target(f"127.0.0.1:{proxy.port}"),
            policies_of([CONTRACT]),
            lambda address: grpc.aio.insecure_channel(address, options=options),
        )
        async with channel, asyncio.TaskGroup() as group:
            call = group.create_task(failing(EchoStub(channel), "Shout"))
            await until(lambda: gate.entered == 1, within_s=PATIENCE_S)
            proxy.trouble(Trouble.BLACK_HOLE)
            assert isinstance(await call, Unavailable)
        await close(proxy)


async def test_peer_that_was_restarted_is_found_again() -> None:
    async with AsyncExitStack() as first:
        before = await first.enter_async_context(echo_server())
        async with open_channel(f"127.0.0.1:{before.port}", [CONTRACT], TUNNEL) as channel:
            stub = EchoStub(channel)
            assert await patiently(stub, "Shout") == HELLO
            await first.aclose()
            settings = ServerSettings(grpc_listen=f"127.0.0.1:{before.port}", drain_s=1.0, not_serving_pause_s=0.0)
            async with echo_server(settings=settings):
                assert await patiently(stub, "Shout") == HELLO


async def test_closed_channel_leaves_no_connection_open() -> None:
    async with echo_server() as server:
        proxy = Proxy(lambda: server.port)
        await proxy.open()
        gc.disable()
        try:
            async with open_channel(f"127.0.0.1:{proxy.port}", [CONTRACT], TUNNEL) as channel:
                assert await patiently(EchoStub(channel), "Shout") == HELLO
            await until(lambda: not proxy._pipes, within_s=PATIENCE_S)
        finally:
            gc.enable()
            await close(proxy)


# --------------------------------------------------------------------------------------------------- coming and going


async def test_peer_that_leaves_at_once_fails_no_call() -> None:
    """Its last word says which calls it has seen, so none is lost and none is made twice, however they cross."""
    answered: dict[str, int] = {}
    made = 0
    stop = asyncio.Event()

    async def shout(request: StringValue, _call: RpcContext) -> StringValue:
        answered[request.value] = answered.get(request.value, 0) + 1
        return request

    async def call_until_stopped(stub: EchoStub) -> None:
        nonlocal made
        while not stop.is_set():
            made += 1
            name = StringValue(value=str(made))
            assert await unary(stub.unary("Shout")(name, timeout=PATIENCE_S)) == name

    settings = ServerSettings(not_serving_pause_s=0.0, drain_s=5.0)
    async with AsyncExitStack() as leaving, echo_server(settings=settings, Shout=shout) as staying:
        left = await leaving.enter_async_context(echo_server(settings=settings, Shout=shout))
        target = f"127.0.0.1:{staying.port},127.0.0.1:{left.port}"
        async with open_channel(target, [CONTRACT], TUNNEL) as channel, asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(call_until_stopped(EchoStub(channel)))
            await until(lambda: made > 300, within_s=PATIENCE_S)
            await leaving.aclose()
            after = made
            await until(lambda: made > after + 300, within_s=PATIENCE_S)
            stop.set()
    assert len(answered) == made
    assert set(answered.values()) == {1}


async def test_tunnel_is_exchanged_under_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "EXCHANGE_S", 0.02)
    opened = 0

    def dial(address: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(address)

    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        while True:
            yield HELLO

    async with echo_server(Split=split) as server:
        target = channel_target(f"127.0.0.1:{server.port}")
        async with TunnelChannel(target, policies_of([CONTRACT]), dial) as channel:
            stub = EchoStub(channel)
            async with streaming(stub.split(HELLO)) as words:
                links: set[int] = set()
                while opened < 5:
                    assert await anext(words) == HELLO
                    assert await patiently(stub, "Shout") == HELLO
                    links |= {id(link) for link in channel._fleet._links()}
                    opened = len(links)
            await until(lambda: len(channel._fleet._links()) <= 2, within_s=PATIENCE_S)


async def test_calls_go_where_the_fewest_are() -> None:
    gates = [Gate(), Gate()]
    async with (
        echo_server(Shout=gates[0].answer) as first,
        echo_server(Shout=gates[1].answer) as second,
        open_channel(f"127.0.0.1:{first.port},127.0.0.1:{second.port}", [CONTRACT], TUNNEL) as channel,
        asyncio.TaskGroup() as group,
    ):
        stub = EchoStub(channel)
        gates[0].open.set()
        gates[1].open.set()
        await patiently(stub, "Shout")
        while not all(gate.entered for gate in gates):  # until both are connected
            await patiently(stub, "Shout")
        for gate in gates:
            gate.open.clear()
            gate.entered = 0
        tasks = [group.create_task(patiently(stub, "Shout")) for _ in range(20)]
        await until(lambda: sum(gate.entered for gate in gates) == 20, within_s=PATIENCE_S)
        assert [gate.entered for gate in gates] == [10, 10]
        for gate in gates:
            gate.open.set()
        assert await asyncio.gather(*tasks) == [HELLO] * 20


@asynccontextmanager
async def older() -> AsyncIterator[EchoStub]:
    """A server that knows no tunnel, and a stub of ours for it."""
    server = grpc.aio.server()
    add(server, SERVICE, METHODS, Echo().behaviours())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}", [CONTRACT], TUNNEL) as channel:
        yield EchoStub(channel)
    await server.stop(None)


async def test_peer_that_knows_no_tunnel_is_called_by_plain_grpc() -> None:
    async def words() -> AsyncIterator[StringValue]:
        for value in ("a", "b"):
            yield StringValue(value=value)

    async with older() as stub:
        assert await patiently(stub, "Hello") == HELLO
        async with streaming(stub.split(StringValue(value="a b"))) as split:
            assert [word.value async for word in split] == ["a", "b"]
        assert (await unary(stub.join(words()))).value == "a b"
        async with streaming(stub.talk(words())) as talk:
            assert [word.value async for word in talk] == ["a", "b"]
        assert REGISTRY.get_sample_value("parley_mesh_tunnel_plain_count") == 1
    assert REGISTRY.get_sample_value("parley_mesh_tunnel_plain_count") == 0


async def test_large_answer_of_a_peer_that_knows_no_tunnel_arrives() -> None:
    large = StringValue(value="x" * (3 * WINDOW_BYTES))
    async with older() as stub:
        assert await unary(stub.unary("Hello")(large, timeout=PATIENCE_S, wait_for_ready=True)) == large


async def test_call_that_is_left_at_once_leaves_nothing_at_a_peer_that_knows_no_tunnel() -> None:
    async with older() as stub:
        await patiently(stub, "Hello")
        for call in [stub.unary("Shout")(HELLO) for _ in range(3)]:
            call.cancel()
        writer = stub.join()
        writing = asyncio.ensure_future(writer.write(HELLO))
        await asyncio.sleep(0)
        writer.cancel()
        with pytest.raises((asyncio.CancelledError, asyncio.InvalidStateError)):
            await asyncio.wait_for(writing, PATIENCE_S)
        channel: Any = stub._channel  # Any: the one below the channel of ours
        await until(lambda: not any(link.load for link in channel._inner._fleet._links()), within_s=PATIENCE_S)


async def test_name_is_resolved_to_its_addresses() -> None:
    async with echo_server() as server, open_channel(f"localhost:{server.port}", [CONTRACT], TUNNEL) as channel:
        assert await patiently(EchoStub(channel), "Shout") == HELLO


async def test_name_that_nobody_knows_is_unavailable() -> None:
    async with open_channel("nobody.invalid:1", [CONTRACT], TUNNEL) as channel:
        with pytest.raises(Unavailable):
            await unary(EchoStub(channel).unary("Shout")(HELLO, timeout=PATIENCE_S))


# --------------------------------------------------------------------------------------------------------- neighbours


async def test_small_call_overtakes_a_large_one_in_both_directions() -> None:
    large = StringValue(value="x" * 4_000_000)
    order: list[str] = []

    async with proxied() as (_, stub), asyncio.TaskGroup() as group:
        await patiently(stub, "Shout")

        async def call(name: str, message: StringValue) -> None:
            assert await unary(stub.unary("Shout")(message, timeout=PATIENCE_S)) == message
            order.append(name)

        group.create_task(call("large", large))
        for _ in range(20):
            group.create_task(call("small", HELLO))
    assert order == ["small"] * 20 + ["large"]


async def test_tokens_flow_beside_messages_of_a_megabyte() -> None:
    piece = StringValue(value="x" * 1_000_000)
    heard: list[str] = []

    async def split(request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        for _ in range(12 if request.value == "large" else 200):
            yield piece if request.value == "large" else HELLO

    async def listen(stub: EchoStub, kind: str) -> None:
        async with streaming(stub.split(StringValue(value=kind))) as words:
            async for _ in words:
                heard.append(kind)  # noqa: PERF401 - what was heard meanwhile by others stands in between

    async with proxied(Split=split) as (_, stub):
        await patiently(stub, "Shout")
        async with asyncio.TaskGroup() as group:
            group.create_task(listen(stub, "large"))
            group.create_task(listen(stub, "token"))
    assert (heard.count("large"), heard.count("token")) == (12, 200)
    assert heard.index("large") > 100  # most tokens were there before the first of twelve megabytes
    assert heard[-1] == "large"


async def test_slow_reader_holds_up_itself_alone() -> None:
    written = 0

    async def split(request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        nonlocal written
        if request.value != "slow":
            for number in range(10):
                yield StringValue(value=str(number))
            return
        while True:
            yield HELLO
            written += 1

    async def listen(stub: EchoStub) -> list[str]:
        async with streaming(stub.split(StringValue(value="fast"))) as words:
            return [word.value async for word in words]

    async with proxied(Split=split) as (_, stub):
        slow = stub.split(StringValue(value="slow"), timeout=PATIENCE_S * 2)
        assert await slow.read() == HELLO
        answers = await asyncio.gather(*(listen(stub) for _ in range(1_000)))
        assert answers == [[str(number) for number in range(10)]] * 1_000
        in_window = WINDOW_BYTES // (len(HELLO.SerializeToString()) + MESSAGE_COST_BYTES)
        assert written <= in_window + 2
        for _ in range(3 * in_window):  # and goes on as soon as it reads
            assert await slow.read() == HELLO
        slow.cancel()
