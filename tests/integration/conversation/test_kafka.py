"""The queue on a real Kafka broker: killed, wiped, and with workers that come, go and die."""

import asyncio
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import pytest
from confluent_kafka.aio import AIOProducer

from dev.kafka import Server
from services.conversation.journal.memory import MemoryJournal
from services.conversation.model import ConversationId, TurnId, TurnState
from services.conversation.queue.kafka.cluster import KafkaCluster, KafkaOptions
from services.conversation.queue.kafka.queue import KafkaQueue, open_kafka_queue
from services.conversation.store import TurnRef
from services.conversation.store_postgres import PostgresStore
from services.mesh.database import open_database
from services.mesh.errors import Unavailable
from tests.support.conversation import ADA, Rig, database_settings, running
from tests.support.kafka import joined, own_topic
from tests.support.waiting import until

CONVERSATIONS = 40
WITHIN_S = 60.0

pytestmark = pytest.mark.timeout(240)


@dataclass(slots=True)
class Load:
    """Turns that are published, received by many and acknowledged, and what became of them."""

    published: list[TurnRef] = field(default_factory=list)
    seen: defaultdict[str, list[TurnRef]] = field(default_factory=lambda: defaultdict(list))
    first: dict[TurnRef, None] = field(default_factory=dict)
    refused: int = 0
    away: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, queue: KafkaQueue, *, until_set: asyncio.Event) -> None:
        """As the relay does: what was refused stays in the outbox, in its order."""
        numbers = count()
        while not until_set.is_set():
            turns = [next(numbers) for _ in range(10)]
            refs = [
                TurnRef("org_acme", ConversationId(f"conv_{n % CONVERSATIONS}"), TurnId(f"turn_{n}")) for n in turns
            ]
            while True:
                try:
                    await queue.publish(refs)
                except Unavailable:
                    self.refused += 1
                    continue
                break
            self.published += refs

    async def consume(self, name: str, queue: KafkaQueue) -> None:
        """As a worker does."""
        while True:
            try:
                deliveries = await queue.receive(count_max=20, wait_s=0.2)
            except Unavailable:
                self.away.set()
                await asyncio.sleep(0.05)
                continue
            for delivery in deliveries:
                self.seen[name].append(delivery.ref)
                self.first.setdefault(delivery.ref)
            await queue.acknowledge(deliveries)

    def in_order(self) -> bool:
        """Whether each conversation's turns came, the first time, in the order in which they were published."""
        latest: dict[str, int] = {}
        for ref in self.first:
            number = int(ref.turn_id.removeprefix("turn_"))
            if number < latest.get(ref.conversation_id, -1):
                return False
            latest[ref.conversation_id] = number
        return True

    def is_complete(self) -> bool:
        return len(self.first) == len(self.published)


@pytest.fixture
def broker(kafka_server: Server) -> Iterator[Server]:
    """The broker of all tests; a test that fails between killing and starting it leaves it running all the same."""
    yield kafka_server
    if not kafka_server.is_running:
        kafka_server.start()


@pytest.fixture
def options(broker: Server) -> KafkaOptions:
    return own_topic(broker.bootstrap)


@asynccontextmanager
async def consuming(load: Load, name: str, options: KafkaOptions) -> AsyncIterator[KafkaQueue]:
    """A worker for as long as the body runs; it leaves in good order."""
    async with open_kafka_queue(options) as queue, asyncio.TaskGroup() as group:
        task = group.create_task(load.consume(name, queue))
        try:
            yield queue
        finally:
            task.cancel()


def ref(number: int) -> TurnRef:
    return TurnRef("org_acme", ConversationId(f"conv_{number}"), TurnId(f"turn_{number}"))


async def received(queue: KafkaQueue, count_min: int) -> list[TurnRef]:
    found: list[TurnRef] = []
    async with asyncio.timeout(WITHIN_S):
        while len(found) < count_min:
            deliveries = await queue.receive(count_max=100, wait_s=1.0)
            found += [delivery.ref for delivery in deliveries]
            await queue.acknowledge(deliveries)
    return found


async def test_what_a_killed_worker_had_in_hand_comes_to_another(options: KafkaOptions) -> None:
    command = [sys.executable, "-m", "tests.support.kafka_reader", options.bootstrap, options.topic]
    async with open_kafka_queue(options) as queue:
        await queue.publish([ref(number) for number in range(5)])
        victim = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert victim.stdout is not None
        seen = {await victim.stdout.readline() for _ in range(5)}
        victim.kill()
        await victim.wait()

        again = await received(queue, 5)

    assert {name.decode().strip() for name in seen} == {turn.turn_id for turn in again}


async def test_a_turn_that_was_acknowledged_does_not_come_to_the_next_worker(options: KafkaOptions) -> None:
    async with open_kafka_queue(options) as first:
        await first.publish([ref(number) for number in range(20)])
        await received(first, 20)
    async with open_kafka_queue(options) as second:
        await joined(second)
        await second.publish([ref(99)])

        assert await received(second, 1) == [ref(99)]
        await until_depth(second, 0)


async def test_workers_come_and_go_under_load(options: KafkaOptions) -> None:
    load, stop = Load(), asyncio.Event()
    async with open_kafka_queue(options) as api, asyncio.TaskGroup() as group:
        group.create_task(load.publish(api, until_set=stop))
        async with consuming(load, "first", options) as first:
            await until(lambda: load.seen["first"], within_s=WITHIN_S)
            async with consuming(load, "second", options) as second:
                await joined(first, second)
                await until(lambda: load.seen["second"], within_s=WITHIN_S)
            await joined(first)
            async with consuming(load, "third", options) as third:
                await joined(first, third)
                await until(lambda: load.seen["third"], within_s=WITHIN_S)
                stop.set()
                await until(load.is_complete, within_s=WITHIN_S)
        await until_depth(api, 0)

    assert load.in_order()
    assert load.refused == 0


async def test_a_killed_broker_loses_nothing(broker: Server, options: KafkaOptions) -> None:
    load, stop = Load(), asyncio.Event()
    async with open_kafka_queue(options) as api, asyncio.TaskGroup() as group:
        group.create_task(load.publish(api, until_set=stop))
        async with consuming(load, "worker", options):
            await until(lambda: len(load.first) > 500, within_s=WITHIN_S)

            await asyncio.to_thread(broker.kill)
            async with asyncio.timeout(WITHIN_S):
                await load.away.wait()
            await started(broker)

            at_least = len(load.first) + 500
            await until(lambda: len(load.first) > at_least, within_s=WITHIN_S)
            stop.set()
            await until(load.is_complete, within_s=WITHIN_S)

    assert load.in_order()


async def test_everything_is_unavailable_while_the_broker_is_away(broker: Server, options: KafkaOptions) -> None:
    async with open_kafka_queue(options) as queue:
        await queue.publish([ref(1)])
        await received(queue, 1)
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

        await eventually_published(queue, ref(3))
        assert ref(3) in await received(queue, 1)


async def test_a_message_that_is_none_of_ours_becomes_a_dead_letter(options: KafkaOptions) -> None:
    async with open_kafka_queue(options) as queue:
        await joined(queue)
        producer = AIOProducer({"bootstrap.servers": options.bootstrap}, buffer_timeout=0)
        await producer.produce(options.topic, value=b"garbage", partition=5)
        await producer.close()
        await queue.publish([ref(1)])

        assert await received(queue, 1) == [ref(1)]
        await until_depth(queue, 0)
        (letter,) = await queue.dead_letters(limit=5)
        assert (letter.ref, letter.body, letter.reason) == (None, "garbage", "unreadable")
        assert await queue.redrive(limit=5) == 0
        assert (await queue.load()).dead == 0


async def test_a_topic_with_too_few_partitions_is_refused(options: KafkaOptions) -> None:
    small = KafkaCluster(options)
    await small.make_topic(options.topic, partitions=3, keep_ms=60_000)
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
        before = [await rig.ask() for _ in range(30)]
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(shutil.rmtree, broker.broker.folder)
        with pytest.raises(Unavailable):
            await rig.ask()
        await started(broker)

        await stack.enter_async_context(running(rig))
        for turn in before:
            await ended(rig, turn.id)
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


async def eventually_published(queue: KafkaQueue, turn: TurnRef) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                return await queue.publish([turn])
            except Unavailable:
                continue


async def until_away(queue: KafkaQueue) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await queue.acknowledge(await queue.receive(count_max=1, wait_s=0.2))
            except Unavailable:
                return


async def until_depth(queue: KafkaQueue, depth: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if await queue.depth() == depth:
                return
            await asyncio.sleep(0.05)
