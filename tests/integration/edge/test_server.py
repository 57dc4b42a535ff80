"""The real server on a real socket: slow and greedy clients, clients that leave, and the end of the process."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack

import httpx
import pytest
from prometheus_client import generate_latest

from edge import connection
from services.mesh import telemetry
from services.mesh.errors import NotFound
from tests.support.edge import KEY_HEADERS, EdgeUnderTest, running_edge
from tests.support.fakes.conversation import Told, delta, finished, started
from tests.support.waiting import until

CONVERSATIONS = "/api/v1/conversations"
EVENTS = KEY_HEADERS | {"accept": "text/event-stream"}


async def exchange(edge: EdgeUnderTest, *pieces: bytes) -> bytes:
    """Sends raw bytes and reads until the server hangs up."""
    reader, writer = await asyncio.open_connection(*edge.url.removeprefix("http://").split(":"))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def slowly(turn: Told) -> None:
    await turn.tell(started(turn), delta(0, "so far"))


async def stay(turn: Told) -> None:
    await turn.tell(started(turn))


async def asked(edge: EdgeUnderTest) -> str:
    conversation = (await edge.client.post(CONVERSATIONS, json={}, headers=KEY_HEADERS)).json()["id"]
    path = f"{CONVERSATIONS}/{conversation}/turns"
    identity: str = (await edge.client.post(path, json={"new": {"text": "q"}}, headers=KEY_HEADERS)).json()["id"]
    return identity


@pytest.mark.parametrize(
    "head", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n", b"POST / HTTP/1.1\r\ncontent-length: 5\r\nx: "]
)
async def test_a_half_sent_head_is_timed_out(
    listening_edge: EdgeUnderTest, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.2)

    assert (await exchange(listening_edge, head)).startswith(b"HTTP/1.1 408 ")


async def test_a_half_sent_second_head_is_timed_out_too(
    listening_edge: EdgeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.2)
    answers = await exchange(listening_edge, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /healthz HT")

    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answers


@pytest.mark.parametrize(
    "head",
    [
        b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_requests_that_two_servers_could_read_differently_are_refused(
    listening_edge: EdgeUnderTest, head: bytes
) -> None:
    assert (await exchange(listening_edge, head)).startswith(b"HTTP/1.1 400 ")


async def test_a_body_of_30_mb_is_refused_and_the_answer_can_be_read(listening_edge: EdgeUnderTest) -> None:
    headers = KEY_HEADERS | {"content-type": "application/json"}
    response = await listening_edge.client.post(CONVERSATIONS, content=b"x" * 30_000_000, headers=headers)

    assert (response.status_code, response.json()["reason"]) == (413, "REQUEST_TOO_LARGE")


async def test_a_chunked_body_is_counted(listening_edge: EdgeUnderTest) -> None:
    async def pieces() -> object:
        for _ in range(40):
            yield b" " * 65_536

    headers = KEY_HEADERS | {"content-type": "application/json"}
    response = await listening_edge.client.post(CONVERSATIONS, content=pieces(), headers=headers)  # type: ignore[arg-type]  # a generator

    assert (response.status_code, response.json()["reason"]) == (413, "REQUEST_TOO_LARGE")


async def test_the_rest_of_a_refused_body_is_awaited_for_a_while_only(
    listening_edge: EdgeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LEFTOVER_TIMEOUT_S", 0.2)
    answer = await exchange(listening_edge, b"POST /api/v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\nx")

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_forwarded_headers_are_not_believed(listening_edge: EdgeUnderTest) -> None:
    spoofed = KEY_HEADERS | {"x-forwarded-for": "9.9.9.9", "x-forwarded-proto": "https"}

    assert (await listening_edge.client.get(CONVERSATIONS, headers=spoofed)).status_code == 200


async def test_a_client_that_leaves_a_unary_call_cancels_it(listening_edge: EdgeUnderTest) -> None:
    listening_edge.fakes.tokens.gate = asyncio.Event()
    with pytest.raises(httpx.ReadTimeout):
        await listening_edge.client.get(CONVERSATIONS, headers=KEY_HEADERS, timeout=0.3)

    await until(lambda: b'status="499"' in generate_latest(telemetry.REGISTRY))
    listening_edge.fakes.tokens.gate.set()


async def test_a_heartbeat_keeps_a_waiting_stream_open(listening_edge: EdgeUnderTest) -> None:
    async def nothing(_turn: Told) -> None:
        """The turn stays queued."""

    listening_edge.fakes.turns.script = nothing
    path = f"/api/v1/turns/{await asked(listening_edge)}/events"
    async with listening_edge.client.stream("GET", path, headers=EVENTS) as response:
        line = await anext(response.aiter_lines())

    assert (response.status_code, line) == (200, ": heartbeat")


def outside(edge: EdgeUnderTest) -> httpx.AsyncClient:
    """A client that outlives the edge."""
    return httpx.AsyncClient(base_url=edge.url, timeout=20, headers=EVENTS)


async def lines_of(client: httpx.AsyncClient, method: str, path: str, body: object = None) -> list[str]:
    async with client.stream(method, path, json=body) as response:
        return [line async for line in response.aiter_lines()]


async def test_an_edge_that_leaves_says_so_and_asks_its_clients_for_another_connection() -> None:
    async def farewells(client: httpx.AsyncClient) -> list[httpx.Response]:
        while (ready := await client.get("/readyz")).is_success:
            pass
        return [ready, await client.get("/healthz")]

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        async with running_edge(listens=True, not_serving_pause_s=4.0) as edge:
            client = await stack.enter_async_context(outside(edge))
            before = await client.get("/readyz")
            leaving = group.create_task(farewells(client))
        after = await leaving

    assert "connection" not in before.headers
    assert after[0].json()["problems"] == {"process": "draining"}
    assert [response.headers["connection"] for response in after] == ["close", "close"]


CHAT = {"model": "default", "messages": [{"role": "user", "content": "q"}], "stream": True}


async def test_the_end_of_the_process_ends_streams_cleanly_and_finishes_answers() -> None:
    gate = asyncio.Event()

    async def later(turn: Told) -> None:
        await turn.tell(started(turn))
        await gate.wait()
        await turn.tell(finished(turn, "whole"))

    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        async with running_edge(listens=True) as edge:
            client = await stack.enter_async_context(outside(edge))
            edge.fakes.turns.script = later
            events = f"/api/v1/turns/{await asked(edge)}/events"
            watching = group.create_task(lines_of(client, "GET", events))
            chatting = group.create_task(lines_of(client, "POST", "/v1/chat/completions", CHAT))
            await until(lambda: edge.fakes.turns.watchers == 2)
            group.create_task(_set_when(gate, watching))
            # Leaving drains: the event stream ends at once, the chat comes to its end.
        watched, chat = await watching, await chatting

    assert "event: turn_started" in watched
    assert "event: turn_finished" not in watched
    assert "event: error" not in watched
    assert chat[-2:] == ["data: [DONE]", ""]


async def test_a_chat_that_does_not_end_in_time_says_so() -> None:
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        async with running_edge(listens=True, drain_s=0.3) as edge:
            client = await stack.enter_async_context(outside(edge))
            edge.fakes.turns.script = slowly
            chatting = group.create_task(lines_of(client, "POST", "/v1/chat/completions", CHAT))
            await until(lambda: edge.fakes.turns.watchers == 1)
        chat = "".join(await chatting)

    assert "so far" in chat
    assert '"code":"unavailable"' in chat
    assert "[DONE]" not in chat


async def test_the_process_starts_serves_and_ends_on_sigterm() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([".", "generated"]),
        "PARLEY_HTTP_LISTEN": "127.0.0.1:0",
        "PARLEY_WORKLOAD_SECRET": "0123456789abcdef",
        "PARLEY_LOG_FORMAT": "json",
        **{f"PARLEY_{name}_TARGET": "127.0.0.1:1" for name in ("AUTH", "CONVERSATION", "RETRIEVAL", "INFERENCE")},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge", "serve"), env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    ready = b""
    while b"server_ready" not in ready:
        ready = await asyncio.wait_for(process.stderr.readline(), 30)
        assert ready
    process.send_signal(signal.SIGTERM)
    rest = await asyncio.wait_for(process.stderr.read(), 20)

    assert await process.wait() == 0
    assert b"server_draining" in rest
    assert b"server_stopped" in rest
    assert b"Traceback" not in rest


@pytest.mark.parametrize(("settings", "status"), [({}, 2), ({"PARLEY_EDGE_PUBLIC_URL": "parley.example/x"}, 2)])
async def test_settings_that_do_not_fit_are_named(settings: dict[str, str], status: int) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge", "config"),
        env={**clean, "PYTHONPATH": os.pathsep.join([".", "generated"]), **settings},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()

    assert process.returncode == status
    assert b"PARLEY_AUTH_TARGET: is not set" in errors


async def test_errors_before_an_endpoint_have_the_dialect_of_their_path(listening_edge: EdgeUnderTest) -> None:
    missing = await listening_edge.client.get("/v1/nothing", headers=KEY_HEADERS)

    assert missing.json()["error"]["code"] == NotFound.reason.lower()


async def _set_when(gate: asyncio.Event, task: "asyncio.Task[list[str]]") -> None:
    await asyncio.wait([task])
    gate.set()
