"""Snapshot, then tail: any number of watchers of any turn, on any replica.

A process reads the journal of a turn once, however many watch it, and only while somebody does. Watchers pull from the
feed's bounded buffer; one that falls behind reads the journal by itself. Where the journal has a gap, or is away, the
stored answer takes its place as a snapshot; turns of which nothing is heard are looked up together.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import takewhile
from typing import Final

from services.conversation.events import Snapshot, TurnEvent, TurnFinished
from services.conversation.journal.port import Journal, Tail
from services.conversation.model import Owner, TurnId
from services.conversation.store.turns import Answer, TurnKey, TurnStore
from services.mesh import telemetry
from services.mesh.errors import MeshError, invalid_field

BUFFER_MAX: Final = 512
"""Events that a feed keeps; a watcher that is further behind reads the journal."""
PAGE_MAX: Final = 256
"""Events that a watcher is given at once."""
LOOK_MAX: Final = 1_000
"""Turns that are looked up in the store at once."""
TAIL_WAIT_S: Final = 1.0
RETRY_S: Final = 0.5

_log = telemetry.logger("conversation.watching")
_WATCHERS: Final = telemetry.gauge("parley_conversation_watchers_count", "Streams of turn events that are open now.")
_FEEDS: Final = telemetry.gauge("parley_conversation_feeds_count", "Turns whose journal this process tails now.")


class Feed:
    """The latest events of one turn, shared by its watchers."""

    def __init__(self, key: TurnKey, position: int) -> None:
        self.key = key
        self.position = position
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
    """

    def __init__(self, tail: Tail, store: TurnStore, *, poll_s: float) -> None:
        self._tail = tail
        self._store = store
        self._poll_s = poll_s
        self._feeds: dict[str, Feed] = {}
        self._fresh: set[str] = set()
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Tails the journals of all watched turns until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._look_after())

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
                _log.warning("journal_away", reason=error.reason, turns=len(self._feeds))
                await asyncio.sleep(RETRY_S)
                continue
            for turn_id, events in found.items():
                feed = self._feeds.get(turn_id)
                if feed is not None:
                    feed.add(events)

    async def _look_after(self) -> None:
        """Lets watchers of turns of which nothing was heard know when the store tells more than the journal did."""
        while True:
            await asyncio.sleep(self._poll_s)
            silent = [feed for feed in self._feeds.values() if feed.is_silent]
            for feed in self._feeds.values():
                feed.is_silent = True
            for start in range(0, len(silent), LOOK_MAX):
                try:
                    await self._look(silent[start : start + LOOK_MAX])
                except MeshError as error:
                    _log.warning("store_away", reason=error.reason, turns=len(silent))
                    break

    async def _look(self, feeds: Sequence[Feed]) -> None:
        found = await self._store.progress([feed.key for feed in feeds])
        for feed in feeds:
            progress = found.get(TurnId(feed.key.turn_id))
            if progress is None or progress.has_ended or progress.last_sequence > feed.position:
                feed.wake()

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


class Watching:
    """Streams of turn events.

    Args:
        store: the truth.
        journal: for watchers that begin or fall behind.
        feeds: for watchers at the tail.
        poll_s: seconds after which a watcher at a gap looks into the store again.
    """

    def __init__(self, store: TurnStore, journal: Journal, feeds: Feeds, *, poll_s: float) -> None:
        self._store = store
        self._journal = journal
        self._feeds = feeds
        self._poll_s = poll_s

    async def watch(
        self, owner: Owner, turn_id: str, *, after_sequence: int, follow: bool
    ) -> AsyncGenerator[list[TurnEvent], None]:
        """Events after `after_sequence`: up to the present tail, or to the end of the turn when `follow`.

        Raises:
            NotFound: no such turn; also when it is deleted while it is watched.
            InvalidArgument: `after_sequence` is above the latest event.
        """
        if after_sequence < 0:
            raise invalid_field("after_sequence", "0 or more")
        answer = await self._answer(owner, turn_id, after_sequence)
        with _WATCHERS.track_inprogress():
            if answer.turn.state.has_ended:
                async for events in self._remaining(answer, after_sequence):
                    yield events
                return
            key = TurnKey(owner.organization_id, turn_id)
            async with self._feeds.feed(key, after_sequence) as feed:
                async for events in self._following(owner, turn_id, _Place(feed, after_sequence), follow=follow):
                    yield events

    async def _following(
        self, owner: Owner, turn_id: str, place: "_Place", *, follow: bool
    ) -> AsyncGenerator[list[TurnEvent], None]:
        is_certain = False  # whether the feed is known to hold everything that the journal holds
        while True:
            events = await self._next(turn_id, place, is_certain=is_certain)
            is_certain = True
            if events and not isinstance(events[-1].payload, TurnFinished):
                place.position = events[-1].sequence
                yield events
                continue
            if events is not None and not events and follow and await place.feed.wait(place.position):
                continue
            # A gap, silence, or the end: the store knows.
            is_certain = False
            answer = await self._store.answer(owner, turn_id)
            if answer.turn.state.has_ended:
                async for remaining in self._remaining(answer, place.position):
                    yield remaining
                return
            if await self._is_ahead(answer, place, has_gap=events is None):
                place.position = answer.message.last_sequence
                yield [_snapshot(answer, place.position)]
            elif not follow:
                return
            elif events is None:  # until the next fold closes the gap
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await place.feed.wait(place.feed.position)

    async def _is_ahead(self, answer: Answer, place: "_Place", *, has_gap: bool) -> bool:
        """Whether the store tells more than the journal does; folds may also come before the journal's own news."""
        if answer.message.last_sequence <= place.position:
            return False
        return has_gap or not await self._read(answer.turn.id, place.position)

    async def _next(self, turn_id: str, place: "_Place", *, is_certain: bool) -> list[TurnEvent] | None:
        """The events that follow, without a hole; None when there is one."""
        events = place.feed.after(place.position) if is_certain else None
        if events is None:
            is_behind = place.feed.position > place.position
            events = await self._read(turn_id, place.position)
            if is_behind and not events:  # the feed was told of events that the journal has lost since
                return None
        if events and events[0].sequence != place.position + 1:
            return None
        return _contiguous(events)

    async def _read(self, turn_id: str, position: int) -> list[TurnEvent]:
        try:
            return await self._journal.read(turn_id, after=position, limit=PAGE_MAX)
        except MeshError:  # the store takes its place
            return []

    async def _remaining(self, answer: Answer, position: int) -> AsyncGenerator[list[TurnEvent], None]:
        """What a watcher still needs of a turn that has ended."""
        last = answer.message.last_sequence
        while position < last - 1:
            events = await self._read(answer.turn.id, position)
            events = _contiguous([event for event in events if event.sequence < last])
            if not events or events[0].sequence != position + 1:
                yield [_snapshot(answer, last - 1)]
                break
            yield events
            position = events[-1].sequence
        if position < last:
            finished = TurnFinished(answer.turn.state, answer.message)
            yield [TurnEvent(last, answer.turn.attempt, finished)]

    async def _answer(self, owner: Owner, turn_id: str, after_sequence: int) -> Answer:
        """The answer to a watcher that has seen the events up to `after_sequence`.

        Raises:
            NotFound: no such turn.
            InvalidArgument: nobody can have seen so many.
        """
        answer = await self._store.answer(owner, turn_id)
        latest = answer.message.last_sequence
        if after_sequence > latest and not answer.turn.state.has_ended:
            latest = await self._latest_shown(answer)
            if after_sequence > latest:  # the turn may have ended since it was read, and its journal be gone
                answer = await self._store.answer(owner, turn_id)
                latest = max(latest, answer.message.last_sequence)
        if after_sequence > latest:
            raise invalid_field("after_sequence", f"at most {latest}, the turn's latest event")
        return answer

    async def _latest_shown(self, answer: Answer) -> int:
        """The highest sequence that anybody can have seen; where the journal cannot tell, the limit of all of them."""
        try:
            latest = await self._journal.last_sequence(answer.turn.id)
            if await self._journal.epoch() == answer.journal_epoch:  # asked last: a loss before it would show
                return latest
        except MeshError:
            pass
        return answer.sequence_limit if answer.turn.attempt or answer.journal_epoch else 0


class _Place:
    """Where a watcher stands in a feed."""

    __slots__ = ("feed", "position")

    def __init__(self, feed: Feed, position: int) -> None:
        self.feed = feed
        self.position = position


def _contiguous(events: list[TurnEvent]) -> list[TurnEvent]:
    """The events up to the first hole."""
    for index, event in enumerate(events):
        if event.sequence != events[0].sequence + index:
            return events[:index]
    return events


def _snapshot(answer: Answer, sequence: int) -> TurnEvent:
    message = replace(answer.message, last_sequence=sequence)
    return TurnEvent(sequence, answer.turn.attempt, Snapshot(message))
