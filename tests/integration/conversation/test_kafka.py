"""The queue on a real Kafka broker: killed, wiped, and with workers that come, go and die."""

import asyncio
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from confluent_kafka.aio import AIOProducer

from dev.kafka import Broker, Server
from services.conversation.journal.memory import MemoryJournal
from services.conversation.model import ConversationId, TurnId, TurnState
from services.conversation.queue.kafka.cluster import KafkaCluster, KafkaOptions, translated
from services.conversation.queue.kafka.queue import open_kafka_queue
from services.conversation.store.work import TurnRef
from services.conversation.store_postgres import PostgresStore
from services.mesh.errors import Unavailable
from services.mesh.postgres.database import open_database
from tests.support.conversation import ADA, database_settings
from tests.support.conversation_rig import Rig, running
from tests.support.kafka import (
    WITHIN_S,
    eventually,
    joined,
    own_topic,
    published,
    received,
    until_away,
    until_depth,
)
from tests.support.kafka_load import Load
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def broker(kafka_server: Server) -> Iterator[Server]:
    """The broker of all tests; a test that fails between killing and starting it leaves it running all the same."""
    yield kafka_server
    if not kafka_server.is_running:
        kafka_server.start()


@pytest.fixture
def options(broker: Server) -> KafkaOptions:
    return own_topic(broker.bootstrap)


def ref(number: int) -> TurnRef:
    return TurnRef("org_acme", ConversationId(f"conv_{number}"), TurnId(f"turn_{number}"))


async def test_what_a_killed_worker_had_in_hand_comes_to_another(options: KafkaOptions) -> None:
    command = [sys.executable, "-m", "tests.support.kafka_reader", options.bootstrap, options.topic]
    refs = [ref(number) for number in range(5)]
    async with open_kafka_queue(options) as queue:
        await published(queue, *refs)
        victim = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert victim.stdout is not None
        seen: set[str] = set()
        async with asyncio.timeout(WITHIN_S):
            while len(seen) < len(refs):
                line = await victim.stdout.readline()
                assert line, "the victim ended by itself"
                seen.add(line.decode().strip())
        victim.kill()
        await victim.wait()

        again = await received(queue, refs)

    assert seen == {turn.turn_id for turn in refs}
    assert set(again) == set(refs)


async def test_a_turn_that_was_acknowledged_does_not_come_to_the_next_worker(options: KafkaOptions) -> None:
    refs = [ref(number) for number in range(20)]
    async with open_kafka_queue(options) as first:
        await published(first, *refs)
        await received(first, refs)
        await until_depth(first, 0)
    async with open_kafka_queue(options) as second:
        await joined(second)
        await published(second, ref(99))

        assert await received(second, [ref(99)]) == [ref(99)]
        await until_depth(second, 0)


async def test_workers_come_and_go_under_load(options: KafkaOptions) -> None:
    load = Load()
    async with open_kafka_queue(options) as api, asyncio.TaskGroup() as group:
        publishing = group.create_task(load.publish(api))
        async with load.consuming("first", options) as first:
            await until(lambda: load.seen["first"], within_s=WITHIN_S)
            async with load.consuming("second", options) as second:
                await joined(first, second)
                await until(lambda: load.seen["second"], within_s=WITHIN_S)
            await joined(first)
            async with load.consuming("third", options) as third:
                await joined(first, third)
                await until(lambda: load.seen["third"], within_s=WITHIN_S)
                await load.completed(publishing)
                await until_depth(api, 0)

    assert load.in_order()


async def test_a_killed_broker_loses_nothing(broker: Server, options: KafkaOptions) -> None:
    load = Load()
    async with open_kafka_queue(options) as api, asyncio.TaskGroup() as group:
        publishing = group.create_task(load.publish(api))
        async with load.consuming("worker", options):
            await until(lambda: len(load.first) > 500, within_s=WITHIN_S)

            await asyncio.to_thread(broker.kill)
            async with asyncio.timeout(WITHIN_S):
                await load.away.wait()
            await started(broker)

            at_least = len(load.first) + 500
            await until(lambda: len(load.first) > at_least, within_s=WITHIN_S)
            await load.completed(publishing)

    assert load.in_order()


async def test_everything_is_unavailable_while_the_broker_is_away(broker: Server, options: KafkaOptions) -> None:
    async with open_kafka_queue(options) as queue:
        await published(queue, ref(1))
        await received(queue, [ref(1)])
        await asyncio.to_thread(broker.kill)

        await until_away(queue)
        for attempt in (
            queue.publish([ref(2)]),
            queue.depth(),
            queue.load(),
            queue.dead_letters(limit=1),
            queue.redrive(limit=1),
        ):
            with pytest.raises(Unavailable):
                await attempt
        await started(broker)

        await published(queue, ref(3))
        await received(queue, [ref(3)])


async def test_a_message_that_is_none_of_ours_becomes_a_dead_letter(options: KafkaOptions) -> None:
    async with open_kafka_queue(options) as queue:
        await joined(queue)
        producer = AIOProducer({"bootstrap.servers": options.bootstrap}, buffer_timeout=0)
        await producer.produce(options.topic, value=b"garbage", partition=5)
        await producer.close()
        await published(queue, ref(1))

        assert await received(queue, [ref(1)]) == [ref(1)]
        await until_depth(queue, 0)
        letters = await eventually(lambda: queue.dead_letters(limit=5), bool)
        assert {(letter.ref, letter.body, letter.reason) for letter in letters} == {(None, "garbage", "unreadable")}
        assert await eventually(lambda: queue.redrive(limit=5)) == 0
        await eventually(queue.load, lambda load: load.dead == 0)


def test_a_broker_is_formatted_whatever_its_random_name_begins_with(
    broker: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = uuid.UUID(bytes=b"\xf8" + bytes(15))
    monkeypatch.setattr("dev.kafka.uuid.uuid4", lambda: named)

    Broker(tmp_path).prepare(broker.port, broker.port + 1)

    assert "cluster.id=-" in (tmp_path / "data" / "meta.properties").read_text()


async def test_a_topic_with_too_few_partitions_is_refused(options: KafkaOptions) -> None:
    small = KafkaCluster(options)

    async def made() -> None:
        with translated():
            await small.make_topic(options.topic, partitions=3, keep_ms=60_000)

    await eventually(made)
    async with open_kafka_queue(options) as queue:
        with pytest.raises(Unavailable, match="has 3 partitions and needs 64"):
            await queue.publish([ref(1)])


async def test_a_wiped_log_is_refilled_from_postgres(
    broker: Server, options: KafkaOptions, migrated_database_url: Callable[..., str]
) -> None:
    settings = database_settings(migrated_database_url("conversation"))
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, application="tests"))
        queue = await stack.enter_async_context(open_kafka_queue(options))
        journal = MemoryJournal()
        rig = Rig(PostgresStore(database), queue, journal, journal)
        await eventually(queue.depth)  # its topics are made
        before = [await rig.ask() for _ in range(30)]
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(shutil.rmtree, broker.broker.folder)
        with pytest.raises(Unavailable):
            await rig.ask()
        await started(broker)

        await stack.enter_async_context(running(rig))
        for turn in before:
            await ended(rig, turn.id)
        await eventually(rig.relay.relay_once)  # what the broker refused
        await ended(rig, (await rig.ask()).id)
        await until_depth(queue, 0)

    assert rig.inference.starts == 32  # each turn was answered once, the one included that the queue refused


async def started(broker: Server) -> None:
    broker.launch()
    await asyncio.to_thread(broker.wait_ready)


async def ended(rig: Rig, turn_id: str) -> None:
    """Waits for the end of a turn, with the reaper at work as it is beside every worker."""
    async with asyncio.timeout(WITHIN_S):
        while (await rig.store.turn(ADA, turn_id)).state is not TurnState.COMPLETED:
            await rig.reaper.reap()
