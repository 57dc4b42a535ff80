"""Real servers of which one dies, freezes and comes back: in a cluster, and under sentinels."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from services.mesh.errors import MeshError
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import Client, open_valkey
from tests.support.valkey_cluster import Group, running_cluster, running_sentinels
from tests.support.waiting import until

WITHIN_S = 120.0
KEY = "counter"

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", params=["cluster", "sentinels"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    with running_cluster(replicas=1) if request.param == "cluster" else running_sentinels() as running:
        yield running


@pytest.fixture
async def client(group: Group) -> AsyncIterator[Client]:
    settings = ValkeySettings(valkey_url=SecretStr(group.url), valkey_timeout_s=1.0)
    async with open_valkey(settings, application="test") as opened:
        yield opened


async def written(client: Client, value: str) -> None:
    """As a caller that comes again after `Unavailable`, as it is told to."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            await client.set(KEY, value)
            return
        except MeshError:
            assert time.monotonic() < deadline, "the servers did not recover"
            await asyncio.sleep(0.05)


async def test_replica_takes_over_from_a_primary_that_dies(group: Group, client: Client) -> None:
    await written(client, "before")
    dead, births = group.primary_of(KEY), client.births

    dead.kill()
    await written(client, "after")

    assert group.primary_of(KEY) is not dead
    assert client.births > births
    assert await client.get(KEY) == b"after"
    dead.start()
    await until(lambda: dead.ask("INFO", "replication").get("master_link_status") == "up", within_s=WITHIN_S)


async def test_nobody_asks_a_primary_that_froze_and_came_back(group: Group, client: Client) -> None:
    await written(client, "before")
    frozen = group.primary_of(KEY)

    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        await written(client, "after")
    finally:
        os.kill(frozen.pid, signal.SIGCONT)

    assert {await client.get(KEY) for _ in range(200)} == {b"after"}
    await until(lambda: frozen.ask("INFO", "replication").get("master_link_status") == "up", within_s=WITHIN_S)
    assert {await client.get(KEY) for _ in range(200)} == {b"after"}
