import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.mesh.client import open_channel, streaming, unary
from services.mesh.debug_http import Check, Health
from services.mesh.errors import LEAVING, MeshError, Unavailable
from services.mesh.policy import PolicyError
from services.mesh.rpc import RpcContext
from services.mesh.server import ServerError, running, running_worker
from services.mesh.settings import MeshSettings, ServerSettings
from services.mesh.tasks import Loop
from tests.support.echo import CONTRACT, PACKAGE, SERVICE, EchoStub, Method, add, contract, echo_channel, echo_server
from tests.support.waiting import until

HELLO = StringValue(value="hello")
ROOT = Path(__file__).parents[3]
PATIENCE_S = 120.0


async def get(port: int, path: str) -> tuple[int, dict[str, object]]:
    status, body = await fetch(port, f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
    return status, json.loads(body)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


async def fetch(port: int, request: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_method_without_a_policy_refuses_to_start() -> None:
    methods = (Method("Do", None),)
    contract("RefusedService", *methods)

    async def do(request: StringValue, _call: RpcContext) -> StringValue:
        return request

    def bare(server: grpc.aio.Server) -> None:
        add(server, f"{PACKAGE}.RefusedService", methods, {"Do": do})

    with pytest.raises(PolicyError, match="RefusedService"):
        async with running(ServerSettings(), servicers=[bare], verifier=None):
            pass


async def test_blocking_handler_refuses_to_start() -> None:
    def hello(request: StringValue, _call: RpcContext) -> StringValue:
        return request

    with pytest.raises(ServerError, match=f"/{SERVICE}/Hello"):
        async with echo_server(Hello=hello):
            pass


async def test_taken_port_is_told() -> None:
    async with echo_server() as server:
        taken = ServerSettings(grpc_listen=f"127.0.0.1:{server.port}")
        with pytest.raises(ServerError, match=f"127.0.0.1:{server.port}"):
            async with echo_server(settings=taken):
                pass


async def test_health_tells_serving_for_the_process_and_each_service() -> None:
    async with echo_server() as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("is_on", [True, False])
async def test_reflection_is_a_setting(*, is_on: bool) -> None:
    settings = ServerSettings(reflection=is_on, not_serving_pause_s=0, drain_s=0)
    async with (
        echo_server(settings=settings) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        if not is_on:
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            return
        answer = await call.read()
        assert SERVICE in {service.name for service in answer.list_services_response.service}


async def test_draining_server_fails_no_call() -> None:
    """Two servers, one drains in the middle of the traffic; not one of the calls may fail."""
    failures: list[MeshError] = []
    answered = 0

    async def call_until(stop: asyncio.Event, stub: EchoStub) -> None:
        nonlocal answered
        while not stop.is_set():
            try:
                await unary(stub.unary("Shout")(HELLO))  # not idempotent, so gRPC does not hide a failure
                answered += 1
            except MeshError as error:
                failures.append(error)

    settings = ServerSettings(not_serving_pause_s=0.5, drain_s=5.0)
    stop = asyncio.Event()
    async with AsyncExitStack() as leaving, echo_server(settings=settings) as staying:
        drained = await leaving.enter_async_context(echo_server(settings=settings))
        target = f"127.0.0.1:{staying.port},127.0.0.1:{drained.port}"
        async with open_channel(target, [CONTRACT]) as channel, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(call_until(stop, EchoStub(channel)))
            await until(lambda: answered > 200)
            await leaving.aclose()
            after = answered
            await until(lambda: answered > after + 200)
            stop.set()
    assert failures == []


@pytest.mark.timeout(300)
async def test_server_that_drains_right_after_another_one_came_fails_no_call() -> None:
    """Clients that know the new one from its absence only are given the time to find it."""
    failures: list[MeshError] = []
    answered = 0
    stop = asyncio.Event()

    async def call_until_stopped(stub: EchoStub) -> None:
        nonlocal answered
        while not stop.is_set():
            try:
                await unary(stub.unary("Shout")(HELLO))  # as above
                answered += 1
            except MeshError as error:
                failures.append(error)

    async with AsyncExitStack() as leaving, AsyncExitStack() as coming:
        first = await leaving.enter_async_context(echo_server(settings=ServerSettings(drain_s=5.0)))
        port = free_port()
        target = f"127.0.0.1:{port},127.0.0.1:{first.port}"
        async with open_channel(target, [CONTRACT]) as channel, asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(call_until_stopped(EchoStub(channel)))
            # By then the pauses between two tries to connect are the longest.
            await until(lambda: answered > 4_000, within_s=PATIENCE_S)
            settings = ServerSettings(grpc_listen=f"127.0.0.1:{port}", not_serving_pause_s=0)
            await coming.enter_async_context(echo_server(settings=settings))
            await leaving.aclose()
            after = answered
            await until(lambda: answered > after + 200, within_s=PATIENCE_S)
            stop.set()
    assert failures == []


async def test_stream_that_can_be_resumed_ends_when_the_server_leaves_and_others_go_on() -> None:
    release = asyncio.Event()

    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        yield HELLO
        await release.wait()
        yield HELLO

    settings = ServerSettings(not_serving_pause_s=0, drain_s=30.0)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        server = await stack.enter_async_context(echo_server(settings=settings, Split=split, Resume=split))
        async with echo_channel(server.port) as channel:
            stub = EchoStub(channel)
            async with streaming(stub.split(HELLO)) as others, streaming(stub.stream("Resume")(HELLO)) as resumable:
                assert (await anext(others), await anext(resumable)) == (HELLO, HELLO)
                closing = group.create_task(stack.aclose())
                with pytest.raises(Unavailable, match="another one answers"):
                    await anext(resumable)
                release.set()
                assert await anext(others) == HELLO
            await closing


async def test_call_that_outlasts_the_drain_is_told_that_the_process_leaves() -> None:
    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        yield HELLO
        await asyncio.Event().wait()

    settings = ServerSettings(not_serving_pause_s=0, drain_s=2.0)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        server = await stack.enter_async_context(echo_server(settings=settings, Split=split))
        async with echo_channel(server.port) as channel, streaming(EchoStub(channel).split(HELLO)) as words:
            assert await anext(words) == HELLO
            closing = group.create_task(stack.aclose())
            with pytest.raises(Unavailable) as error:
                await anext(words)
            assert LEAVING in error.value.metadata
            await closing


async def test_caller_who_leaves_a_resumable_stream_ends_its_handler() -> None:
    ended = asyncio.Event()

    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        try:
            yield HELLO
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with echo_server(Resume=split) as server, echo_channel(server.port) as channel:
        async with streaming(EchoStub(channel).stream("Resume")(HELLO)) as words:
            assert await anext(words) == HELLO
        await asyncio.wait_for(ended.wait(), 20)


async def test_call_in_flight_ends_well_while_the_server_drains() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def hello(request: StringValue, _call: RpcContext) -> StringValue:
        entered.set()
        await release.wait()
        return request

    settings = ServerSettings(not_serving_pause_s=0, drain_s=10.0)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(echo_server(settings=settings, Hello=hello))
        async with echo_channel(server.port) as channel, asyncio.TaskGroup() as group:
            call = group.create_task(unary(EchoStub(channel).unary("Hello")(HELLO)))
            await entered.wait()
            closing = group.create_task(stack.aclose())
            await asyncio.sleep(0)
            release.set()
            assert await call == HELLO
            await closing


async def test_draining_process_is_alive_and_not_ready() -> None:
    drain_begun, release = asyncio.Event(), asyncio.Event()

    async def drain() -> None:
        drain_begun.set()
        await release.wait()

    async def run() -> None:
        await asyncio.Event().wait()

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        loops = [Loop("held", run, drain)]
        port = await stack.enter_async_context(running_worker(MeshSettings(drain_s=10), loops=loops))
        assert await get(port, "/readyz") == (200, {"status": "ready", "problems": {}})
        closing = group.create_task(stack.aclose())
        await drain_begun.wait()
        assert await get(port, "/readyz") == (503, {"status": "not ready", "problems": {"process": "draining"}})
        assert (await get(port, "/healthz"))[0] == 200
        release.set()
        await closing


async def test_process_that_does_not_serve_yet_is_not_ready() -> None:
    health = Health(is_starting=True)
    assert await health.problems() == {"process": "starting"}
    health.is_starting = False
    assert await health.problems() == {}


async def test_server_is_ready_once_it_serves() -> None:
    async with echo_server() as server:
        assert await get(server.debug_port, "/readyz") == (200, {"status": "ready", "problems": {}})


async def test_failed_check_is_named_without_its_text() -> None:
    async def probe() -> None:
        raise ConnectionRefusedError("postgresql://parley:hunter2@db")

    async with running_worker(MeshSettings(), loops=[], checks=[Check("database", probe)]) as port:
        assert await get(port, "/readyz") == (
            503,
            {"status": "not ready", "problems": {"database": "ConnectionRefusedError"}},
        )


async def test_scrape_asks_the_checks_so_that_it_shows_them_as_they_are() -> None:
    is_there = True

    async def probe() -> None:
        if not is_there:
            raise ConnectionRefusedError

    async with running_worker(MeshSettings(), loops=[], checks=[Check("store", probe)]) as port:
        _, up = await fetch(port, "GET /metrics HTTP/1.1\r\n\r\n")
        is_there = False
        _, down = await fetch(port, "GET /metrics HTTP/1.1\r\n\r\n")
    assert 'parley_mesh_check_passed_ratio{check="store"} 1.0' in up
    assert 'parley_mesh_check_passed_ratio{check="store"} 0.0' in down


async def test_second_port_shows_metrics_and_config() -> None:
    async with echo_server() as server:
        async with echo_channel(server.port) as channel:
            await unary(EchoStub(channel).unary("Hello")(HELLO))
        status, text = await fetch(server.debug_port, "GET /metrics HTTP/1.1\r\n\r\n")
        assert status == 200
        assert f'parley_mesh_rpc_duration_seconds_count{{code="OK",method="/{SERVICE}/Hello"}}' in text
        status, config = await fetch(server.debug_port, "GET /debug/config?x=1 HTTP/1.1\r\n\r\n")
        assert {"PARLEY_GRPC_LISTEN", "PARLEY_DRAIN_S"} <= {setting["variable"] for setting in json.loads(config)}


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("POST /healthz HTTP/1.1\r\n\r\n", 405),
        ("GET /nothing HTTP/1.1\r\n\r\n", 404),
        ("GET /../etc/passwd HTTP/1.1\r\n\r\n", 404),
        ("\r\n\r\n", 405),
        ("GET /healthz HTTP/1.1\r\nx: " + "y" * 9_000 + "\r\n\r\n", 431),
    ],
)
async def test_second_port_refuses_the_rest(request_text: str, status: int) -> None:
    async with running_worker(MeshSettings(), loops=[]) as port:
        assert (await fetch(port, request_text))[0] == status


async def test_exception_of_the_body_arrives_unwrapped() -> None:
    async def fail_inside() -> None:
        async with echo_server():
            raise LookupError

    with pytest.raises(LookupError):
        await fail_inside()


SCRIPT = f"""
import asyncio, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "generated")!r}]
from services.mesh.server import serve
from services.mesh.settings import ServerSettings
from services.mesh import telemetry
from tests.support.echo import register
telemetry.configure_logging("echo", level="INFO", form="json")
asyncio.run(serve(ServerSettings(), servicers=[register], verifier=None))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_process_drains_and_exits_cleanly_on_a_signal(number: signal.Signals) -> None:
    environment = {**os.environ, "PARLEY_NOT_SERVING_PAUSE_S": "0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, stderr=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    ready = json.loads(await process.stderr.readline())
    assert ready["event"] == "server_ready"
    async with echo_channel(ready["grpc_port"]) as channel:
        assert await unary(EchoStub(channel).unary("Hello")(HELLO)) == HELLO
    process.send_signal(number)
    rest = (await process.stderr.read()).decode()
    assert await process.wait() == 0
    events = [json.loads(line)["event"] for line in rest.splitlines()]
    assert events[-2:] == ["server_draining", "server_stopped"]


async def test_worker_starts_a_failed_loop_again() -> None:
    attempts = 0

    async def run() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise RuntimeError
        await asyncio.Event().wait()

    async with running_worker(MeshSettings(drain_s=1), loops=[Loop("restarted", run)]) as port:
        await until(lambda: attempts == 3)
        _, text = await fetch(port, "GET /metrics HTTP/1.1\r\n\r\n")
        assert 'parley_mesh_loop_restarts_total{loop="restarted"} 2.0' in text
        assert 'parley_mesh_loop_running_count{loop="restarted"} 1.0' in text
