"""Looks into topics without being a member of a group: the age of what waits, and dead letters."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from confluent_kafka import Message, TopicPartition
from confluent_kafka.aio import AIOConsumer

from services.conversation.queue.kafka.cluster import KafkaCluster, Span

LOOK_S: Final = 10.0
"""One look, on a broker that has much to do."""
_BATCH_MAX: Final = 100
_POLL_S: Final = 0.1


class KafkaReader:
    """See the module."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self._cluster = cluster

    async def oldest_ms(self, topic: str, spans: Mapping[int, Span]) -> int:
        """Unix time of the oldest message in the spans, of which there is one at least. Raises Unavailable."""
        oldest: dict[int, int] = {}
        async with self._opened(topic, spans, group=self._cluster.options.group) as consumer, asyncio.timeout(LOOK_S):
            while len(oldest) < len(spans):
                for message in await self._batch(consumer):
                    number = message.partition() or 0
                    oldest.setdefault(number, message.timestamp()[1])
                await consumer.pause([TopicPartition(topic, number) for number in oldest])
        return min(oldest.values())

    async def first(self, topic: str, span: Span, *, limit: int) -> list[bytes]:
        """Bodies of the first messages of a topic that has one partition. Raises Unavailable."""
        bodies: list[bytes] = []
        wanted = min(span.length, limit)
        group = self._cluster.options.redrive_group
        async with self._opened(topic, {0: span}, group=group) as consumer, asyncio.timeout(LOOK_S):
            while len(bodies) < wanted:
                bodies += [message.value() or b"" for message in await self._batch(consumer)]
        return bodies[:wanted]

    async def done(self, topic: str, position: int) -> None:
        """Redriven up to here."""
        group = self._cluster.options.redrive_group
        async with self._opened(topic, {0: Span(position, position)}, group=group) as consumer:
            await consumer.commit(offsets=[TopicPartition(topic, 0, position)], asynchronous=False)

    async def _batch(self, consumer: AIOConsumer) -> list[Message]:
        found: list[Message] = await consumer.consume(num_messages=_BATCH_MAX, timeout=_POLL_S)
        return [message for message in found if message.error() is None]

    @asynccontextmanager
    async def _opened(self, topic: str, spans: Mapping[int, Span], *, group: str) -> AsyncIterator[AIOConsumer]:
        async with self._cluster.looking(group) as consumer:
            await consumer.assign([TopicPartition(topic, number, span.start) for number, span in spans.items()])
            yield consumer
