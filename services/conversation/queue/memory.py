"""The queue in memory, for tests."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic

from services.conversation.queue.body import dead_letter, encode
from services.conversation.queue.port import DELIVERIES_MAX, DeadLetter, Delivery, Load, backoff_s, partition_of
from services.conversation.store.work import TurnRef


@dataclass(slots=True)
class _Entry:
    delivery: Delivery
    published: float
    received: float = 0.0
    deliveries: int = 0
    chance: float = 0.0


class MemoryQueue:
    """See `Queue`; `clock` gives seconds that only grow, `chance` is uniform in [0, 1)."""

    def __init__(self, *, clock: Callable[[], float] = monotonic, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._waiting: deque[_Entry] = deque()
        self._received: dict[str, _Entry] = {}
        self._dead: list[DeadLetter] = []
        self._tokens = count(1)
        self._arrived = asyncio.Event()

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        """See `Queue.publish`."""
        known = {entry.delivery.ref for entry in (*self._waiting, *self._received.values())}
        for ref in refs:
            if ref not in known:
                known.add(ref)
                delivery = Delivery(ref, partition_of(ref.conversation_id), str(next(self._tokens)))
                self._waiting.append(_Entry(delivery, self._clock()))
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
        self._received |= {entry.delivery.token: entry for entry in taken}
        return [self._hand_out(entry) for entry in taken]

    async def redeliver(self, *, count_max: int, idle_s: float) -> list[Delivery]:
        """See `Queue.redeliver`."""
        now = self._clock()
        due = [
            entry
            for entry in self._received.values()
            if now - entry.received >= backoff_s(idle_s, entry.deliveries, entry.chance)
        ][:count_max]
        for entry in due:
            if entry.deliveries >= DELIVERIES_MAX:
                del self._received[entry.delivery.token]
                self._dead.append(dead_letter(encode(entry.delivery.ref), "unacknowledged"))
        return [self._hand_out(entry) for entry in due if entry.delivery.token in self._received]

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Queue.acknowledge`."""
        for delivery in deliveries:
            self._received.pop(delivery.token, None)

    async def leave(self) -> None:
        """See `Queue.leave`."""

    async def depth(self) -> int:
        """See `Queue.depth`."""
        return (await self.load()).depth

    async def load(self) -> Load:
        """See `Queue.load`."""
        entries = (*self._waiting, *self._received.values())
        oldest = min((entry.published for entry in entries), default=self._clock())
        return Load(len(entries), self._clock() - oldest if entries else 0.0, len(self._dead))

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """See `Queue.dead_letters`."""
        return self._dead[:limit]

    async def redrive(self, *, limit: int) -> int:
        """See `Queue.redrive`."""
        letters, self._dead = self._dead[:limit], self._dead[limit:]
        refs = [letter.ref for letter in letters if letter.ref is not None]
        await self.publish(refs)
        return len(refs)

    def lose_everything(self) -> None:
        """What a broker does that lost its disk."""
        self._waiting.clear()
        self._received.clear()
        self._dead.clear()

    def _hand_out(self, entry: _Entry) -> Delivery:
        entry.received = self._clock()
        entry.deliveries += 1
        entry.chance = self._chance()
        return entry.delivery
