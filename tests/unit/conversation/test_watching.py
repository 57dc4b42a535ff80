"""Watchers: wherever they come from and however slow they are, they see the same answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.conversation.asking.feeds import BUFFER_MAX, EXPECTED_MAX, EXPECTED_S
from services.conversation.events import (
    AttemptStarted,
    Draft,
    Snapshot,
    TextDelta,
    TurnEvent,
    TurnStarted,
)
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Batch, Receipt
from services.conversation.model import FinishReason, Owner, Turn, TurnState
from services.conversation.running.recovery import Recovery
from services.conversation.store.turns import Answer
from services.conversation.store.work import Claim, Ending, Fold, TurnRef
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import InvalidArgument, NotFound
from tests.support.conversation import ADA, BOB, EVE, ending, has_snapshot, kinds, replayed
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

DONE = Ending(TurnState.COMPLETED, FinishReason.STOP)


class Author:
    """Writes a turn by hand: events into the journal, folds into the store."""

    def __init__(self, rig: Rig, turn: Turn, claim: Claim) -> None:
        assert isinstance(rig.journal, MemoryJournal)
        self.rig, self.turn, self.claim, self.journal = rig, turn, claim, rig.journal
        self.draft = Draft()

    @classmethod
    async def of(cls, rig: Rig) -> "Author":
        turn = await rig.ask()
        ref = TurnRef(ADA.organization_id, turn.conversation_id, turn.id)
        epoch = await rig.journal.epoch()
        claim = await rig.store.claim(ref, lease_s=60.0, epoch=epoch, spend_attempt=True)
        assert claim is not None
        author = cls(rig, turn, claim)
        await author.put(TurnStarted(turn.id, turn.conversation_id, turn.user_message_id, turn.assistant_message_id))
        return author

    async def put(self, *payloads: object) -> None:
        """Journals steps."""
        events = []
        for payload in payloads:
            event = TurnEvent(self.draft.last_sequence + 1, 1, payload)  # type: ignore[arg-type] # tests put payloads
            self.draft.has_part = True
            self.draft.apply(event)
            events.append(event)
        batch = Batch(self.turn.id, 1, await self.journal.epoch(), tuple(events))
        if await self.journal.append([batch]) == [Receipt.DETACHED]:
            await self.journal.seize(self.turn.id, 1)
            await self.journal.append([batch])

    async def write(self, *words: str) -> None:
        for word in words:
            await self.put(TextDelta("p1", self.draft.length, word))

    async def fold(self) -> None:
        fold = Fold.of(self.draft)
        await self.rig.store.fold(self.claim.hold, fold, lease_s=60.0, sequence_limit=9_999, epoch="epoch-1")

    async def end(self) -> None:
        recovery = Recovery(self.rig.store, self.journal, lease_s=60.0, journal_keep_s=60)
        assert await recovery.finish(self.claim.hold, self.draft, 1, DONE)


def is_watched(author: Author) -> bool:
    return any(feed.watchers for feed in author.rig.feeds._feeds.values())


@pytest.fixture
async def author() -> AsyncIterator[Author]:
    rig = memory_rig(MemoryStore())
    async with asyncio.TaskGroup() as group:
        feeds = group.create_task(rig.feeds.run())
        await until(lambda: rig.feeds._is_running)
        yield await Author.of(rig)
        feeds.cancel()


@settings(max_examples=60)
@given(
    words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4), max_size=8),
    fold_after=st.integers(0, 8),
    reset=st.one_of(st.none(), st.integers(0, 5)),
    is_lost=st.booleans(),
)
def test_every_point_of_resumption_gives_the_same_answer(
    words: list[str], fold_after: int, reset: int | None, *, is_lost: bool
) -> None:
    async def check() -> None:
        author = await Author.of(memory_rig(MemoryStore()))
        await author.write(*words[:fold_after])
        await author.fold()
        if reset is not None:
            await author.put(AttemptStarted(2, min(reset, author.draft.length)))
        await author.write(*words[fold_after:])
        whole = await author.rig.journal.read(author.turn.id, after=0, limit=1_000)
        if is_lost:
            author.journal.lose_everything()
        await author.end()

        for after in range(len(whole) + 1):
            rest = await author.rig.watch(author.turn, after)
            final = replayed([event for event in rest if event.sequence > after], replayed(whole[:after]))
            assert final.text == author.draft.text
            assert has_snapshot(rest) == (is_lost and after < len(whole))
            assert kinds(rest)[-1] == "TurnFinished"
        assert await author.rig.watch(author.turn, len(whole) + 1) == []

    asyncio.run(check())


async def test_watchers_of_one_turn_share_one_reader(author: Author) -> None:
    async with asyncio.TaskGroup() as group:
        watchers = [group.create_task(author.rig.watch(author.turn)) for _ in range(20)]
        await until(lambda: any(feed.watchers == 20 for feed in author.rig.feeds._feeds.values()))
        assert len(author.rig.feeds._feeds) == 1
        await author.write("Ada", " wrote")
        await author.end()

    assert {replayed(watcher.result()).text for watcher in watchers} == {"Ada wrote"}
    assert author.rig.feeds._feeds == {}


async def test_a_slow_watcher_is_caught_up_from_the_journal(author: Author) -> None:
    watched = author.rig.watching.watch(ADA, author.turn.id, after_sequence=0, follow=True)
    seen = await anext(watched)
    async with asyncio.TaskGroup() as group:
        fast = group.create_task(author.rig.watch(author.turn))
        for _ in range(BUFFER_MAX * 2):
            await author.write("x")
        await author.end()

    events = [*seen, *[event async for batch in watched for event in batch]]

    assert events == fast.result()
    assert replayed(events).text == "x" * (BUFFER_MAX * 2)
    assert not has_snapshot(events)


async def test_who_asked_here_is_told_from_the_feed_alone(author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the feed has all of it")

    await author.write("Ada")
    with monkeypatch.context() as without:
        without.setattr(author.rig.store, "answer", away)
        without.setattr(author.journal, "read", away)
        watched = author.rig.watching.watch(ADA, author.turn.id, after_sequence=0, follow=True)
        async with asyncio.timeout(60):
            events = await anext(watched)
    await author.write(" wrote")
    await author.end()

    events += [event async for batch in watched for event in batch]
    assert replayed(events).text == "Ada wrote"
    assert ending(events).message is not None


@pytest.mark.parametrize("other", [BOB, EVE], ids=["colleague", "stranger"])
async def test_nobody_else_is_told_from_the_feed_of_who_asked(author: Author, other: Owner) -> None:
    with pytest.raises(NotFound):
        await author.rig.watch(author.turn, owner=other)


async def test_a_turn_that_nobody_watches_is_followed_for_a_while_only(author: Author) -> None:
    feeds, now = author.rig.feeds, asyncio.get_running_loop().time()
    watched = author.rig.watching.watch(ADA, author.turn.id, after_sequence=0, follow=True)
    feeds.expect(ADA, "turn_other")

    feeds._drop_unwatched(now)
    assert set(feeds._feeds) == {author.turn.id, "turn_other"}
    await anext(watched)
    feeds._drop_unwatched(now + EXPECTED_S + 60.0)
    assert set(feeds._feeds) == {author.turn.id}

    await watched.aclose()
    assert feeds._feeds == {}


async def test_no_more_turns_than_may_be_are_followed_for_nobody(author: Author) -> None:
    feeds = author.rig.feeds
    for number in range(EXPECTED_MAX + 1):
        feeds.expect(ADA, f"turn_{number}")

    assert len(feeds._feeds) == EXPECTED_MAX
    assert feeds.has_all_of(ADA, author.turn.id)
    assert not feeds.has_all_of(ADA, f"turn_{EXPECTED_MAX}")


async def test_a_gap_is_bridged_by_the_next_fold(author: Author) -> None:
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(author.rig.watch(author.turn))
        await until(lambda: is_watched(author))
        await author.write("Ada")
        author.journal.lose_everything()
        await author.write(" wrote")
        await author.fold()
        await author.write(" notes")
        await author.end()

    events = watcher.result()
    assert replayed(events).text == "Ada wrote notes"
    for event in events:
        if isinstance(event.payload, Snapshot):
            assert event.payload.message.last_sequence == event.sequence


async def test_an_end_that_was_not_journalled_is_found(author: Author) -> None:
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(author.rig.watch(author.turn))
        await until(lambda: is_watched(author))
        await author.write("Ada")
        fold = Fold.of(author.draft)
        last = author.draft.last_sequence + 1
        ended = Fold(last_sequence=last, text=fold.text, citations=(), retrieval=None, usage=None, model=fold.model)
        assert await author.rig.store.finish(author.claim.hold, ended, DONE)

    assert ending(watcher.result()).state is TurnState.COMPLETED
    assert watcher.result()[-1].sequence == last


async def test_without_follow_the_stream_ends_at_the_tail(author: Author) -> None:
    await author.write("Ada", " wrote")

    events = await author.rig.look(author.turn)

    assert [event.sequence for event in events] == [1, 2, 3]
    assert await author.rig.look(author.turn, after=3) == []


async def test_a_position_beyond_the_latest_event_is_refused(author: Author) -> None:
    await author.write("Ada")

    assert await author.rig.look(author.turn, after=2) == []
    with pytest.raises(InvalidArgument):
        await author.rig.look(author.turn, after=3)


async def test_a_position_that_may_have_been_shown_before_a_loss_is_accepted(author: Author) -> None:
    await author.write("Ada", " wrote")
    author.journal.lose_everything()

    assert await author.rig.look(author.turn, after=3) == []
    with pytest.raises(InvalidArgument):
        await author.rig.look(author.turn, after=1_000_000)


async def test_a_turn_that_ends_while_a_position_is_checked_is_read_again(
    author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    await author.write("Ada", " wrote")
    answers = author.rig.store.answer

    async def answer(owner: Owner, turn_id: str) -> Answer:
        """As a process tells it that stands still behind it, until the journal is gone."""
        found = await answers(owner, turn_id)
        monkeypatch.undo()
        await author.end()
        await author.journal.forget([author.turn.id])
        return found

    monkeypatch.setattr(author.rig.store, "answer", answer)
    events = await author.rig.look(author.turn, after=3)

    assert kinds(events) == ["TurnFinished"]


async def test_a_deleted_turn_ends_its_watchers(author: Author) -> None:
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(_refused(author))
        await until(lambda: is_watched(author))
        await author.rig.store.delete_conversation(ADA, author.turn.conversation_id)

    assert watcher.result() == {"resource": "turn"}


async def _refused(author: Author) -> dict[str, str]:
    with pytest.raises(NotFound) as refused:
        await author.rig.watch(author.turn)
    return dict(refused.value.metadata)


async def test_a_watcher_that_leaves_costs_nothing_more(author: Author) -> None:
    watched = author.rig.watching.watch(ADA, author.turn.id, after_sequence=0, follow=True)
    await anext(watched)

    await watched.aclose()

    assert author.rig.feeds._feeds == {}


async def test_a_running_worker_is_watched_from_the_middle() -> None:
    rig = memory_rig(MemoryStore())
    async with running(rig):
        turn = await rig.ask()
        whole = await rig.watch(turn)
        middle = await rig.watch(turn, 3)

    assert middle == whole[3:]
