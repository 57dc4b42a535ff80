"""What the journal tells of the turns that this process watches: one reader for all of them, and a buffer for each.

A process reads the journal of a turn once, however many watch it, and only while somebody does, or is about to: most
who ask watch at once. Turns of which nothing is heard are looked up together.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import takewhile
from typing import Final

from services.conversation.events import TurnEvent
from services.conversation.journal.port import Tail
from services.conversation.model import Owner, TurnId
from services.conversation.store.turns import TurnKey, TurnStore
from services.mesh import telemetry
from services.mesh.errors import MeshError

BUFFER_MAX: Final = 512
"""Events that a feed keeps; a watcher that is further behind reads the journal."""
PAGE_MAX: Final = 256
"""Events that a watcher is given at once."""
LOOK_MAX: Final = 1_000
"""Silent turns that are looked up in the store at once, and in a round while the journal tells of turns. Of more, each
is looked up after as many rounds: that only finds what the journal has lost."""
EXPECTED_S: Final = 2.0
"""For which a turn that was asked for here is followed although nobody watches it."""
EXPECTED_MAX: Final = 1_000
"""Turns that are followed so."""
TAIL_WAIT_S: Final = 1.0
RETRY_S: Final = 0.5

_log = telemetry.logger("conversation.feeds")
_FEEDS: Final = telemetry.gauge("parley_conversation_feeds_count", "Turns whose journal this process tails now.")


class Feed:
    """The latest events of one turn, shared by its watchers.

    Attributes:
        key: of the turn.
        position: of its latest event.
        owner: of a turn that was asked for here, whose events the feed has from the first one on; else None.
        expected_until: until when somebody may begin to watch it, by the event loop's clock.
    """

    def __init__(self, key: TurnKey, position: int, *, owner: Owner | None = None, expected_until: float = 0.0) -> None:
        self.key = key
        self.position = position
        self.owner = owner
        self.expected_until = expected_until
        self.watchers = 0
        self.is_silent = False
        self._events: deque[TurnEvent] = deque(maxlen=BUFFER_MAX)
        self._arrived = asyncio.Event()

    def add(self, events: list[TurnEvent]) -> None:
        """Takes what the tail has read."""
        self.is_silent = False
        for event in events:
            if event.sequence > self.position:
                self._events.append(event)
                self.position = event.sequence
        self.wake()

    def wake(self) -> None:
        """Lets all watchers look: at what has come, or into the store."""
        self._arrived.set()
        self._arrived = asyncio.Event()

    def after(self, position: int) -> list[TurnEvent] | None:
        """The next events of the buffer; None when it does not reach back to `position`."""
        if position >= self.position:
            return []
        if not self._events or self._events[0].sequence > position + 1:
            return None
        newest_first = takewhile(lambda event: event.sequence > position, reversed(self._events))
        return list(newest_first)[::-1][:PAGE_MAX]

    async def wait(self, position: int) -> bool:
        """Whether events above `position` came; if not, it is time to look into the store."""
        if position >= self.position:
            await self._arrived.wait()
        return position < self.position


class Feeds:
    """The feeds of a process, and the one reader that fills them.

    Args:
        tail: of the journal.
        store: the truth.
        poll_s: seconds without an event after which a turn is looked up in the store.
        is_whole: whether the tail, while it waits, hears of turns that join those that it waits for.
    """

    def __init__(self, tail: Tail, store: TurnStore, *, poll_s: float, is_whole: bool = True) -> None:
        self._tail = tail
        self._store = store
        self._poll_s = poll_s
        self._is_whole = is_whole
        self._feeds: dict[str, Feed] = {}
        self._expected: set[str] = set()
        self._fresh: set[str] = set()
        self._wanted = asyncio.Event()
        self._is_running = False
        self._is_deaf = False

    async def run(self) -> None:
        """Tails the journals of all watched turns until cancelled."""
        self._is_running = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read())
                group.create_task(self._look_after())
        finally:
            self._is_running = False

    async def _read(self) -> None:
        while True:
            if not self._feeds:
                self._wanted.clear()
                await self._wanted.wait()
            fresh, self._fresh = self._fresh, set()
            try:
                found = await self._tail.wait(_Positions(self._feeds), fresh=fresh, wait_s=TAIL_WAIT_S)
            except MeshError as error:
                self._fresh |= fresh
                self._is_deaf = True
                _log.warning("journal_away", reason=error.reason, turns=len(self._feeds))
                await asyncio.sleep(RETRY_S)
                continue
            self._is_deaf = False
            for turn_id, events in found.items():
                feed = self._feeds.get(turn_id)
                if feed is not None:
                    feed.add(events)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            self._drop_unwatched(asyncio.get_running_loop().time())
            await self.look_up()

    async def look_up(self) -> None:
        """Lets watchers of turns of which nothing was heard know when the store tells more than the journal did."""
        silent = [turn_id for turn_id, feed in self._feeds.items() if feed.is_silent]
        for feed in self._feeds.values():
            feed.is_silent = True
        looked = [self._put_last(turn_id) for turn_id in (silent if self._is_deaf else silent[:LOOK_MAX])]
        for start in range(0, len(looked), LOOK_MAX):
            try:
                await self._look(looked[start : start + LOOK_MAX])
            except MeshError as error:
                _log.warning("store_away", reason=error.reason, turns=len(silent))
                break

    def _put_last(self, turn_id: str) -> Feed:
        """The turn's feed, which is looked up again after all others."""
        feed = self._feeds[turn_id] = self._feeds.pop(turn_id)
        return feed

    async def _look(self, feeds: Sequence[Feed]) -> None:
        found = await self._store.progress([feed.key for feed in feeds])
        for feed in feeds:
            progress = found.get(TurnId(feed.key.turn_id))
            if progress is None or progress.has_ended or progress.last_sequence > feed.position:
                feed.wake()

    def expect(self, owner: Owner, turn_id: str) -> None:
        """Follows a turn before it is there, for who is about to watch it: nobody need ask where it stands then."""
        if not (self._is_running and self._is_whole) or len(self._expected) >= EXPECTED_MAX:
            return
        until = asyncio.get_running_loop().time() + EXPECTED_S
        key = TurnKey(owner.organization_id, turn_id)
        self._feeds[turn_id] = Feed(key, 0, owner=owner, expected_until=until)
        self._expected.add(turn_id)
        _FEEDS.set(len(self._feeds))
        self._wanted.set()

    def has_all_of(self, owner: Owner, turn_id: str) -> bool:
        """Whether this is a turn of the owner's, and its feed has been there since before its first event."""
        feed = self._feeds.get(turn_id)
        return self._is_running and feed is not None and feed.owner == owner

    def _drop_unwatched(self, now: float) -> None:
        for turn_id in list(self._expected):
            feed = self._feeds.get(turn_id)
            if feed is not None and feed.watchers == 0 and now < feed.expected_until:
                continue
            self._expected.discard(turn_id)
            if feed is not None and feed.watchers == 0:
                del self._feeds[turn_id]
        _FEEDS.set(len(self._feeds))

    @asynccontextmanager
    async def feed(self, key: TurnKey, position: int) -> AsyncIterator[Feed]:
        """The turn's feed, which exists while it has watchers."""
        turn_id = key.turn_id
        feed = self._feeds.get(turn_id)
        is_new = feed is None
        if feed is None:
            feed = self._feeds[turn_id] = Feed(key, position)
            self._fresh.add(turn_id)
        feed.watchers += 1  # before anything is waited for: another watcher that leaves meanwhile must not end it
        _FEEDS.set(len(self._feeds))
        try:
            if is_new:
                await self._wake()
            yield feed
        finally:
            feed.watchers -= 1
            if feed.watchers == 0 and self._feeds.get(turn_id) is feed:
                del self._feeds[turn_id]
            _FEEDS.set(len(self._feeds))

    async def _wake(self) -> None:
        self._wanted.set()
        with suppress(MeshError):  # the reader looks again by itself within TAIL_WAIT_S
            await self._tail.interrupt()


class _Positions(Mapping[str, int]):
    """Where the feeds stand: a view, because a copy for each read would cost more than the read."""

    def __init__(self, feeds: Mapping[str, Feed]) -> None:
        self._feeds = feeds

    def __getitem__(self, turn_id: str) -> int:
        return self._feeds[turn_id].position

    def __iter__(self) -> Iterator[str]:
        return iter(self._feeds)

    def __len__(self) -> int:
        return len(self._feeds)

    def __contains__(self, turn_id: object) -> bool:
        return turn_id in self._feeds
