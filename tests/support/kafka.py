"""A real Kafka broker for tests, topics of their own, and waiting for what a busy broker does late."""

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from dev.errors import DevError
from dev.kafka import Broker, Server, fetched, missing
from dev.ports import free_ports
from services.conversation.queue.kafka.cluster import KafkaOptions
from services.conversation.queue.kafka.queue import KafkaQueue
from services.conversation.queue.port import PARTITIONS
from services.conversation.store.work import TurnRef
from services.mesh.errors import Unavailable
from services.mesh.ids import new_id
from tests.support.servers import own_folder, started
from tests.support.waiting import until

SESSION_S = 6.0
"""The shortest that a broker allows by default."""
WITHIN_S = 120.0
"""For whatever a broker has to do, on a machine that has little time for it."""
_APART = 23
"""Keeps the ports tried here away from those tried for other servers by the same process."""
_PAUSE_S = 0.05

T = TypeVar("T")


def require_kafka() -> None:
    """Skips the test, by name of what is missing, where no broker can be had; fails there in CI."""
    if lack := missing() or _not_fetched():
        if os.environ.get("CI"):
            pytest.fail(lack)
        pytest.skip(lack)


@contextmanager
def running_kafka() -> Iterator[Server]:
    """A broker of its own in a folder of its own; both are gone afterwards."""
    require_kafka()
    with own_folder() as home:
        free = free_ports(os.getpid() + _APART)
        pairs = zip(free, free, strict=False)
        with started(
            Server(Broker(home / f"kafka-{port}"), port, controller_port, home / "kafka.log")
            for port, controller_port in pairs
        ) as server:
            yield server


def own_topic(bootstrap: str) -> KafkaOptions:
    """Topics and a group that no other test knows."""
    name = new_id("test")
    return KafkaOptions(bootstrap=bootstrap, topic=name, group=name, session_s=SESSION_S)


async def joined(*queues: KafkaQueue) -> None:
    """Returns when the queues, and nobody else, read every partition, none of them twice."""
    for queue in queues:
        queue.intake.join()
    await until(lambda: _shares(*queues) == list(range(PARTITIONS)), within_s=WITHIN_S)


async def eventually(ask: Callable[[], Awaitable[T]], holds: Callable[[T], object] = lambda _: True) -> T:
    """The first answer that holds; a busy broker may be away for a moment."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                answer = await ask()
                if holds(answer):
                    return answer
            except Unavailable:
                pass
            await asyncio.sleep(_PAUSE_S)


async def published(queue: KafkaQueue, *refs: TurnRef) -> None:
    """Publishes until the broker has the turns; one or another may stand there twice then."""
    await eventually(lambda: queue.publish(refs))


async def received(queue: KafkaQueue, wanted: Iterable[TurnRef]) -> list[TurnRef]:
    """What came, each turn once, until all of the wanted ones had come; everything is acknowledged.

    A message may come again, whenever a worker left before the broker knew what it had done.
    """
    found: dict[TurnRef, None] = {}
    missing = set(wanted)
    while missing:
        deliveries = await eventually(lambda: queue.receive(count_max=100, wait_s=1.0), bool)
        found |= dict.fromkeys(delivery.ref for delivery in deliveries)
        missing -= found.keys()
        await queue.acknowledge(deliveries)
    return list(found)


async def until_away(queue: KafkaQueue) -> None:
    """Returns when the queue tells that the broker is away."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await queue.acknowledge(await queue.receive(count_max=1, wait_s=0.2))
            except Unavailable:
                return


async def until_depth(queue: KafkaQueue, depth: int) -> None:
    """Returns when so many messages are not done."""
    await eventually(queue.depth, lambda found: found == depth)


def _not_fetched() -> str:
    """Why Maven cannot bring Kafka, for example to a user without a home; empty when it is here."""
    try:
        fetched()
    except DevError as error:
        return str(error)
    return ""


def _shares(*queues: KafkaQueue) -> list[int]:
    return sorted(itertools.chain.from_iterable(queue.intake.partitions for queue in queues))
