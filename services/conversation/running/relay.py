"""Relays: they move accepted turns from outboxes to the queue. Any number of replicas may run them."""

import asyncio
from collections.abc import Sequence
from typing import Final

from services.conversation.queue.port import Queue
from services.conversation.store.work import WorkStore
from services.mesh import telemetry
from services.mesh.errors import MeshError

BATCH_MAX: Final = 500

_log = telemetry.logger("conversation.relay")
_RELAYED: Final = telemetry.counter("parley_conversation_turns_relayed", "Turns moved from outbox to queue.")


class Relay:
    """Moves turns from the outbox to the queue: at once when hinted, else every `every_s` seconds."""

    def __init__(self, store: WorkStore, queue: Queue, *, every_s: float) -> None:
        self._store = store
        self._queue = queue
        self._every_s = every_s
        self._hinted = asyncio.Event()

    def hint(self) -> None:
        """Something was committed to the outbox. Losing a hint costs `every_s` seconds at most."""
        self._hinted.set()

    async def run(self) -> None:
        """Relays until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._hinted.wait()
            except TimeoutError:
                pass
            self._hinted.clear()
            try:
                while await self.relay_once() == BATCH_MAX:
                    pass
            except MeshError as error:
                _log.warning("not_relayed", reason=error.reason)

    async def relay_once(self) -> int:
        """Publishes what the outbox holds, at most a batch; returns how many."""
        async with self._store.outbox(limit=BATCH_MAX) as refs:
            if refs:
                await self._queue.publish(refs)
        _RELAYED.inc(len(refs))
        return len(refs)


class Relays:
    """Relays of several stores, none of which waits for another one."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        self._relays = relays

    def hint(self) -> None:
        """See `Relay.hint`; nobody knows whose outbox it is."""
        for relay in self._relays:
            relay.hint()

    async def run(self) -> None:
        """See `Relay.run`."""
        async with asyncio.TaskGroup() as group:
            for relay in self._relays:
                group.create_task(relay.run(), name="relay")
