"""The adapters in memory, as servers at the other end of the wire, with the faults that real ones have."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final, cast

from services.conversation.events import TurnFinished
from services.conversation.history import HistoryCache
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Batch, Journal, Tail
from services.conversation.queue.memory import MemoryQueue
from services.conversation.queue.port import Queue
from services.conversation.store import Hold, Store, TurnRef
from services.conversation.store_memory import MemoryStore
from tests.simulation.history import History
from tests.simulation.loop import PROCESS, ROOT
from tests.simulation.wire import Peer, Wire, immediately
from tests.support.conversation import MemoryHistoryCache

_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class LoopClock:
    """See `Clock`: the time of the running loop."""

    def now(self) -> datetime:
        return _EPOCH + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Id(str):
    """An id whose hash is the same in every run of Python, so that sets of ids have one order."""

    __slots__ = ()

    def __hash__(self) -> int:
        return int(self[-8:], 32)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True


class Ids:
    """Ids in the order in which they were made."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(self, prefix: str) -> str:
        return Id(f"{prefix}_{next(self._numbers):026d}")


class FaultyQueue(MemoryQueue):
    """A broker that loses, delays and repeats messages, each with its probability."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(clock=LoopClock().monotonic, chance=chance.random)
        self._fate = chance
        self.lost = self.late = self.twice = 0.0

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        now = []
        for ref in refs:
            if self._fate.random() < self.lost:
                continue
            if self._fate.random() < self.late:
                self._later(ref, 5.0)
                continue
            if self._fate.random() < self.twice:
                self._later(ref, 20.0)
            now.append(ref)
        self._fate.shuffle(now)
        await super().publish(now)

    def _later(self, ref: TurnRef, most_s: float) -> None:
        publish = super().publish
        after_s = self._fate.uniform(0.1, most_s)
        asyncio.get_running_loop().call_later(after_s, lambda: immediately(publish([ref])), context=ROOT)


class FaultyJournal(MemoryJournal):
    """A journal that forgets what it may forget, and that may lose its last second when it is killed."""

    async def expire(self, turn_id: str, *, keep_s: int) -> None:
        await super().expire(turn_id, keep_s=keep_s)
        loop = asyncio.get_running_loop()
        loop.call_later(
            keep_s, lambda: (self._events.pop(turn_id, None), self._fences.pop(turn_id, None)), context=ROOT
        )

    def tear(self, chance: random.Random) -> None:
        """A kill: some of the latest events are gone, and the epoch is another one."""
        for events in self._events.values():
            del events[len(events) - chance.randint(0, min(5, len(events))) :]
        self._epoch = next(self._epochs)


@dataclass(slots=True)
class Servers:
    """What survives every process."""

    store: MemoryStore
    queue: FaultyQueue
    journal: FaultyJournal
    cache: MemoryHistoryCache


class Guard:
    """Stands at the database and the journal, and knows by itself which writes must change nothing."""

    def __init__(self, servers: Servers, history: History) -> None:
        self._servers = servers
        self._history = history

    async def around(self, name: str, arguments: tuple[Any, ...], effect: Coroutine[Any, Any, Any]) -> Any:
        """Does a write and judges it."""
        before = self._rows(arguments)
        allowed = self._is_allowed(arguments)
        try:
            return immediately(effect)
        finally:
            for turn_id, row in self._rows(arguments).items():
                self._judge(name, turn_id, before.get(turn_id), row, is_allowed=allowed)

    async def appended(self, batches: Sequence[Batch], effect: Coroutine[Any, Any, Any]) -> Any:
        """Sees to it that an end is told only when it is stored."""
        for batch in batches:
            row = self._servers.store.tables.turns[batch.turn_id]
            if isinstance(batch.events[-1].payload, TurnFinished) and not row.turn.state.has_ended:
                self._history.violation(f"early: the end of {batch.turn_id} was told before it was stored")
        return immediately(effect)

    def _is_allowed(self, arguments: tuple[Any, ...]) -> bool:
        hold = arguments[0] if arguments else None
        if not isinstance(hold, Hold):
            return True
        row = self._servers.store.tables.turns.get(hold.ref.turn_id)
        return row is not None and row.fence == hold.fence and not row.turn.state.has_ended

    def _rows(self, arguments: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
        """The turn that is named, or all of them, with everything that a write could change."""
        tables = self._servers.store.tables
        named = arguments[0] if arguments else None
        ref = named.ref if isinstance(named, Hold) else named
        ids = [ref.turn_id] if isinstance(ref, TurnRef) else list(tables.turns)
        return {
            each: (
                row.turn,
                tables.messages[row.turn.assistant_message_id][1],
                row.fence,
                row.lease_expire_time,
                row.sequence_limit,
                row.journal_epoch,
            )
            for each in ids
            if (row := tables.turns.get(each)) is not None
        }

    def _judge(
        self, name: str, turn_id: str, old: tuple[Any, ...] | None, new: tuple[Any, ...], *, is_allowed: bool
    ) -> None:
        if old == new:
            return
        process = PROCESS.get()
        history = self._history
        if old is not None and not is_allowed:
            history.violation(f"fence: {name} of a worker that had lost {turn_id} changed it ({process})")
        if old is not None and old[0].state.has_ended:
            history.violation(f"ended twice: {name} changed {turn_id}, which was {old[0].state}")
        history.note(
            f"{name} {turn_id[-4:]} {new[0].state} attempt={new[0].attempt} fence={new[2]} last={new[0].last_sequence}"
        )
        if new[0].state.has_ended and turn_id not in history.ended:
            history.ended[turn_id] = (history.clock(), new[0], new[1])


WRITES: Final = frozenset(
    {"create_turn", "request_cancel", "claim", "fold", "renew", "finish", "release", "requeue_lapsed"}
)
WAITS: Final = frozenset({"receive", "wait"})


class _Remote:
    """An adapter seen through the wire: every method becomes a request."""

    def __init__(self, adapter: object, wire: Wire, peer: Peer, guard: Guard) -> None:
        self._adapter = adapter
        self._wire = wire
        self._peer = peer
        self._guard = guard

    def __getattr__(self, name: str) -> Callable[..., Any]:  # Any: stands in for any method of any port
        method = getattr(self._adapter, name)
        guard = self._guard if name in WRITES and self._peer is Peer.STORE else None

        async def request(*arguments: Any, **options: Any) -> Any:
            if name in WAITS:
                return await self._wire.wait(self._peer, lambda: method(*arguments, **options))
            if guard is not None:
                return await self._wire.call(
                    self._peer, lambda: guard.around(name, arguments, method(*arguments, **options))
                )
            if name == "append":
                return await self._wire.call(
                    self._peer, lambda: self._guard.appended(arguments[0], method(*arguments, **options))
                )
            return await self._wire.call(self._peer, lambda: method(*arguments, **options))

        setattr(self, name, request)
        return request


class _RemoteStore(_Remote):
    """With transactions that span requests: they end with their process."""

    @asynccontextmanager
    async def outbox(self, *, limit: int) -> AsyncIterator[list[TurnRef]]:
        transaction = self._adapter.outbox(limit=limit)  # type: ignore[attr-defined] # it is a store
        is_open = is_over = False

        async def begin() -> list[TurnRef]:
            nonlocal is_open
            if is_over:
                return []
            refs: list[TurnRef] = await transaction.__aenter__()
            is_open = True
            return refs

        async def end(error: BaseException | None) -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                with suppress(ConnectionError):
                    await transaction.__aexit__(type(error) if error else None, error, None)

        def roll_back() -> None:
            nonlocal is_over
            is_over = True
            immediately(end(ConnectionError()))

        process = PROCESS.get()
        forget = process.when_killed(roll_back) if process else (lambda: None)
        try:
            refs = await self._wire.call(self._peer, begin)
            yield refs
            await self._wire.call(self._peer, lambda: end(None))
        finally:
            roll_back()
            forget()


@dataclass(frozen=True, slots=True)
class Backends:
    """The adapters as one process sees them."""

    store: Store
    queue: Queue
    journal: Journal
    tail: Tail
    cache: HistoryCache


def backends(servers: Servers, wire: Wire, guard: Guard) -> Backends:
    """See `Backends`; the casts say that what stands for a port has its methods."""
    return Backends(
        store=cast("Store", _RemoteStore(servers.store, wire, Peer.STORE, guard)),  # see above
        queue=cast("Queue", _Remote(servers.queue, wire, Peer.QUEUE, guard)),  # see above
        journal=cast("Journal", _Remote(servers.journal, wire, Peer.JOURNAL, guard)),  # see above
        tail=cast("Tail", _Remote(servers.journal, wire, Peer.JOURNAL, guard)),  # see above
        cache=cast("HistoryCache", _Remote(servers.cache, wire, Peer.CACHE, guard)),  # see above
    )
