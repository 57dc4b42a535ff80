"""Turns that are published all the time, received by many and acknowledged, and what became of them."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.kafka.cluster import KafkaOptions
from services.conversation.queue.kafka.queue import KafkaQueue, open_kafka_queue
from services.conversation.store.work import TurnRef
from services.mesh.errors import Unavailable
from tests.support.kafka import WITHIN_S, published
from tests.support.waiting import until

_CONVERSATIONS = 40
_BATCH = 10
_WAITING_MAX = 500
"""Turns published and not received: more would only tell how fast the machine is."""
_PAUSE_S = 0.05


@dataclass(slots=True)
class Load:
    """See the module.

    Attributes:
        seen: what each consumer received.
        first: every turn that came, in the order of their first time.
        away: a consumer learned that the broker is away.
        stopped: no more is published.
    """

    published: list[TurnRef] = field(default_factory=list)
    seen: defaultdict[str, list[TurnRef]] = field(default_factory=lambda: defaultdict(list))
    first: dict[TurnRef, None] = field(default_factory=dict)
    away: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, queue: KafkaQueue) -> None:
        """As the relay does: what was refused stays in the outbox, in its order."""
        numbers = count()
        while not self.stopped.is_set():
            if len(self.published) - len(self.first) > _WAITING_MAX:
                await asyncio.sleep(_PAUSE_S)
                continue
            refs = [_ref(next(numbers)) for _ in range(_BATCH)]
            await published(queue, *refs)
            self.published += refs

    async def consume(self, name: str, queue: KafkaQueue) -> None:
        """As a worker does."""
        while True:
            try:
                deliveries = await queue.receive(count_max=20, wait_s=0.2)
            except Unavailable:
                self.away.set()
                await asyncio.sleep(_PAUSE_S)
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

    @asynccontextmanager
    async def consuming(self, name: str, options: KafkaOptions) -> AsyncIterator[KafkaQueue]:
        """A worker for as long as the body runs; it leaves in good order."""
        async with open_kafka_queue(options) as queue, asyncio.TaskGroup() as group:
            task = group.create_task(self.consume(name, queue))
            try:
                yield queue
            finally:
                task.cancel()

    async def completed(self, publishing: asyncio.Task[None]) -> None:
        """Publishes no more, and returns when everything came."""
        self.stopped.set()
        await publishing
        await until(lambda: len(self.first) == len(self.published), within_s=WITHIN_S)


def _ref(number: int) -> TurnRef:
    return TurnRef("org_acme", ConversationId(f"conv_{number % _CONVERSATIONS}"), TurnId(f"turn_{number}"))
