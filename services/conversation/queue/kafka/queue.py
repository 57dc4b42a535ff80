"""The queue's port on Kafka: wires sender, intake and ledger."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import nan
from typing import Any, Final

from services.conversation.queue.body import dead_letter, encode
from services.conversation.queue.kafka.cluster import KafkaCluster, KafkaOptions, Span
from services.conversation.queue.kafka.intake import KafkaIntake
from services.conversation.queue.kafka.published import Published
from services.conversation.queue.kafka.reader import KafkaReader
from services.conversation.queue.kafka.sender import KafkaSender, Letter
from services.conversation.queue.ledger import Ledger
from services.conversation.queue.port import DELIVERIES_MAX, DeadLetter, Delivery, Load, partition_of
from services.conversation.store.work import TurnRef
from services.mesh.errors import Unavailable
from services.mesh.tasks import Loop, supervised

DRAIN_S: Final = 5.0
"""For the last look for news and leaving the group."""


class KafkaQueue:
    """See `Queue`. A process joins the group when it first receives."""

    def __init__(self, options: KafkaOptions) -> None:
        self._cluster = KafkaCluster(options)
        self._sender = KafkaSender(self._cluster)
        self._reader = KafkaReader(self._cluster)
        self._ledger = Ledger()
        self.intake = KafkaIntake(self._cluster, self._ledger, self._bury_unreadable)
        self._published = Published()
        self._options = options

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        """See `Queue.publish`."""
        if self._published.knows_any(refs):
            refs = self._published.missing(refs, await self._cluster.spans(self._options.topic, self._options.group))
        letters = [self._letter(ref) for ref in refs]
        for ref, letter, offset in zip(refs, letters, await self._sender.send(letters), strict=True):
            self._published.remember(ref, letter.partition, offset)

    async def receive(self, *, count_max: int, wait_s: float) -> list[Delivery]:
        """See `Queue.receive`."""
        await self.intake.wait(wait_s)
        taken = self._ledger.take(count_max)
        self.intake.made_room()
        return taken

    async def redeliver(self, *, count_max: int, idle_s: float) -> list[Delivery]:
        """See `Queue.redeliver`: of this worker's own messages; those of a dead one come by `receive`."""
        again = []
        for held in self._ledger.due(count_max=count_max, idle_s=idle_s):
            if held.deliveries < DELIVERIES_MAX:
                again.append(self._ledger.hand_out_again(held))
            else:
                await self._bury(encode(held.delivery.ref), "unacknowledged")
                await self.acknowledge([held.delivery])
        return again

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Queue.acknowledge`: the intake tells the broker a moment later."""
        for delivery in deliveries:
            self._ledger.acknowledge(delivery.token)
            self._published.forget(delivery.ref)

    async def leave(self) -> None:
        """See `Queue.leave`."""
        self.intake.leave()

    async def close(self) -> None:
        """Ends the connections that the intake does not end."""
        await self._sender.close()
        await self._cluster.close()

    async def depth(self) -> int:
        """See `Queue.depth`: what comes after the group's positions."""
        spans = await self._cluster.spans(self._options.topic, self._options.group)
        return sum(span.length for span in spans.values())

    async def load(self) -> Load:
        """See `Queue.load`."""
        spans = await self._cluster.spans(self._options.topic, self._options.group)
        dead = await self._cluster.spans(self._options.dead_topic, self._options.redrive_group)
        return Load(
            depth=sum(span.length for span in spans.values()),
            oldest_age_s=await self._oldest_age_s(spans),
            dead=sum(span.length for span in dead.values()),
        )

    async def _oldest_age_s(self, spans: Mapping[int, Span]) -> float:
        if not spans:
            return 0.0
        try:
            oldest_ms = await self._reader.oldest_ms(self._options.topic, spans)
        except Unavailable:  # how much waits is known all the same, and workers are scaled on it
            return nan
        return max(0.0, time.time() - oldest_ms / 1_000)

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """See `Queue.dead_letters`."""
        spans = await self._cluster.spans(self._options.dead_topic, self._options.redrive_group)
        if not spans:
            return []
        return [_dead(body) for body in await self._reader.first(self._options.dead_topic, spans[0], limit=limit)]

    async def redrive(self, *, limit: int) -> int:
        """See `Queue.redrive`."""
        topic = self._options.dead_topic
        spans = await self._cluster.spans(topic, self._options.redrive_group)
        if not spans:
            return 0
        bodies = await self._reader.first(topic, spans[0], limit=limit)
        refs = list(dict.fromkeys(ref for body in bodies if (ref := _dead(body).ref) is not None))
        await self.publish(refs)
        await self._reader.done(topic, spans[0].start + len(bodies))
        return len(refs)

    def _letter(self, ref: TurnRef) -> Letter:
        # The partition is named, because Kafka's own hash of the key differs from client to client.
        partition = partition_of(ref.conversation_id)
        return Letter(self._options.topic, partition, ref.conversation_id, encode(ref))

    async def _bury_unreadable(self, body: bytes) -> None:
        await self._bury(body.decode(errors="replace"), "unreadable")

    async def _bury(self, body: str, reason: str) -> None:
        letter = json.dumps({"body": body, "reason": reason})
        await self._sender.send([Letter(self._options.dead_topic, 0, reason, letter)])


@asynccontextmanager
async def open_kafka_queue(options: KafkaOptions) -> AsyncIterator[KafkaQueue]:
    """A queue, and the loop that reads for it. It connects when it is first used."""
    queue = KafkaQueue(options)

    try:
        async with supervised((Loop("queue", queue.intake.run, drain=queue.intake.drain),), drain_s=DRAIN_S):
            yield queue
    finally:
        await queue.close()


def _dead(letter: bytes) -> DeadLetter:
    try:
        content: Any = json.loads(letter)  # Any: JSON that `_bury` wrote, or somebody else
        return dead_letter(content["body"], content["reason"])
    except (ValueError, TypeError, KeyError):
        return dead_letter(letter, "unreadable")
