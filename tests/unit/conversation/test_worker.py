"""What a worker makes of turns, on stores and queues in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.conversation.actions import Continue, NewQuestion
from services.conversation.events import (
    CitationAdded,
    ProviderSwitched,
    RetrievalDecided,
    TextDelta,
    TurnStarted,
    UsageUpdated,
)
from services.conversation.model import FinishReason, MessageState, RetrievalMode, Role, TurnOverrides, TurnState
from services.conversation.ports import GeneratedCitation, PromptMessage
from services.conversation.store_memory import MemoryStore
from services.conversation.turns import Ask
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
from tests.support.conversation import ADA, ending, kinds, new_conversation, replayed, text_of
from tests.support.conversation_fakes import DOCUMENT, FINISHED, Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until


@pytest.fixture
def rig() -> Rig:
    return memory_rig(MemoryStore())


@pytest.fixture
async def at_work(rig: Rig) -> AsyncIterator[Rig]:
    async with running(rig):
        yield rig


async def test_a_turn_is_answered_with_all_its_steps(at_work: Rig) -> None:
    turn = await at_work.ask(knowledge_base_id="kb_1")

    events = await at_work.watch(turn)

    assert [kind for kind in kinds(events) if kind != "TextDelta"] == [
        "TurnStarted",
        "RetrievalDecided",
        "PartStarted",
        "CitationAdded",
        "UsageUpdated",
        "TurnFinished",
    ]
    assert text_of(events) == "Ada wrote notes."
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert {event.attempt for event in events} == {1}


async def test_the_stored_answer_is_what_was_streamed(at_work: Rig) -> None:
    turn = await at_work.ask(knowledge_base_id="kb_1")

    events = await at_work.watch(turn)

    stored = await at_work.store.message(ADA, turn.assistant_message_id)
    draft = replayed(events)
    assert ending(events).message == stored
    assert (stored.text, stored.last_sequence) == (draft.text, events[-1].sequence)
    assert list(stored.citations) == draft.citations
    assert (stored.usage, stored.retrieval) == (draft.usage, draft.retrieval)
    assert (stored.state, stored.finish_reason) == (MessageState.COMPLETE, FinishReason.STOP)
    assert stored.model == "scripted/one"


async def test_a_citation_quotes_the_document(at_work: Rig) -> None:
    turn = await at_work.ask(knowledge_base_id="kb_1")

    events = await at_work.watch(turn)

    (citation,) = [event.payload.citation for event in events if isinstance(event.payload, CitationAdded)]
    assert citation.quote == DOCUMENT[citation.source_start : citation.source_end] == "Ada Lovelace"
    assert (citation.document_id, citation.document_version, citation.number) == ("doc_1", 3, 1)
    assert text_of(events)[citation.start : citation.end] == "Ada"


@pytest.mark.parametrize(
    "citation",
    [
        GeneratedCitation(passage=0, start=0, end=3, source_start=0, source_end=3),
        GeneratedCitation(passage=2, start=0, end=3, source_start=0, source_end=3),
        GeneratedCitation(passage=1, start=0, end=3, source_start=0, source_end=26),
        GeneratedCitation(passage=1, start=0, end=3, source_start=3, source_end=3),
        GeneratedCitation(passage=1, start=3, end=3, source_start=0, source_end=3),
    ],
)
async def test_a_citation_that_does_not_fit_is_left_out(at_work: Rig, citation: GeneratedCitation) -> None:
    at_work.inference.citations = [citation]
    turn = await at_work.ask(knowledge_base_id="kb_1")

    events = await at_work.watch(turn)

    assert replayed(events).citations == []
    assert ending(events).state is TurnState.COMPLETED


async def test_without_a_knowledge_base_nothing_is_searched(at_work: Rig) -> None:
    turn = await at_work.ask()

    events = await at_work.watch(turn)

    assert at_work.retrieval.questions == []
    assert not [event for event in events if isinstance(event.payload, RetrievalDecided)]


async def test_a_turn_searches_selectively_with_the_questions_before(at_work: Rig) -> None:
    first = await at_work.ask("one", knowledge_base_id="kb_1")
    await at_work.watch(first)
    for text in ("two", "three", "four"):
        await at_work.watch(await at_work.ask_in(first.conversation_id, text))
    await at_work.watch(await at_work.ask_in(first.conversation_id, "five"))

    owner, question = at_work.retrieval.questions[-1]
    assert (owner, question.query, question.mode) == (ADA, "five", RetrievalMode.SELECTIVE)
    assert question.context_queries == ("two", "three", "four")


async def test_the_prompt_holds_the_branch_and_the_settings(at_work: Rig) -> None:
    first = await at_work.ask("one", system_prompt="Be brief", model="a/b")
    await at_work.watch(first)
    await at_work.watch(await at_work.ask_in(first.conversation_id, "two"))

    owner, request = at_work.inference.requests[-1]
    assert owner == ADA
    assert (request.system, request.model) == ("Be brief", "a/b")
    assert request.messages == (
        PromptMessage(Role.USER, "one"),
        PromptMessage(Role.ASSISTANT, "Ada wrote notes."),
        PromptMessage(Role.USER, "two"),
    )


async def test_an_answer_may_begin_again_unless_it_goes_on_with_another_one(at_work: Rig) -> None:
    at_work.inference.finished = replace(FINISHED, finish_reason=FinishReason.LENGTH)
    first = await at_work.ask()
    await at_work.watch(first)
    await at_work.watch(await at_work.act(first.conversation_id, Continue(first.assistant_message_id)))

    assert [request.accepts_restart for _, request in at_work.inference.requests] == [True, False]


async def test_another_provider_is_told(at_work: Rig) -> None:
    switch = ProviderSwitched("a/b", "c/d", "PROVIDER_TIMEOUT", 0)
    at_work.inference.citations = [switch]  # type: ignore[list-item] # any step will do
    turn = await at_work.ask(knowledge_base_id="kb_1")

    events = await at_work.watch(turn)

    assert switch in [event.payload for event in events]


async def test_text_that_cannot_be_stored_keeps_its_offsets(at_work: Rig) -> None:
    at_work.inference.words = ["a\0b", "🙂"]
    turn = await at_work.ask()

    events = await at_work.watch(turn)

    assert text_of(events) == "a\ufffdb🙂"
    assert (await at_work.store.message(ADA, turn.assistant_message_id)).text == "a\ufffdb🙂"


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


async def test_no_more_turns_run_at_once_than_allowed() -> None:
    rig = memory_rig(MemoryStore(), concurrency=2)
    stop = Stop(before=1)
    rig.inference.gate = stop
    async with running(rig):
        turns = [await rig.ask() for _ in range(5)]
        await until(lambda: rig.inference.open == 2)
        await asyncio.sleep(0)
        assert rig.inference.starts == 2
        stop.opened.set()
        endings = [ending(await rig.watch(turn)).state for turn in turns]

    assert endings == [TurnState.COMPLETED] * 5


async def test_turns_that_a_dead_worker_received_do_not_wait_for_a_backlog() -> None:
    rig = memory_rig(MemoryStore(), concurrency=1)
    for _ in range(3):
        await rig.ask("Mine?")
    await rig.queue.receive(count_max=3, wait_s=0.0)  # by a worker that dies before it claims the turns
    asked: list[str] = []
    loop = asyncio.get_running_loop()
    overdue_at = loop.time() + 0.5

    async def answer_slowly(index: int) -> None:
        if index == 0:
            asked.append(rig.inference.requests[-1][1].messages[-1].text)
            await until(lambda: loop.time() > overdue_at)

    rig.inference.gate = answer_slowly
    for question in ("First?", "Second?", "Third?"):
        await rig.ask(question)
    async with running(rig):
        await until(lambda: len(asked) >= 4)

    assert asked[1:4] == ["Mine?"] * 3


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


async def test_steps_come_in_a_sound_order(at_work: Rig) -> None:
    events = await at_work.watch(await at_work.ask(knowledge_base_id="kb_1"))

    assert isinstance(events[0].payload, TurnStarted)
    assert isinstance(events[-2].payload, UsageUpdated)
    assert events[-2].payload.usage == FINISHED.usage
    assert all(isinstance(event.payload, TextDelta) for event in events[3:-3])
