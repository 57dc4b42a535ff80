"""Workers that die, sleep or lose their journal: every turn ends once, and what was streamed is a prefix of it."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from services.conversation.asking.actions import Continue
from services.conversation.events import AttemptStarted, Draft, TurnEvent
from services.conversation.journal.memory import MemoryJournal
from services.conversation.model import FinishReason, Turn, TurnState
from services.conversation.ports import Evidence
from services.conversation.queue.memory import MemoryQueue
from services.conversation.running.recovery import SEQUENCES_RESERVED
from services.conversation.store.work import Claim, TurnRef
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from tests.support.conversation import ADA, ending, has_snapshot, kinds, replayed, text_of
from tests.support.conversation_fakes import FINISHED, Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

LEASE_S: Final = 30.0
CUT_SHORT: Final = replace(FINISHED, finish_reason=FinishReason.LENGTH)


class Died(BaseException):
    """Ends a worker between two steps, as a kill would: nothing of it goes on."""


class Mortal:
    """A port that dies at its n-th call: before the step, or after it, when only the answer is lost."""

    def __init__(self, port: Any, counter: list[int], *, after: bool) -> None:  # Any: stands in for any port
        self._port = port
        self._counter = counter
        self._after = after

    def __getattr__(self, name: str) -> Any:  # Any: methods of any port
        method = getattr(self._port, name)
        if name == "unwanted":  # it asks in the time of its own, and changes nothing
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:  # Any: see above
            self._counter[0] -= 1
            if self._counter[0] == 0 and not self._after:
                raise Died
            result = await method(*args, **kwargs)
            if self._counter[0] == 0:
                raise Died
            return result

        return call


async def killed(rig: Rig, at: int, *, after: bool) -> None:
    """Runs a worker until it dies at its `at`-th step, or until the turn has ended before that."""
    counter = [at]
    mortal = memory_rig(rig.store)
    mortal.retrieval, mortal.inference, mortal.cache = rig.retrieval, rig.inference, rig.cache
    mortal.store = Mortal(rig.store, counter, after=after)
    mortal.journal = Mortal(rig.journal, counter, after=after)
    mortal.queue, mortal.tail = rig.queue, rig.tail
    with suppress(BaseExceptionGroup):
        async with running(mortal):
            await until(lambda: not counter[0] or all_ended(rig), within_s=5.0)


def all_ended(rig: Rig) -> bool:
    store = rig.store
    assert isinstance(store, MemoryStore)
    return all(row.turn.state.has_ended for row in store.tables.turns.values())


def manual_rig() -> tuple[Rig, ManualClock]:
    clock = ManualClock()
    return memory_rig(MemoryStore(clock), lease_s=LEASE_S), clock


async def brought_to_its_end(rig: Rig, clock: ManualClock) -> None:
    """The leases of the dead lapse, the reaper moves their turns on, another worker answers them."""
    clock.advance(LEASE_S + 1)
    await rig.reaper.reap()
    async with running(rig):
        await until(lambda: all_ended(rig), within_s=5.0)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 16))
async def test_a_turn_ends_once_whatever_step_its_worker_dies_at(at: int, *, after: bool) -> None:
    rig, clock = manual_rig()
    turn = await rig.ask(knowledge_base_id="kb_1")
    await killed(rig, at, after=after)
    seen = await rig.look(turn)

    await brought_to_its_end(rig, clock)

    stored = await rig.store.answer(ADA, turn.id)
    assert (stored.turn.state, stored.message.text) == (TurnState.COMPLETED, "Ada wrote notes.")
    assert len(stored.message.citations) == 1
    position = seen[-1].sequence if seen else 0
    events = [*seen, *await rig.watch(turn, position)]
    assert replayed(events).text == stored.message.text
    assert replayed(events).citations == list(stored.message.citations)
    assert [event.sequence for event in await rig.watch(turn)][-1] == stored.message.last_sequence


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 12))
async def test_an_answer_that_goes_on_ends_once_whatever_step_its_worker_dies_at(at: int, *, after: bool) -> None:
    rig, clock = manual_rig()
    rig.inference.words, rig.inference.finished = ["Ada", " wrote"], CUT_SHORT
    old = await rig.ask(knowledge_base_id="kb_1")
    async with running(rig):
        await rig.watch(old)
    rig.inference.words, rig.inference.finished = [" a", " program", "."], FINISHED
    turn = await rig.act(old.conversation_id, Continue(old.assistant_message_id))
    await killed(rig, at, after=after)
    seen = await rig.look(turn)

    await brought_to_its_end(rig, clock)

    stored = await rig.store.answer(ADA, turn.id)
    assert (stored.turn.state, stored.message.text) == (TurnState.COMPLETED, "Ada wrote a program.")
    position = seen[-1].sequence if seen else 0
    events = [*seen, *await rig.watch(turn, position)]
    assert replayed(events).text == stored.message.text
    assert replayed(events).citations == list(stored.message.citations)
    assert len(stored.message.citations) == 2


def journalled(rig: Rig, turn: Turn) -> str:
    assert isinstance(rig.journal, MemoryJournal)
    return text_of(rig.journal._events.get(turn.id, []))


def lose_journal(rig: Rig) -> None:
    assert isinstance(rig.journal, MemoryJournal)
    rig.journal.lose_everything()


async def dead_after(rig: Rig, words: int) -> tuple[Turn, list[TurnEvent]]:
    """A turn whose worker died when that many words were out."""
    stop = Stop(before=words)
    rig.inference.gate = stop
    async with running(rig):
        turn = await rig.ask(knowledge_base_id="kb_1")
        await stop.reached.wait()
        await until(lambda: journalled(rig, turn) == "".join(rig.inference.words[:words]))
    rig.inference.gate = None
    return turn, await rig.look(turn)


@pytest.mark.parametrize("words", [1, 2, 3, 4])
async def test_the_same_answer_goes_on_where_the_dead_worker_stopped(words: int) -> None:
    rig, clock = manual_rig()
    turn, seen = await dead_after(rig, words)

    await brought_to_its_end(rig, clock)
    rest = await rig.watch(turn, seen[-1].sequence)

    shown = "".join(rig.inference.words[:words])
    assert rest[0].payload == AttemptStarted(2, len(shown))
    assert text_of([*seen, *rest]) == "Ada wrote notes."
    assert not has_snapshot(rest)
    assert kinds(rest).count("CitationAdded") == 1


async def test_another_answer_goes_on_where_the_two_part() -> None:
    rig, clock = manual_rig()
    turn, seen = await dead_after(rig, 3)
    rig.inference.words = ["Ada", " wr", "ites", " code", "."]

    await brought_to_its_end(rig, clock)
    rest = await rig.watch(turn, seen[-1].sequence)

    assert rest[0].payload == AttemptStarted(2, len("Ada wr"))
    assert text_of([*seen, *rest]) == "Ada writes code."


async def test_a_shorter_answer_takes_the_rest_back() -> None:
    rig, clock = manual_rig()
    turn, seen = await dead_after(rig, 3)
    rig.inference.words = ["Ada"]

    await brought_to_its_end(rig, clock)
    rest = await rig.watch(turn, seen[-1].sequence)

    assert rest[0].payload == AttemptStarted(2, 3)
    assert text_of([*seen, *rest]) == "Ada"


async def test_on_other_evidence_the_answer_begins_anew() -> None:
    rig, clock = manual_rig()
    turn, seen = await dead_after(rig, 3)
    rig.retrieval.evidence = Evidence()

    await brought_to_its_end(rig, clock)
    rest = await rig.watch(turn, seen[-1].sequence)

    assert kinds(rest)[:2] == ["AttemptStarted", "RetrievalDecided"]
    assert rest[0].payload == AttemptStarted(2, 0)
    assert replayed([*seen, *rest]).citations == []
    assert text_of([*seen, *rest]) == "Ada wrote notes."


async def test_a_worker_that_wakes_up_after_its_lease_changes_nothing() -> None:
    rig, clock = manual_rig()
    stop = Stop(before=2)
    rig.inference.gate = stop
    async with running(rig):
        turn = await rig.ask(knowledge_base_id="kb_1")
        await stop.reached.wait()
        clock.advance(LEASE_S + 1)
        sleeper, rig.inference.gate = stop, None
        other = memory_rig(rig.store, lease_s=LEASE_S)
        other.queue, other.journal, other.tail = rig.queue, rig.journal, rig.tail
        await other.reaper.reap()
        async with running(other):
            await until(lambda: all_ended(rig))
            before = await rig.store.answer(ADA, turn.id)
            events = await rig.watch(turn)
            sleeper.opened.set()
            await until(lambda: rig.inference.open == 0)

    assert await rig.store.answer(ADA, turn.id) == before
    assert await rig.watch(turn) == events
    assert replayed(events).text == before.message.text


class SlowClaims(MemoryStore):
    """Commits the first claim at once, and tells of it when its lease has passed and another worker has the turn."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.manual = clock
        self.claims = 0

    async def claim(self, ref: TurnRef, *, lease_s: float, epoch: str, spend_attempt: bool) -> Claim | None:
        claim = await super().claim(ref, lease_s=lease_s, epoch=epoch, spend_attempt=spend_attempt)
        self.claims += 1
        if self.claims == 1:
            self.manual.advance(lease_s + 1.0)
            await super().claim(ref, lease_s=lease_s, epoch=epoch, spend_attempt=True)
        return claim


async def test_a_lease_counts_from_when_the_claim_was_sent() -> None:
    clock = ManualClock()
    rig = memory_rig(SlowClaims(clock), lease_s=LEASE_S)
    rig.clock = clock.monotonic
    rig.inference.gate = stop = Stop(before=2)
    with capture_logs() as lines:
        async with running(rig):
            turn = await rig.ask()
            await until(lambda: any(line["event"] == "turn_lost" for line in lines), within_s=60.0)

    assert [line["by"] for line in lines if line["event"] == "turn_lost"] == ["clock"]
    assert not journalled(rig, turn)
    assert await rig.journal.last_sequence(turn.id) == 0
    assert not stop.opened.is_set()


async def test_attempts_are_limited_and_the_text_is_kept() -> None:
    rig, clock = manual_rig()
    rig.attempts_max = 2
    turn, seen = await dead_after(rig, 2)
    clock.advance(LEASE_S + 1)
    await rig.reaper.reap()
    rig.inference.gate = stop = Stop(before=1)
    async with running(rig):
        await stop.reached.wait()

    clock.advance(LEASE_S + 1)
    await rig.reaper.reap()

    rest = await rig.watch(turn, seen[-1].sequence)
    stored = await rig.store.answer(ADA, turn.id)
    assert (stored.turn.state, stored.message.text) == (TurnState.FAILED, "Ada wrote")
    assert text_of([*seen, *rest]) == "Ada wrote"
    assert stored.turn.error is not None
    assert stored.turn.error.reason == "UNAVAILABLE"


async def test_a_turn_that_nobody_takes_fails_at_its_deadline() -> None:
    rig, clock = manual_rig()
    turn = await rig.ask()
    clock.advance(601)

    await rig.reaper.reap()

    message = ending(await rig.watch(turn)).message
    assert message is not None
    assert message.error is not None
    assert message.error.reason == "DEADLINE_EXCEEDED"


async def test_a_turn_that_cannot_be_read_keeps_no_other_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, clock = manual_rig()
    poison, turn = await rig.ask(), await rig.ask()
    clock.advance(601)
    claim = rig.store.claim

    async def claimed(ref: TurnRef, *, lease_s: float, epoch: str, spend_attempt: bool) -> Claim | None:
        if ref.turn_id == poison.id:
            raise ValueError("a row that nobody can read")
        return await claim(ref, lease_s=lease_s, epoch=epoch, spend_attempt=spend_attempt)

    monkeypatch.setattr(rig.store, "claim", claimed)

    await rig.reaper.reap()

    assert (await rig.store.turn(ADA, poison.id)).state is TurnState.QUEUED
    assert (await rig.store.turn(ADA, turn.id)).state is TurnState.FAILED


async def test_a_lost_queue_is_filled_again() -> None:
    rig, _ = manual_rig()
    turn = await rig.ask()
    assert isinstance(rig.queue, MemoryQueue)
    rig.queue.lose_everything()

    await rig.reaper.reap()

    async with running(rig):
        assert ending(await rig.watch(turn)).state is TurnState.COMPLETED


async def test_a_cancelled_turn_of_a_dead_worker_is_cancelled_with_its_text() -> None:
    rig, clock = manual_rig()
    turn, seen = await dead_after(rig, 2)
    await rig.turns.cancel(ADA, turn.id)

    await brought_to_its_end(rig, clock)

    rest = await rig.watch(turn, seen[-1].sequence)
    assert (ending(rest).state, text_of([*seen, *rest])) == (TurnState.CANCELLED, "Ada wrote")


async def test_a_journal_lost_with_its_worker_makes_watchers_begin_at_a_snapshot() -> None:
    rig, clock = manual_rig()
    turn, seen = await dead_after(rig, 2)
    lose_journal(rig)

    await brought_to_its_end(rig, clock)
    rest = await rig.watch(turn, seen[-1].sequence)

    assert kinds(rest)[0] == "Snapshot"
    assert rest[0].sequence >= SEQUENCES_RESERVED
    assert replayed(rest, Draft(last_sequence=seen[-1].sequence)).text == "Ada wrote notes."
    assert not {event.sequence for event in seen} & {event.sequence for event in rest}


async def test_a_journal_lost_under_a_living_worker_costs_a_snapshot_only() -> None:
    rig, _ = manual_rig()
    stop = Stop(before=2)
    rig.inference.gate = stop
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
        await until(lambda: journalled(rig, turn) == "Ada wrote")
        lose_journal(rig)
        stop.opened.set()
        events = await rig.watch(turn)

    assert replayed(events).text == "Ada wrote notes."


async def test_without_a_journal_turns_are_answered_and_watched_by_snapshots() -> None:
    rig, _ = manual_rig()
    assert isinstance(rig.journal, MemoryJournal)
    rig.journal.is_away = True
    rig.inference.gate = stop = Stop(before=2)
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
        watched = rig.watching.watch(ADA, turn.id, after_sequence=0, follow=True)
        first = await anext(watched)
        stop.opened.set()
        events = [*first, *[event async for batch in watched for event in batch]]

    assert kinds(first) == ["Snapshot"]
    assert kinds(events)[-1] == "TurnFinished"
    message = ending(events).message
    assert message is not None
    assert message.text == "Ada wrote notes."
