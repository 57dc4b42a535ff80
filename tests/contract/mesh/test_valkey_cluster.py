"""A real cluster of three servers: keys apart, slots that move, servers that are away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr
from redis.crc import key_slot
from redis.exceptions import ResponseError

from dev.ports import LOOPBACK
from services.mesh.cache import InvalidatingCache
from services.mesh.errors import Unavailable
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import Client, Script, open_valkey
from tests.support.valkey_cluster import PASSWORD, Group, Node
from tests.support.waiting import until

NAMES = [f"key{number}" for number in range(40)]
MOVING = "{moving}"


@pytest.fixture
async def client(valkey_cluster_url: str) -> AsyncIterator[Client]:
    settings = ValkeySettings(valkey_url=SecretStr(valkey_cluster_url), valkey_timeout_s=20)
    async with open_valkey(settings, application="test") as opened:
        yield opened


@contextmanager
def moving(cluster: Group, key: str) -> Iterator[tuple[Node, Node]]:
    """The key's slot on its way from one server to another, where it is in the end."""
    source = cluster.primary_of(key)
    target = next(node for node in cluster.nodes if node is not source)
    slot, names = key_slot(key.encode()), {node: node.ask("CLUSTER", "MYID").decode() for node in cluster.nodes}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    yield source, target
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
        migrate(source, target, *keys)
    for node in (target, source, *cluster.nodes):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])


def migrate(source: Node, target: Node, *keys: str) -> None:
    source.ask("MIGRATE", LOOPBACK, target.port, "", 0, 20_000, "AUTH", PASSWORD, "KEYS", *keys)


async def test_keys_lie_on_all_servers_and_are_found(client: Client) -> None:
    for number, name in enumerate(NAMES):
        await client.set(name, number)

    assert all([await server.dbsize() for server in await client.servers()])
    assert await client.mget([*NAMES, "none"]) == [*(str(number).encode() for number in range(40)), None]
    assert await client.exists(*NAMES) == 40
    assert await client.delete(*NAMES[:5], "none") == 5
    assert await client.execute_command("UNLINK", *NAMES) == 35


async def test_answers_of_a_batch_stand_in_its_order_with_their_errors(client: Client) -> None:
    answers = await client.batch([*(("SET", name, name) for name in NAMES), ("INCR", NAMES[0]), ("GET", NAMES[1])])

    assert [bool(answer) for answer in answers[:40]] == [True] * 40
    assert isinstance(answers[40], ResponseError)
    assert answers[41] == NAMES[1].encode()


async def test_script_runs_where_its_keys_are(client: Client) -> None:
    script = Script("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
    for name in NAMES:
        assert await script.run(client, keys=[name], args=["v"]) == b"v"


async def test_pipeline_is_refused_before_it_goes_wrong(client: Client) -> None:
    with pytest.raises(TypeError):
        client.pipeline()


async def test_keys_are_removed_by_prefix_on_all_servers(client: Client) -> None:
    await client.batch([("SET", f"{prefix}{name}", 1) for name in NAMES for prefix in ("a*:", "ab:", "b:")])

    assert await client.remove("a*:") == 40
    assert await client.remove("a*:") == 0
    assert await client.exists(*(f"{prefix}{name}" for name in NAMES for prefix in ("ab:", "b:"))) == 80


async def test_slot_that_moves_is_followed(client: Client, valkey_cluster: Group) -> None:
    here, gone, new = (f"{MOVING}:{name}" for name in ("here", "gone", "new"))
    await client.set(here, "1")
    await client.set(gone, "2")
    with moving(valkey_cluster, MOVING) as (source, target):
        migrate(source, target, gone)
        assert [await client.get(name) for name in (here, gone, new)] == [b"1", b"2", None]
        await client.set(new, "3")
        assert await client.batch([("GET", name) for name in (here, gone, new)]) == [b"1", b"2", b"3"]
    assert [await client.get(name) for name in (here, gone, new)] == [b"1", b"2", b"3"]
    assert await client.batch([("GET", name) for name in (here, gone, new)]) == [b"1", b"2", b"3"]


async def test_change_is_told_to_all_who_listen_wherever_the_channel_is(client: Client, valkey_cluster: Group) -> None:
    here: InvalidatingCache[str] = InvalidatingCache("moving", client, entries_max=10)
    there: InvalidatingCache[str] = InvalidatingCache("moving", client, entries_max=10)

    async def load() -> str:
        return "v"

    async def told() -> None:
        """It is in one cache, and goes from both."""
        listening = asyncio.ensure_future(there.listen())
        await until(lambda: there.is_subscribed, within_s=60.0)
        await there.get_or_load("k", load)
        await here.invalidate("k")
        await until(lambda: there._local.get("k") is None, within_s=60.0)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    await told()
    listening = asyncio.ensure_future(there.listen())
    await until(lambda: there.is_subscribed, within_s=60.0)
    with moving(valkey_cluster, "parley:invalidate:moving"):
        pass
    with pytest.raises(Unavailable):
        await asyncio.wait_for(listening, 60)
    assert not there.is_subscribed
    await told()


async def test_cluster_of_which_nobody_answers_is_unavailable() -> None:
    settings = ValkeySettings(valkey_url=SecretStr("valkey+cluster://:hunter2@127.0.0.1:1,127.0.0.1:2"))
    async with open_valkey(settings, application="test") as away:
        for question in (away.ping(), away.get("k"), away.mget(["a", "b"]), away.tell("c", "t"), away.servers()):
            with pytest.raises(Unavailable):
                await question
