"""Snapshot, then tail: any number of watchers of any turn, on any replica.

Watchers pull from the feed's bounded buffer; one that falls behind reads the journal by itself. Where the journal has a
gap, or is away, the stored answer takes its place as a snapshot.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Final

from services.conversation.asking.feeds import PAGE_MAX, Feed, Feeds
from services.conversation.events import Snapshot, TurnEvent, TurnFinished
from services.conversation.journal.port import Journal
from services.conversation.model import Owner
from services.conversation.store.turns import Answer, TurnKey, TurnStore
from services.mesh import telemetry
from services.mesh.errors import MeshError, invalid_field

_WATCHERS: Final = telemetry.gauge("parley_conversation_watchers_count", "Streams of turn events that are open now.")


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
        is_fed = follow and after_sequence == 0 and self._feeds.has_all_of(owner, turn_id)
        answer = None if is_fed else await self._answer(owner, turn_id, after_sequence)
        with _WATCHERS.track_inprogress():
            if answer is not None and answer.turn.state.has_ended:
                async for events in self._remaining(answer, after_sequence):
                    yield events
                return
            key = TurnKey(owner.organization_id, turn_id)
            async with self._feeds.feed(key, after_sequence) as feed:
                place = _Place(feed, after_sequence)
                async for events in self._following(owner, turn_id, place, follow=follow, is_certain=is_fed):
                    yield events

    async def _following(
        self, owner: Owner, turn_id: str, place: "_Place", *, follow: bool, is_certain: bool
    ) -> AsyncGenerator[list[TurnEvent], None]:
        """Events behind the place.

        Args:
            owner: of the turn.
            turn_id: of the turn.
            place: of the watcher.
            follow: see `watch`.
            is_certain: whether the feed is known to hold everything that the journal holds.
        """
        while True:
            events = await self._next(turn_id, place, is_certain=is_certain)
            is_certain = True
            if events and (shown := _before_end(events)):
                place.position = shown[-1].sequence
                yield shown
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


def _before_end(events: list[TurnEvent]) -> list[TurnEvent]:
    """Without the end, whose message the store has."""
    return events[:-1] if isinstance(events[-1].payload, TurnFinished) else events


def _snapshot(answer: Answer, sequence: int) -> TurnEvent:
    message = replace(answer.message, last_sequence=sequence)
    return TurnEvent(sequence, answer.turn.attempt, Snapshot(message))
