"""The queue in memory, for tests."""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import count
from time import monotonic

from services.conversation.queue.port import Delivery, partition_of
from services.conversation.store import TurnRef


class MemoryQueue:
    """See `Queue`."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._received: dict[str, tuple[Delivery, float]] = {}
        self._tokens = count(1)
        self._arrived = asyncio.Event()

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        """See `Queue.publish`."""
        known = {delivery.ref for delivery in self._waiting} | {d.ref for d, _ in self._received.values()}
        for ref in refs:
            if ref not in known:
                known.add(ref)
                self._waiting.append(Delivery(ref, partition_of(ref.conversation_id), str(next(self._tokens))))
        self._arrived.set()

    async def receive(self, *, count_max: int, wait_s: float) -> list[Delivery]:
        """See `Queue.receive`."""
        if not self._waiting and wait_s > 0:
            self._arrived.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        taken = [self._waiting.popleft() for _ in range(min(count_max, len(self._waiting)))]
        self._received |= {delivery.token: (delivery, monotonic()) for delivery in taken}
        return taken

    async def redeliver(self, *, count_max: int, idle_s: float) -> list[Delivery]:
        """See `Queue.redeliver`."""
        now = monotonic()
        idle = [delivery for delivery, since in self._received.values() if now - since >= idle_s][:count_max]
        self._received |= {delivery.token: (delivery, now) for delivery in idle}
        return idle

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Queue.acknowledge`."""
        for delivery in deliveries:
            self._received.pop(delivery.token, None)

    async def depth(self) -> int:
        """See `Queue.depth`."""
        return len(self._waiting) + len(self._received)

    def lose_everything(self) -> None:
        """What a broker does that lost its disk."""
        self._waiting.clear()
        self._received.clear()
