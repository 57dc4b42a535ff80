"""How turns end otherwise than with a whole answer: failed, cancelled, handed back."""

import asyncio
from collections.abc import Sequence

import pytest

from services.conversation.asking.actions import NewQuestion
from services.conversation.asking.turns import Ask
from services.conversation.events import UsageUpdated
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Batch, Receipt
from services.conversation.model import FinishReason, MessageState, TurnOverrides, TurnState
from services.conversation.queue.memory import MemoryQueue
from services.conversation.queue.port import Delivery
from services.conversation.store.work import Folding
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    CredentialsInvalid,
    MeshError,
    ModelUnknown,
    NotFound,
    ProviderRejected,
    QuotaExhausted,
    RetrievalUnavailable,
)
from tests.support.conversation import ADA, ending, kinds, new_conversation, text_of
from tests.support.conversation_fakes import Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until


@pytest.mark.parametrize(
    "failure",
    [
        ProviderRejected, ModelUnknown, ContentFiltered, ContextLengthExceeded, QuotaExhausted, CredentialsInvalid,
    ],
)  # fmt: skip
async def test_a_failed_answer_says_why_and_keeps_its_text(at_work: Rig, failure: type[MeshError]) -> None:
    async def fail(index: int) -> None:
        if index == 2:
            raise failure("as it says")

    at_work.inference.gate = fail
    turn = await at_work.ask()

    events = await at_work.watch(turn)

    message = ending(events).message
    assert message is not None
    assert message.error is not None
    assert (ending(events).state, message.state) == (TurnState.FAILED, MessageState.FAILED)
    assert (message.error.reason, message.error.message) == (failure.reason, "as it says")
    assert (message.text, text_of(events)) == ("Ada wrote", "Ada wrote")
    assert (await at_work.store.turn(ADA, turn.id)).error == message.error


@pytest.mark.parametrize("failure", [RetrievalUnavailable(), NotFound.of("knowledge_base")])
async def test_a_failed_search_fails_the_turn(failure: MeshError) -> None:
    rig = memory_rig(MemoryStore(), attempts_max=2)
    rig.retrieval.failure = failure
    async with running(rig):
        events = await rig.watch(await rig.ask(knowledge_base_id="kb_1"))

    message = ending(events).message
    assert message is not None
    assert message.error is not None
    assert message.error.reason == failure.reason
    assert rig.inference.starts == 0


async def test_a_bug_fails_the_turn_without_telling_its_words(at_work: Rig) -> None:
    at_work.retrieval.failure = ValueError("secret words")
    turn = await at_work.ask(knowledge_base_id="kb_1")

    error = (await at_work.watch(turn))[-1]

    assert "secret" not in repr(error)
    assert (await at_work.store.turn(ADA, turn.id)).error is not None


async def test_an_answer_past_its_deadline_fails(at_work: Rig) -> None:
    conversation = await at_work.store.create_conversation(new_conversation())
    at_work.turn_s_max = 0.2
    at_work.inference.gate = Stop(before=1)

    ask = Ask(conversation_id=conversation.id, action=NewQuestion("?", None), overrides=TurnOverrides())
    turn = await at_work.turns.create(ADA, ask, repeat=None)
    await at_work.relay.relay_once()

    events = await at_work.watch(turn)

    message = ending(events).message
    assert message is not None
    assert message.error is not None
    assert (message.error.reason, message.text) == ("DEADLINE_EXCEEDED", "Ada")
    assert at_work.inference.open == 0


async def test_a_running_turn_is_cancelled_and_keeps_its_text(at_work: Rig) -> None:
    stop = Stop(before=2)
    at_work.inference.gate = stop
    turn = await at_work.ask()
    await stop.reached.wait()

    await at_work.turns.cancel(ADA, turn.id)
    events = await at_work.watch(turn)

    message = ending(events).message
    assert message is not None
    assert (ending(events).state, message.finish_reason) == (TurnState.CANCELLED, FinishReason.CANCELLED)
    assert (message.text, text_of(events)) == ("Ada wrote", "Ada wrote")
    assert at_work.inference.open == 0


async def test_a_waiting_turn_is_cancelled_at_once(rig: Rig) -> None:
    turn = await rig.ask()

    cancelled = await rig.turns.cancel(ADA, turn.id)

    assert cancelled.state is TurnState.CANCELLED
    events = await rig.watch(turn)
    assert kinds(events) == ["TurnFinished"]
    assert (await rig.turns.cancel(ADA, turn.id)).state is TurnState.CANCELLED


async def test_the_conversation_is_free_after_a_cancelled_turn(rig: Rig) -> None:
    turn = await rig.ask()
    await rig.turns.cancel(ADA, turn.id)

    assert (await rig.ask_in(turn.conversation_id, "again")).state is TurnState.QUEUED


async def test_a_deleted_conversation_stops_its_answer(at_work: Rig) -> None:
    stop = Stop(before=2)
    at_work.inference.gate = stop
    turn = await at_work.ask()
    await stop.reached.wait()

    await at_work.store.delete_conversation(ADA, turn.conversation_id)

    await until(lambda: at_work.inference.open == 0)
    with pytest.raises(NotFound):
        await at_work.watch(turn)


async def test_a_drained_worker_hands_its_turn_back_without_spending_an_attempt() -> None:
    rig = memory_rig(MemoryStore())
    stop = Stop(before=2)
    rig.inference.gate = stop
    async with running(rig) as worker:
        turn = await rig.ask()
        await stop.reached.wait()
        await worker.drain()
        handed_back = await rig.store.turn(ADA, turn.id)
    rig.inference.gate = None
    async with running(rig):
        events = await rig.watch(turn)

    assert (handed_back.state, handed_back.attempt) == (TurnState.QUEUED, 0)
    assert (ending(events).state, text_of(events)) == (TurnState.COMPLETED, "Ada wrote notes.")
    assert (await rig.store.turn(ADA, turn.id)).attempt == 1


async def test_what_a_drained_worker_hands_back_waits_in_the_queue_before_the_worker_leaves() -> None:
    rig = memory_rig(MemoryStore())
    stop = Stop(before=2)
    rig.inference.gate = stop
    async with running(rig) as worker:
        await rig.ask()
        await stop.reached.wait()
        await worker.drain()
        depth = await rig.queue.depth()

    assert depth == 1


async def test_what_the_queue_gives_to_a_worker_that_drains_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = memory_rig(MemoryStore())
    received, told = asyncio.Event(), asyncio.Event()
    receive = rig.queue.receive

    async def slowly(*, count_max: int, wait_s: float) -> Sequence[Delivery]:
        found = await receive(count_max=count_max, wait_s=wait_s)
        if found:
            received.set()
            await told.wait()
        return found

    monkeypatch.setattr(rig.queue, "receive", slowly)
    async with running(rig) as worker, asyncio.TaskGroup() as group:
        turn = await rig.ask()
        await received.wait()
        draining = group.create_task(worker.drain())
        await asyncio.sleep(0)
        told.set()
        await draining
        waiting = await receive(count_max=2, wait_s=0.0)

    assert [delivery.ref.turn_id for delivery in waiting] == [turn.id]


async def test_a_draining_worker_lets_turns_end_by_themselves() -> None:
    rig = memory_rig(MemoryStore(), hand_back_after_s=30.0)
    stop = Stop(before=2)
    rig.inference.gate = stop
    async with running(rig) as worker:
        turn = await rig.ask()
        await stop.reached.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.drain())
            await asyncio.sleep(0)
            stop.opened.set()

    assert (await rig.store.turn(ADA, turn.id)).state is TurnState.COMPLETED


async def test_a_drained_worker_takes_nothing_new(rig: Rig) -> None:
    async with running(rig) as worker:
        await worker.drain()
        turn = await rig.ask()

    assert (await rig.store.turn(ADA, turn.id)).state is TurnState.QUEUED


async def test_an_answer_that_ends_while_it_is_kept_waits_for_no_sign_of_life() -> None:
    class SlowJournal(MemoryJournal):
        """Takes its time with the last word on usage."""

        def __init__(self) -> None:
            super().__init__()
            self.is_asked, self.opened = asyncio.Event(), asyncio.Event()

        async def append(self, batches: Sequence[Batch]) -> list[Receipt]:
            if any(isinstance(event.payload, UsageUpdated) for batch in batches for event in batch.events):
                self.is_asked.set()
                await self.opened.wait()
            return await super().append(batches)

    class SlowStore(MemoryStore):
        """Takes its time with the fold that holds everything."""

        def __init__(self) -> None:
            super().__init__()
            self.is_asked, self.opened = asyncio.Event(), asyncio.Event()

        async def fold_all(self, foldings: Sequence[Folding], *, lease_s: float) -> list[bool]:
            if journal.is_asked.is_set():
                self.is_asked.set()
                await self.opened.wait()
            return await super().fold_all(foldings, lease_s=lease_s)

    journal, store = SlowJournal(), SlowStore()
    rig = Rig(store, MemoryQueue(), journal, journal, lease_s=3_600.0)
    async with running(rig):
        turn = await rig.ask()
        await store.is_asked.wait()
        journal.opened.set()
        for _ in range(100):  # in memory nothing waits for anything else: by then the worker waits for the fold alone
            await asyncio.sleep(0)
        store.opened.set()

        async with asyncio.timeout(60):
            events = await rig.watch(turn)

    assert ending(events).state is TurnState.COMPLETED
