"""Relays: they move accepted turns from outboxes to the queue. Any number of replicas may run them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from services.conversation.queue.port import Queue
from services.conversation.store.work import TurnRef, WorkStore
from services.mesh import telemetry
from services.mesh.errors import MeshError

BATCH_MAX: Final = 500

_log = telemetry.logger("conversation.relay")
_RELAYED: Final = telemetry.counter("parley_conversation_turns_relayed", "Turns moved from outbox to queue.")


class Relay:
    """Moves turns from the outbox to the queue: at once when told of them, else every `every_s` seconds."""

    def __init__(self, store: WorkStore, queue: Queue, *, every_s: float) -> None:
        self._store = store
        self._queue = queue
        self._every_s = every_s
        self._accepted: list[TurnRef] = []
        self._is_hinted = False
        self._woken = asyncio.Event()

    def accepted(self, ref: TurnRef) -> None:
        """A turn was committed to the outbox, which need not be looked for there; losing it is as losing a hint."""
        if len(self._accepted) < BATCH_MAX:
            self._accepted.append(ref)
        else:
            self._is_hinted = True
        self._woken.set()

    def hint(self) -> None:
        """Something was committed to the outbox. Losing a hint costs `every_s` seconds at most."""
        self._is_hinted = True
        self._woken.set()

    async def run(self) -> None:
        """Relays until cancelled."""
        now = asyncio.get_running_loop().time
        look_at = now()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look_at):
                    await self._woken.wait()
            self._woken.clear()
            try:
                if self._accepted:
                    await self._hand_on()
                if self._is_hinted or now() >= look_at:
                    self._is_hinted = False
                    look_at = now() + self._every_s
                    while await self.relay_once() == BATCH_MAX:
                        pass
            except MeshError as error:
                _log.warning("not_relayed", reason=error.reason)

    async def relay_once(self) -> int:
        """Publishes what the outbox holds, at most a batch; returns how many."""
        async with self._store.outbox(limit=BATCH_MAX) as refs:
            if refs:
                await self._publish(refs)
        return len(refs)

    async def _hand_on(self) -> None:
        """Publishes what is known to be in the outbox; who looks there meanwhile publishes it too, without harm."""
        refs, self._accepted = self._accepted, []
        await self._publish(refs)
        await self._store.relayed(refs)

    async def _publish(self, refs: Sequence[TurnRef]) -> None:
        await self._queue.publish(refs)
        _RELAYED.inc(len(refs))


class Relays:
    """Relays of several stores, none of which waits for another one."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        self._relays = relays

    def accepted(self, ref: TurnRef) -> None:
        """See `Relay.accepted`; every store reaches every organization."""
        self._relays[0].accepted(ref)

    def hint(self) -> None:
        """See `Relay.hint`; nobody knows whose outbox it is."""
        for relay in self._relays:
            relay.hint()

    async def run(self) -> None:
        """See `Relay.run`."""
        async with asyncio.TaskGroup() as group:
            for relay in self._relays:
                group.create_task(relay.run(), name="relay")
