"""The journal in memory, for tests."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from itertools import count

from services.conversation.events import TurnEvent
from services.conversation.journal.port import Batch, Receipt
from services.mesh.errors import Unavailable


class MemoryJournal:
    """See `Journal` and `Tail`. `is_away` plays an outage."""

    def __init__(self) -> None:
        self.is_away = False
        self._epochs = count(1)
        self._epoch = next(self._epochs)
        self._events: dict[str, list[TurnEvent]] = {}
        self._fences: dict[str, int] = {}
        self._changed = asyncio.Event()

    async def epoch(self) -> str:
        """See `Journal.epoch`."""
        self._check()
        return self._name

    async def append(self, batches: Sequence[Batch]) -> list[Receipt]:
        """See `Journal.append`."""
        self._check()
        return [self._append(batch) for batch in batches]

    async def seize(self, turn_id: str, fence: int) -> None:
        """See `Journal.seize`."""
        self._check()
        self._fences[turn_id] = max(fence, self._fences.get(turn_id, 0))

    async def read(self, turn_id: str, *, after: int, limit: int) -> list[TurnEvent]:
        """See `Journal.read`."""
        self._check()
        return [event for event in self._events.get(turn_id, []) if event.sequence > after][:limit]

    async def last_sequence(self, turn_id: str) -> int:
        """See `Journal.last_sequence`."""
        self._check()
        events = self._events.get(turn_id)
        return events[-1].sequence if events else 0

    async def expire(self, turn_id: str, *, keep_s: int) -> None:
        """See `Journal.expire`; tests do not wait for it."""
        self._check()

    async def forget(self, turn_ids: Sequence[str]) -> None:
        """See `Journal.forget`."""
        self._check()
        for turn_id in turn_ids:
            self._events.pop(turn_id, None)
            self._fences.pop(turn_id, None)

    async def wait(
        self, positions: Mapping[str, int], *, fresh: Collection[str] | None = None, wait_s: float
    ) -> dict[str, list[TurnEvent]]:
        """See `Tail.wait`."""
        self._check()
        found = self._above(positions)
        if found:
            return found
        self._changed.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._check()
        return self._above(positions)

    async def interrupt(self) -> None:
        """See `Tail.interrupt`."""
        self._changed.set()

    def lose_everything(self) -> None:
        """What a wipe does."""
        self._events.clear()
        self._fences.clear()
        self._epoch = next(self._epochs)

    def _above(self, positions: Mapping[str, int]) -> dict[str, list[TurnEvent]]:
        above = {
            turn_id: [event for event in self._events.get(turn_id, []) if event.sequence > position]
            for turn_id, position in positions.items()
        }
        return {turn_id: events for turn_id, events in above.items() if events}

    @property
    def _name(self) -> str:
        return f"epoch-{self._epoch}"

    def _append(self, batch: Batch) -> Receipt:
        held = self._fences.get(batch.turn_id)
        if held is not None and held > batch.fence:
            return Receipt.OUTDATED
        if batch.epoch != self._name or (held is None and batch.events[0].sequence > 1):
            return Receipt.DETACHED
        self._fences[batch.turn_id] = batch.fence
        events = self._events.setdefault(batch.turn_id, [])
        if events and batch.events[0].sequence > events[-1].sequence + 1:
            events.clear()
        last = events[-1].sequence if events else 0
        events.extend(event for event in batch.events if event.sequence > last)
        self._changed.set()
        return Receipt.TAKEN

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable("the journal is away")
