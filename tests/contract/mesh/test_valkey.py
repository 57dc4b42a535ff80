import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis.exceptions import ResponseError

from services.mesh.cache import ALONE_LIFE_S, InvalidatingCache, LocalCache
from services.mesh.clock import ManualClock
from services.mesh.errors import Overloaded, Unavailable
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import Client, Script, open_valkey, translated
from tests.support.waiting import until


def settings(url: str, *, connections_max: int = 8, timeout_s: float = 2.0) -> ValkeySettings:
    return ValkeySettings(valkey_url=SecretStr(url), valkey_connections_max=connections_max, valkey_timeout_s=timeout_s)


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Client]:
    async with open_valkey(settings(valkey_url), application="test") as opened:
        yield opened


class Wire:
    """A TCP relay between client and Valkey that can swallow answers, fall silent or be cut."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._links: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self.swallows_answers = False
        self.is_refusing = False
        self.requests = b""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            login, separator, _ = self._url.netloc.rpartition("@")
            port = server.sockets[0].getsockname()[1]
            yield self._url._replace(netloc=f"{login}{separator}127.0.0.1:{port}").geturl()
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        for near, far in self._links:
            near.close()
            far.close()
        self._links.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_refusing:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        self._links.append((writer, far_writer))
        await asyncio.gather(self._forward(reader, far_writer), self._back(far_reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await self._read(reader):
            self.requests += data
            writer.write(data)
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await self._read(reader):
            if not self.swallows_answers:
                writer.write(data)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(65_536)
        except ConnectionError:
            return b""


# -------------------------------------------------------------------------------------------------------------- client


async def test_lost_answer_is_unavailable_and_the_command_ran_once(valkey_url: str, client: Client) -> None:
    wire = Wire(valkey_url)
    async with (
        wire.listening() as url,
        open_valkey(settings(url, timeout_s=0.2), application="test") as shaky,
    ):
        await shaky.ping()
        wire.swallows_answers = True
        with pytest.raises(Unavailable):
            await shaky.incr("counter")
    assert await client.get("counter") == b"1"


async def test_client_recovers_after_its_connections_are_cut(valkey_url: str) -> None:
    wire = Wire(valkey_url)
    async with wire.listening() as url, open_valkey(settings(url), application="test") as shaky:
        await shaky.ping()
        wire.cut()
        with pytest.raises(Unavailable):
            await shaky.ping()
        assert await shaky.ping()


async def test_server_that_is_away_is_unavailable_without_its_address() -> None:
    async with open_valkey(settings("redis://:hunter2@127.0.0.1:1"), application="test") as away:
        with pytest.raises(Unavailable) as caught:
            await away.ping()
    assert "127.0.0.1" not in caught.value.message


async def test_a_cancelled_command_never_goes_on(client: Client) -> None:
    """A loop that lost the one cancellation it gets would keep its process from leaving."""

    async def ask_for_ever() -> None:
        while True:
            await client.execute_command("PING")

    lost = 0
    for turn in range(1_200):
        task = asyncio.create_task(ask_for_ever())
        for _ in range(turn % 40):
            await asyncio.sleep(0)
        task.cancel()
        _, lasting = await asyncio.wait([task], timeout=0.2)
        for one in lasting:
            lost += 1
            one.cancel()
            await asyncio.wait([one], timeout=1.0)
    assert lost == 0


async def test_full_pool_is_overloaded(valkey_url: str, client: Client) -> None:
    async with open_valkey(
        settings(valkey_url, connections_max=2), application="test", timeout_s=10.0, pool_wait_s=0.05
    ) as narrow:
        blocked = [asyncio.ensure_future(narrow.blpop(["nothing"], timeout=5)) for _ in range(2)]
        await until_blocked(client, len(blocked))
        with pytest.raises(Overloaded):
            await narrow.blpop(["nothing"], timeout=5)
        assert await narrow.ping(), "what waits for nothing shares a connection of its own"
        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)


async def test_who_is_cancelled_while_it_waits_takes_nothing_with_it(valkey_url: str, client: Client) -> None:
    async with open_valkey(settings(valkey_url), application="test", timeout_s=10.0) as other:
        waiting = asyncio.ensure_future(other.blpop(["list"], timeout=5))
        await until_blocked(client, 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        await until_blocked(client, 0)
        await client.rpush("list", "a")

        assert await other.blpop(["list"], timeout=5) == (b"list", b"a")


async def test_a_connection_that_waited_is_left_to_the_next_that_waits(valkey_url: str) -> None:
    async with open_valkey(settings(valkey_url), application="test", timeout_s=10.0) as other:
        for number in range(3):
            await other.rpush("list", number)
            await other.blpop(["list"], timeout=5)

        assert other.births == 2, "one that commands share, and one that waits"
        with pytest.raises(ResponseError):
            await other.blpop(["list"], timeout=-1)
        assert await other.blpop(["list"], timeout=0.01) is None
        assert other.births == 2


async def until_blocked(client: Client, count: int) -> None:
    for _ in range(500):
        if (await client.info("clients"))["blocked_clients"] == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never were {count} clients blocked")


async def test_script_is_sent_in_full_only_when_it_is_unknown(valkey_url: str) -> None:
    script = Script("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
    wire = Wire(valkey_url)
    async with wire.listening() as url, open_valkey(settings(url), application="test") as relayed:
        await relayed.script_flush()
        assert await script.run(relayed, keys=["k"], args=["v"]) == b"v"
        assert wire.requests.count(b"redis.call") == 2  # one text, which says it twice
        assert await script.run(relayed, keys=["k"], args=["w"]) == b"w"
        assert wire.requests.count(b"redis.call") == 2


async def test_pipeline_errors_are_translated_too(valkey_url: str) -> None:
    wire = Wire(valkey_url)
    async with wire.listening() as url, open_valkey(settings(url, timeout_s=0.2), application="test") as shaky:
        await shaky.ping()
        wire.swallows_answers = True
        async with shaky.pipeline(transaction=True) as pipeline:
            pipeline.set("a", 1)
            with pytest.raises(Unavailable), translated():
                await pipeline.execute()


# --------------------------------------------------------------------------------------------------------- local cache


def test_local_cache_forgets_by_age_and_by_number() -> None:
    clock = ManualClock()
    cache: LocalCache[int] = LocalCache(entries_max=2, life_s=10.0, clock=clock)
    cache.put("a", 1)
    clock.advance(9.9)
    assert cache.get("a") == 1
    clock.advance(0.1)
    assert cache.get("a") is None
    for number, key in enumerate("abc"):
        cache.put(key, number)
    assert (len(cache), cache.get("a"), cache.get("b"), cache.get("c")) == (2, None, 1, 2)
    cache.get("b")
    cache.put("d", 3)
    assert (cache.get("c"), cache.get("b")) == (None, 1)
    cache.drop("b")
    cache.drop("never there")
    assert cache.get("b") is None


class Replica:
    """A process with a cache in front of a shared truth."""

    def __init__(self, client: Client, truth: dict[str, str]) -> None:
        self.clock = ManualClock()
        self.cache: InvalidatingCache[str] = InvalidatingCache("test", client, entries_max=100, clock=self.clock)
        self.truth = truth
        self.loads = 0

    async def read(self, key: str) -> str | None:
        return await self.cache.get_or_load(key, lambda: self.load(key))

    async def load(self, key: str) -> str | None:
        self.loads += 1
        return self.truth.get(key)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.cache.listen())
        try:
            await until(lambda: self.cache.is_subscribed)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_change_on_one_replica_is_seen_by_the_other(client: Client) -> None:
    truth = {"k": "old"}
    here, there = Replica(client, truth), Replica(client, truth)
    async with here.listening(), there.listening():
        assert (await here.read("k"), await there.read("k"), await there.read("k")) == ("old", "old", "old")
        assert there.loads == 1
        truth["k"] = "new"
        await here.cache.invalidate("k")
        assert await here.read("k") == "new"

        async def seen() -> str | None:
            return await there.read("k")

        for _ in range(500):
            if await seen() == "new":
                break
            await asyncio.sleep(0.01)
        assert await seen() == "new"


async def test_without_a_subscription_entries_live_briefly(client: Client) -> None:
    replica = Replica(client, {"k": "v"})
    await replica.read("k")
    replica.clock.advance(ALONE_LIFE_S - 0.1)
    await replica.read("k")
    assert replica.loads == 1
    replica.clock.advance(0.1)
    await replica.read("k")
    assert replica.loads == 2


async def test_absence_is_not_cached(client: Client) -> None:
    replica = Replica(client, {})
    assert await replica.read("k") is None
    replica.truth["k"] = "v"
    assert await replica.read("k") == "v"


async def test_value_that_changes_while_it_is_loaded_is_not_kept(client: Client) -> None:
    replica = Replica(client, {"k": "old"})
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow_load() -> str:
        value = replica.truth["k"]
        begun.set()
        await go_on.wait()
        return value

    loading = asyncio.ensure_future(replica.cache.get_or_load("k", slow_load))
    await begun.wait()
    replica.truth["k"] = "new"
    await replica.cache.invalidate("k")
    go_on.set()
    assert await loading == "old"
    assert await replica.read("k") == "new"


async def test_lost_subscription_shortens_lives_and_a_new_one_clears(valkey_url: str) -> None:
    wire = Wire(valkey_url)
    async with wire.listening() as url, open_valkey(settings(url), application="test") as shaky:
        replica = Replica(shaky, {"k": "v"})
        listening = asyncio.ensure_future(replica.cache.listen())
        await until(lambda: replica.cache.is_subscribed)
        await replica.read("k")
        replica.clock.advance(ALONE_LIFE_S)
        await replica.read("k")
        assert replica.loads == 1
        wire.cut()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(listening, 10)
        assert not replica.cache.is_subscribed
        await replica.read("k")
        assert replica.loads == 2
        async with replica.listening():  # what the supervisor does
            await replica.read("k")
            assert replica.loads == 3


async def test_subscription_that_falls_silent_is_given_up(valkey_url: str) -> None:
    wire = Wire(valkey_url)
    async with wire.listening() as url, open_valkey(settings(url), application="test") as shaky:
        cache: InvalidatingCache[str] = InvalidatingCache("test", shaky, entries_max=10)
        listening = asyncio.ensure_future(cache.listen())
        await until(lambda: cache.is_subscribed)
        wire.swallows_answers = True
        with pytest.raises(Unavailable):
            await asyncio.wait_for(listening, 20)
        assert not cache.is_subscribed


async def test_invalidation_never_fails_a_change_that_has_happened() -> None:
    async with open_valkey(settings("redis://127.0.0.1:1"), application="test") as away:
        cache: InvalidatingCache[str] = InvalidatingCache("test", away, entries_max=10)

        async def load() -> str:
            return "v"

        await cache.get_or_load("k", load)
        await cache.invalidate("k")
        assert cache._local.get("k") is None
