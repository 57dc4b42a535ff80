"""What a worker makes of partitions that come and go: of messages on their way, and of those that are paused."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Message, TopicPartition

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.body import encode
from services.conversation.queue.kafka import intake as module
from services.conversation.queue.kafka.cluster import KafkaCluster, KafkaOptions
from services.conversation.queue.kafka.intake import KafkaIntake
from services.conversation.queue.ledger import Ledger
from services.conversation.store.work import TurnRef

OPTIONS = KafkaOptions(bootstrap="127.0.0.1:1", topic="turns", group="workers")
KEPT, LEAVING = 4, 3
Callback = Callable[[object, Sequence[TopicPartition]], Awaitable[None]]


class Arrived(Message):
    """A message, as far as the intake looks at it."""

    def __init__(self, number: int, partition: int) -> None:
        self._place = partition
        self._body = encode(TurnRef("org_acme", ConversationId("conv_1"), TurnId(f"turn_{number}"))).encode()

    def error(self) -> None:
        return None

    def partition(self) -> int:
        return self._place

    def offset(self) -> int:
        return 7

    def value(self, payload: object = None) -> bytes:
        return self._body


@dataclass
class Consumer:
    """Two partitions come; one of them leaves after the first message and before the next ones."""

    told: list[tuple[int, int]] = field(default_factory=list)
    looks: int = 0
    on_revoke: Callback | None = None
    on_assign: Callback | None = None

    async def subscribe(self, topics: list[str], **callbacks: Callback) -> None:
        self.on_assign, self.on_revoke = callbacks["on_assign"], callbacks["on_revoke"]

    async def poll(self, timeout: float) -> Message | None:
        self.looks += 1
        if self.looks > 1:
            return None
        assert self.on_assign is not None
        await self.on_assign(self, [TopicPartition("turns", LEAVING), TopicPartition("turns", KEPT)])
        return Arrived(1, LEAVING)

    async def consume(self, **_: object) -> list[Message]:
        assert self.on_revoke is not None
        await self.on_revoke(self, [TopicPartition("turns", LEAVING)])
        return [Arrived(2, KEPT)]

    async def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.told += [(each.partition, each.offset) for each in offsets]

    async def close(self) -> None: ...


@dataclass
class Flooded:
    """A partition brings more than there is room for; then, while it is paused, another one comes, and it is taken."""

    ledger: Ledger
    looks: int = 0
    assigned: list[int] = field(default_factory=list)
    paused: set[int] = field(default_factory=set)
    were_paused: set[int] = field(default_factory=set)
    on_assign: Callback | None = None

    async def subscribe(self, topics: list[str], **callbacks: Callback) -> None:
        self.on_assign = callbacks["on_assign"]

    async def poll(self, timeout: float) -> Message | None:
        self.looks += 1
        if self.looks == 1:
            await self._assign(LEAVING)
            return Arrived(1, LEAVING)
        if self.looks == 2:
            await self._assign(KEPT)
            self.ledger.take(10)
        return None

    async def _assign(self, partition: int) -> None:
        assert self.on_assign is not None
        self.assigned.append(partition)
        await self.on_assign(self, [TopicPartition("turns", partition)])

    async def consume(self, **_: object) -> list[Message]:
        return []

    async def assignment(self) -> list[TopicPartition]:
        return [TopicPartition("turns", partition) for partition in self.assigned]

    async def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {each.partition for each in partitions}
        self.were_paused |= self.paused

    async def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {each.partition for each in partitions}

    async def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None: ...

    async def close(self) -> None: ...


def intake_of(monkeypatch: pytest.MonkeyPatch, consumer: object, ledger: Ledger) -> KafkaIntake:
    """An intake whose cluster is there, and gives it this consumer."""
    cluster = KafkaCluster(OPTIONS)

    async def made() -> None: ...

    async def unreadable(_: bytes) -> None: ...

    monkeypatch.setattr(cluster, "make_topics", made)
    monkeypatch.setattr(module, "AIOConsumer", lambda *_, **__: consumer)
    return KafkaIntake(cluster, ledger, unreadable)


async def test_partitions_that_were_paused_when_others_came_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    monkeypatch.setattr(module, "FULL_S", 0.0)
    ledger = Ledger()
    consumer = Flooded(ledger)
    intake = intake_of(monkeypatch, consumer, ledger)
    poll = consumer.poll

    async def watched(timeout: float) -> Message | None:
        if consumer.looks == 2:
            intake.leave()
        return await poll(timeout)

    monkeypatch.setattr(consumer, "poll", watched)
    intake.join()

    await intake.run()

    assert (consumer.were_paused, consumer.paused) == ({LEAVING}, set())


async def test_a_message_whose_partition_left_is_another_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer, ledger = Consumer(), Ledger()
    intake = intake_of(monkeypatch, consumer, ledger)
    poll = consumer.poll

    async def watched(timeout: float) -> Message | None:
        for delivery in ledger.take(10):
            ledger.acknowledge(delivery.token)
        if consumer.told:
            intake.leave()
        return await poll(timeout)

    monkeypatch.setattr(consumer, "poll", watched)
    intake.join()

    await intake.run()

    assert consumer.told == [(KEPT, 8)]
