"""Real processes on Valkey whose primary dies: a cluster, and a primary under sentinels."""

from collections.abc import Iterator

import grpc.aio
import pytest

from parley.conversation.v1 import turn_pb2
from tests.integration.conversation.conftest import Processes
from tests.integration.conversation.test_processes import TEXT, Client, text_of
from tests.support.conversation_peers import Peers
from tests.support.valkey_cluster import Group, running_cluster, running_sentinels

pytestmark = pytest.mark.timeout(400)

QUEUE = "{parley:conversation}:queue:0"


@pytest.fixture(params=["cluster", "sentinels"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    with running_cluster(replicas=1) if request.param == "cluster" else running_sentinels() as running:
        yield running


@pytest.fixture
def valkey_url(group: Group) -> str:
    """Takes the place of the one server that all other tests have."""
    return group.url


@pytest.fixture
def client(api: grpc.aio.Channel, peers: Peers) -> Client:
    return Client(api, peers)


async def test_turns_end_with_their_whole_text_though_the_primary_dies(
    processes: Processes, client: Client, group: Group
) -> None:
    client.peers.generation.hold_before = 10
    processes.start("worker")
    running = await client.ask("running")
    await client.peers.generation.held.wait()
    seen = await client.watch(running.id, enough=3)

    group.primary_of(QUEUE).kill()
    asked = [await client.ask(f"asked{number}") for number in range(4)]
    client.peers.generation.go_on.set()

    rest = await client.watch(running.id, seen[-1].sequence)
    assert text_of([*seen, *rest]) == TEXT
    assert rest[-1].turn_finished.state == turn_pb2.TURN_STATE_COMPLETED
    for turn in asked:
        assert text_of(await client.watch(turn.id)) == TEXT
