"""What a call costs between two processes: in a tunnel, and by plain gRPC, in one run and against the same server.

    python -m tests.load.transport            # as `make bench-transport`

The caller and the server each have a process. Both are read for the CPU time that they have used, and the two
transports take turns, so that what else the machine does hits both alike. There are two servers: one has the
interceptors that every server of ours has, the other one has none, which leaves the transport alone.

A second table tells how late messages of a thousand streams are, alone and beside a stream that nobody reads.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import grpc
import grpc.aio
import uvloop
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from parley.mesh.v1.tunnel_service_pb2_grpc import add_TunnelServiceServicer_to_server
from services.mesh import telemetry
from services.mesh.client import open_channel
from services.mesh.rpc import RpcContext
from services.mesh.server import running
from services.mesh.settings import MeshSettings, ServerSettings
from services.mesh.tunnel.server import TunnelServer
from tests.support.echo import CONTRACT, METHODS, SERVICE, Behaviour, Echo, EchoStub, add, register

ROUNDS: Final = 3
WARM_UP_CALLS: Final = 300
MESSAGE: Final = StringValue(value="x" * 60)
TOKEN: Final = StringValue(value="x" * 20)
LATE_STREAMS: Final = 1_000
LATE_PER_S: Final = 5
LATE_SECONDS: Final = 3
ENDLESS: Final = StringValue(value="1000000000 0")

Transport = Literal["grpc", "tunnel"]
TRANSPORTS: Final[tuple[Transport, ...]] = ("grpc", "tunnel")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time per call or message, in microseconds."""

    server_us: float
    client_us: float

    @property
    def total_us(self) -> float:
        """Both ends."""
        return self.server_us + self.client_us


class Server:
    """A server process, and the CPU time that it has used."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._pid = pid

    def cpu_s(self) -> float:
        """User and system time of all its threads."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def served(kind: str) -> AsyncIterator[Server]:
    """A server in a process of its own."""
    command = (sys.executable, "-m", "tests.load.transport", "--serve", kind)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Server(int(await process.stdout.readline()), process.pid)
    finally:
        process.stdin.close()
        await process.wait()


async def serve(kind: str) -> None:
    """Serves until the standard input ends."""
    async with AsyncExitStack() as stack:
        if kind == "mesh":
            settings = ServerSettings(drain_s=0.5, not_serving_pause_s=0.0, calls_max=100_000)
            server = await stack.enter_async_context(
                running(
                    settings, servicers=[lambda server: register(server, Split=paced, Resume=stamped)], verifier=None
                )
            )
            port = server.port
        else:
            port = await stack.enter_async_context(bare())
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@asynccontextmanager
async def bare() -> AsyncIterator[int]:
    """The same servicer without interceptors, by both transports."""
    server = grpc.aio.server()
    health_servicer = health.aio.HealthServicer()  # whom our channels ask before they call
    await health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    behaviours: dict[str, Behaviour] = {**Echo().behaviours(), "Split": paced_writing}
    handlers = add_handlers(server, behaviours)
    add_TunnelServiceServicer_to_server(TunnelServer(handlers.get), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


def add_handlers(server: grpc.aio.Server, behaviours: dict[str, Behaviour]) -> dict[str, Any]:
    """Registers the methods, and gives them as a table. Any: handlers of all shapes."""
    table: dict[str, Any] = {}

    class Both:
        """Stands in for the server, to learn what is registered."""

        def add_generic_rpc_handlers(self, handlers: Any) -> None:
            server.add_generic_rpc_handlers(handlers)

        def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
            server.add_registered_method_handlers(service, handlers)
            table.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    both: Any = Both()
    add(both, SERVICE, METHODS, behaviours)
    return table


async def paced(request: StringValue, _context: RpcContext) -> AsyncIterator[StringValue]:
    """Tokens at a rate: `<number> <pause in seconds>`."""
    count, pause_s = request.value.split()
    for _ in range(int(count)):
        await asyncio.sleep(float(pause_s))
        yield TOKEN


async def paced_writing(request: StringValue, context: RpcContext) -> None:
    """As `paced`, written as our interceptors write."""
    async for token in paced(request, context):
        await context.write(token)


async def stamped(request: StringValue, _context: RpcContext) -> AsyncIterator[StringValue]:
    """As `paced`; each message says when it left, by the clock that all processes of a machine share."""
    count, pause_s = request.value.split()
    for _ in range(int(count)):
        await asyncio.sleep(float(pause_s))
        yield StringValue(value=repr(time.monotonic()))


async def cost_of_calls(server: Server, transport: Transport, *, in_flight: int, calls: int) -> Cost:
    """Of a unary call, with so many in flight."""
    async with open_channel(f"127.0.0.1:{server.port}", [CONTRACT], MeshSettings(mesh_transport=transport)) as channel:
        hello = EchoStub(channel).unary("Hello")

        async def work(count: int) -> None:
            for _ in range(count):
                await hello(MESSAGE)

        async def all_of(count: int) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(work(count // in_flight))

        return await measured(server, calls, lambda: all_of(WARM_UP_CALLS), lambda: all_of(calls))


async def cost_of_tokens(server: Server, transport: Transport, *, streams: int, per_s: int, seconds: int) -> Cost:
    """Of a message, with so many streams of so many messages a second each."""
    async with open_channel(f"127.0.0.1:{server.port}", [CONTRACT], MeshSettings(mesh_transport=transport)) as channel:
        split = EchoStub(channel).split

        async def listen(seconds: int) -> None:
            heard = 0
            async for _ in split(StringValue(value=f"{seconds * per_s} {1 / per_s}")):
                heard += 1
            if heard != seconds * per_s:
                raise AssertionError(f"{heard} of {seconds * per_s} messages")

        async def all_of(seconds: int) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(streams):
                    group.create_task(listen(seconds))

        return await measured(server, streams * per_s * seconds, lambda: all_of(1), lambda: all_of(seconds))


async def late_ms(server: Server, transport: Transport, *, beside_slow: bool) -> float:
    """Of messages on their way, the 99th percentile, be it beside a stream that is read once and never again."""
    late: list[float] = []
    async with open_channel(f"127.0.0.1:{server.port}", [CONTRACT], MeshSettings(mesh_transport=transport)) as channel:
        stub = EchoStub(channel).stream("Resume")

        async def listen(begins_s: float) -> None:
            await asyncio.sleep(begins_s)
            async for token in stub(StringValue(value=f"{LATE_SECONDS * LATE_PER_S} {1 / LATE_PER_S}")):
                late.append(time.monotonic() - float(token.value))  # noqa: PERF401 - of all that listen at once

        slow = stub(ENDLESS)
        if beside_slow:
            await slow.read()
        else:
            slow.cancel()
        async with asyncio.TaskGroup() as group:
            for index in range(LATE_STREAMS):
                group.create_task(listen(index / LATE_STREAMS / LATE_PER_S))
        slow.cancel()
    return statistics.quantiles(late, n=100)[-1] * 1e3


async def bench_late(server: Server, rounds: int) -> None:
    """Prints the second table."""
    found: dict[Transport, dict[bool, list[float]]] = {each: {False: [], True: []} for each in TRANSPORTS}
    for _ in range(rounds):
        for transport in TRANSPORTS:
            for beside_slow, taken in found[transport].items():
                taken.append(await late_ms(server, transport, beside_slow=beside_slow))
    print("\n| p99 of a message on its way, ms | alone | beside a slow reader | ratio |\n|---|---|---|---|")  # noqa: T201 - the table is for whoever runs it
    for transport, taken_ms in found.items():
        alone, beside = (statistics.median(taken_ms[beside_slow]) for beside_slow in (False, True))
        name = f"{LATE_STREAMS} streams × {LATE_PER_S}/s, {transport}"
        print(f"| {name} | {alone:.1f} | {beside:.1f} | {beside / alone:.2f} |", flush=True)  # noqa: T201 - the table is for whoever runs it


async def measured(
    server: Server, count: int, warm_up: Callable[[], Awaitable[None]], work: Callable[[], Awaitable[None]]
) -> Cost:
    """CPU time of both ends per piece of work."""
    await warm_up()
    server_s, client_s = server.cpu_s(), time.process_time()
    await work()
    return Cost((server.cpu_s() - server_s) / count * 1e6, (time.process_time() - client_s) / count * 1e6)


def line(name: str, found: dict[Transport, list[Cost]]) -> str:
    """A row of the table: medians, and their ratio."""
    plain, tunnel = (
        Cost(statistics.median(c.server_us for c in found[t]), statistics.median(c.client_us for c in found[t]))
        for t in TRANSPORTS
    )
    costs = " | ".join(f"{c.server_us:.0f} + {c.client_us:.0f} = {c.total_us:.0f}" for c in (plain, tunnel))
    return f"| {name} | {costs} | {tunnel.total_us / plain.total_us:.3f} |"


async def bench(rounds: int) -> None:
    """Prints the table."""
    print("| CPU, µs (server + client) | plain gRPC | tunnel | tunnel / plain |\n|---|---|---|---|")  # noqa: T201 - the table is for whoever runs it
    for kind, label in (("bare", "transport alone"), ("mesh", "with interceptors")):
        async with served(kind) as server:
            for in_flight, calls in ((1, 600), (8, 2_400), (64, 6_400)):
                found: dict[Transport, list[Cost]] = {transport: [] for transport in TRANSPORTS}
                for _ in range(rounds):
                    for transport in TRANSPORTS:
                        found[transport].append(
                            await cost_of_calls(server, transport, in_flight=in_flight, calls=calls)
                        )
                print(line(f"unary, {in_flight} in flight, {label}", found), flush=True)  # noqa: T201 - the table is for whoever runs it
            found = {transport: [] for transport in TRANSPORTS}
            for _ in range(rounds):
                for transport in TRANSPORTS:
                    found[transport].append(await cost_of_tokens(server, transport, streams=500, per_s=20, seconds=3))
            print(line(f"message, 500 streams × 20/s, {label}", found), flush=True)  # noqa: T201 - the table is for whoever runs it
    async with served("mesh") as server:
        await bench_late(server, rounds)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests.load.transport", description=__doc__)
    parser.add_argument("--serve", choices=("bare", "mesh"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    telemetry.configure_logging("bench", level="WARNING", form="json")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.serve) if options.serve else bench(options.rounds))


if __name__ == "__main__":
    main()
