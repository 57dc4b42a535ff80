"""What a worker makes of turns, on stores and queues in memory."""

import asyncio
from dataclasses import replace

import pytest

from services.conversation.asking.actions import Continue
from services.conversation.events import (
    CitationAdded,
    ProviderSwitched,
    RetrievalDecided,
    TextDelta,
    TurnStarted,
    UsageUpdated,
)
from services.conversation.model import FinishReason, MessageState, RetrievalMode, Role, TurnState
from services.conversation.ports import GeneratedCitation, PromptMessage
from services.conversation.store_memory import MemoryStore
from tests.support.conversation import ADA, ending, kinds, replayed, text_of
from tests.support.conversation_fakes import DOCUMENT, FINISHED, Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until


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


async def test_steps_come_in_a_sound_order(at_work: Rig) -> None:
    events = await at_work.watch(await at_work.ask(knowledge_base_id="kb_1"))

    assert isinstance(events[0].payload, TurnStarted)
    assert isinstance(events[-2].payload, UsageUpdated)
    assert events[-2].payload.usage == FINISHED.usage
    assert all(isinstance(event.payload, TextDelta) for event in events[3:-3])


async def test_an_outage_of_inference_costs_a_waiting_turn_no_attempt() -> None:
    rig = memory_rig(MemoryStore(), attempts_max=2, backoff_s=0.0)
    rig.inference.away = True
    turn = await rig.ask()

    async with running(rig):
        await until(lambda: rig.inference.looks >= 3)
        rig.inference.away = False
        events = await rig.watch(turn)

    assert {event.attempt for event in events} == {1}
    assert text_of(events) == "Ada wrote notes."


async def test_a_worker_leaves_while_inference_is_away() -> None:
    rig = memory_rig(MemoryStore())
    rig.inference.away = True
    await rig.ask()

    async with running(rig) as worker:
        await until(lambda: rig.inference.looks >= 1)
        async with asyncio.timeout(60):
            await worker.drain()

    assert rig.inference.starts == 0
