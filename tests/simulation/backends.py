"""The adapters in memory, as servers at the other end of the wire, with the faults that real ones have."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final, cast

from services.conversation.history.branches import HistoryCache
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Journal, Tail
from services.conversation.queue.memory import MemoryQueue
from services.conversation.queue.port import Delivery, Queue
from services.conversation.running.stops import Stops
from services.conversation.store import Store
from services.conversation.store.work import TurnRef
from services.conversation.store_memory import MemoryStore
from tests.simulation.guard import WRITES, Guard
from tests.simulation.loop import PROCESS, ROOT
from tests.simulation.wire import Peer, Wire, immediately
from tests.support.conversation_fakes import MemoryHistoryCache

MOVED: Final = 0.5
DROPPED: Final = 0.2
"""Shares of the messages in hand that a rebalance gives to others, and that it loses."""
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

    def rebalance(self) -> None:
        """Some of what workers have in hand goes to others or is lost; acknowledging it changes nothing any more."""
        for token, entry in list(self._received.items()):
            fate = self._fate.random()
            if fate >= MOVED + DROPPED:
                continue
            del self._received[token]
            if fate < MOVED:
                old = entry.delivery
                entry.delivery = Delivery(old.ref, old.partition, f"{token}'")
                self._waiting.appendleft(entry)
        self._arrived.set()

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


class Board:
    """Where it is told which turns shall stop; readers know how far they have read."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._changed = asyncio.Event()

    async def tell(self, conversation_id: str) -> None:
        """Adds a line."""
        self.told.append(conversation_id)
        self._changed.set()

    async def after(self, position: int, *, wait_s: float) -> list[str]:
        """The lines that follow, or none when there are none for so long."""
        if len(self.told) <= position:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
        return self.told[position:]


class BoardStops:
    """See `Stops`; it stands on the machine of the journal."""

    def __init__(self, board: Board, wire: Wire) -> None:
        self._board = board
        self._wire = wire
        self._position = len(board.told)

    async def tell(self, conversation_id: str) -> None:
        await self._wire.call(Peer.JOURNAL, lambda: self._board.tell(conversation_id))

    async def wait(self, *, wait_s: float) -> set[str]:
        told = await self._wire.wait(Peer.JOURNAL, lambda: self._board.after(self._position, wait_s=wait_s))
        self._position += len(told)
        return set(told)


@dataclass(slots=True)
class Servers:
    """What survives every process."""

    store: MemoryStore
    queue: FaultyQueue
    journal: FaultyJournal
    cache: MemoryHistoryCache
    board: Board


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
    stops: Stops


def backends(servers: Servers, wire: Wire, guard: Guard) -> Backends:
    """See `Backends`; the casts say that what stands for a port has its methods."""
    return Backends(
        store=cast("Store", _RemoteStore(servers.store, wire, Peer.STORE, guard)),  # see above
        queue=cast("Queue", _Remote(servers.queue, wire, Peer.QUEUE, guard)),  # see above
        journal=cast("Journal", _Remote(servers.journal, wire, Peer.JOURNAL, guard)),  # see above
        tail=cast("Tail", _Remote(servers.journal, wire, Peer.JOURNAL, guard)),  # see above
        cache=cast("HistoryCache", _Remote(servers.cache, wire, Peer.CACHE, guard)),  # see above
        stops=BoardStops(servers.board, wire),
    )
