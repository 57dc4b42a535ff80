"""Conversation's real processes with their queue on a real Kafka."""

import subprocess
import sys

import grpc.aio
import pytest

from dev.kafka import Server
from parley.conversation.v1 import turn_pb2
from services.mesh.ids import new_id
from tests.integration.conversation.conftest import Processes
from tests.integration.conversation.test_processes import TEXT, Client, text_of
from tests.support.waiting import until

WITHIN_S = 120.0

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def on_kafka(processes: Processes, kafka_server: Server) -> Processes:
    processes.environment |= {
        "PARLEY_QUEUE": "kafka",
        "PARLEY_KAFKA_BOOTSTRAP": kafka_server.bootstrap,
        "PARLEY_KAFKA_SESSION_S": "6",
        # The broker is shared: what another test left waiting must not be counted here.
        "PARLEY_KAFKA_PREFIX": new_id("test"),
    }
    return processes


@pytest.fixture
def client(on_kafka: Processes, api: grpc.aio.Channel) -> Client:
    return Client(api, on_kafka.peers)


def commanded(processes: Processes, command: str) -> str:
    """What a command of conversation prints."""
    done = subprocess.run(
        [sys.executable, "-m", "services.conversation", command],
        env={**processes.environment, "PATH": "/usr/bin"},
        check=True,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    return done.stdout


async def test_a_killed_worker_costs_no_word(on_kafka: Processes, client: Client) -> None:
    client.peers.generation.hold_before = 10
    worker = on_kafka.start("worker")
    turn = await client.ask()
    await client.peers.generation.held.wait()
    seen = await client.watch(turn.id, enough=3)

    worker.kill()
    on_kafka.start("worker")
    rest = await client.watch(turn.id, seen[-1].sequence)

    assert text_of([*seen, *rest]) == TEXT
    assert rest[-1].turn_finished.state == turn_pb2.TURN_STATE_COMPLETED


async def test_a_stopped_worker_leaves_its_partitions_to_the_next(on_kafka: Processes, client: Client) -> None:
    first = on_kafka.start("worker")
    assert text_of(await client.watch((await client.ask("r1")).id)) == TEXT

    first.terminate()
    assert first.wait(timeout=WITHIN_S) == 0
    on_kafka.start("worker")

    assert text_of(await client.watch((await client.ask("r2")).id)) == TEXT


async def test_an_operator_sees_and_redrives(on_kafka: Processes, client: Client) -> None:
    await client.ask()  # nobody answers

    await until(lambda: commanded(on_kafka, "queue").startswith("depth 1 "), within_s=WITHIN_S)

    assert commanded(on_kafka, "redrive") == "0 turns redriven\n"
