"""A model that takes the beginning of its answer goes on where a dead worker stopped, and writes nothing twice."""

from dataclasses import replace
from typing import Any, Final

import pytest

from services.conversation.asking.actions import Continue
from services.conversation.events import AttemptStarted, CitationAdded, ProviderSwitched, TextDelta, TurnEvent
from services.conversation.model import ANSWER_PART_ID, Citation, FinishReason, Turn, TurnState, Usage
from services.conversation.ports import CONTINUE_FROM_LENGTH_MAX, Evidence
from services.conversation.running.accounts import together
from services.conversation.running.continuation import Continuation
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from tests.support.conversation import ADA, has_snapshot, kinds, replayed, text_of
from tests.support.conversation_fakes import FINISHED, INPUT_TOKENS, Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

LEASE_S: Final = 30.0


def rig_with_prefixes() -> tuple[Rig, ManualClock]:
    clock = ManualClock()
    rig = memory_rig(MemoryStore(clock), lease_s=LEASE_S)
    rig.inference.takes_prefix = True
    return rig, clock


async def dead_after(rig: Rig, words: int, *, knowledge_base_id: str = "") -> tuple[Turn, list[TurnEvent]]:
    """A turn whose worker died when that many words were out."""
    rig.inference.gate = stop = Stop(before=words)
    shown = "".join(rig.inference.words[:words])
    async with running(rig):
        turn = await rig.ask(knowledge_base_id=knowledge_base_id)
        await stop.reached.wait()
        await until_shown(rig, turn, shown)
    rig.inference.gate = None
    return turn, await rig.look(turn)


async def until_shown(rig: Rig, turn: Turn, text: str) -> None:
    journal: Any = rig.journal  # Any: the journal in memory, read at a border that the port does not have

    def shown() -> str:
        return text_of(journal._events.get(turn.id, []))

    await until(lambda: shown() == text, within_s=60.0)


async def brought_to_its_end(rig: Rig, clock: ManualClock) -> None:
    store = rig.store
    assert isinstance(store, MemoryStore)
    clock.advance(LEASE_S + 1.0)
    await rig.reaper.reap()
    async with running(rig):
        await until(lambda: all(row.turn.state.has_ended for row in store.tables.turns.values()), within_s=60.0)


def asked(rig: Rig) -> list[str]:
    """What each attempt was given as the beginning of its answer."""
    return [request.continue_from for _, request in rig.inference.requests]


@pytest.mark.parametrize("words", [1, 2, 3, 4])
async def test_it_goes_on_where_the_dead_worker_stopped(words: int) -> None:
    rig, clock = rig_with_prefixes()
    turn, seen = await dead_after(rig, words, knowledge_base_id="kb_1")
    shown = "".join(rig.inference.words[:words])
    # What another attempt would have written from the start is never asked for.
    rig.inference.words = [*("_" * len(word) for word in rig.inference.words[:words]), *rig.inference.words[words:]]

    await brought_to_its_end(rig, clock)
    rest = await rig.watch(turn, seen[-1].sequence)

    assert asked(rig) == ["", shown]
    assert rest[0].payload == AttemptStarted(2, len(shown))
    assert text_of([*seen, *rest]) == "Ada wrote notes."
    assert not has_snapshot(rest)
    assert kinds(rest).count("CitationAdded") == 1


async def test_only_what_it_writes_is_counted_again() -> None:
    rig, clock = rig_with_prefixes()
    turn, _ = await dead_after(rig, 2)

    rig.inference.gate = stop = Stop(before=3)
    clock.advance(LEASE_S + 1.0)
    await rig.reaper.reap()
    async with running(rig):
        await stop.reached.wait()
        await until_shown(rig, turn, "Ada wrote notes")
        await rig.turns.cancel(ADA, turn.id)
        await rig.watch(turn)

    first = Usage(input_tokens=INPUT_TOKENS, output_tokens=3, estimated=True)
    second = Usage(input_tokens=INPUT_TOKENS, output_tokens=2, estimated=True)
    usage = (await rig.store.message(ADA, turn.assistant_message_id)).usage
    assert usage == together(first, second)


async def test_on_other_evidence_nothing_is_gone_on_with() -> None:
    rig, clock = rig_with_prefixes()
    turn, seen = await dead_after(rig, 3, knowledge_base_id="kb_1")
    rig.retrieval.evidence = Evidence()

    await brought_to_its_end(rig, clock)
    rest = await rig.watch(turn, seen[-1].sequence)

    assert asked(rig) == ["", ""]
    assert rest[0].payload == AttemptStarted(2, 0)
    assert replayed([*seen, *rest]).text == "Ada wrote notes."


async def test_answer_that_goes_on_with_an_earlier_one_is_told_so_in_its_own_way() -> None:
    rig, clock = rig_with_prefixes()
    rig.inference.words = ["Ada", " wrote"]
    rig.inference.finished = replace(FINISHED, finish_reason=FinishReason.LENGTH)
    async with running(rig):
        old = await rig.ask()
        await rig.watch(old)
        rig.inference.words, rig.inference.finished = [" a", " program", "."], FINISHED
        rig.inference.gate = stop = Stop(before=1)
        turn = await rig.act(old.conversation_id, Continue(old.assistant_message_id))
        await stop.reached.wait()
        await until_shown(rig, turn, "Ada wrote a")
    rig.inference.gate = None

    await brought_to_its_end(rig, clock)

    assert asked(rig) == ["", "", ""]
    stored = await rig.store.answer(ADA, turn.id)
    assert (stored.turn.state, stored.message.text) == (TurnState.COMPLETED, "Ada wrote a program.")


def test_text_beyond_what_inference_takes_is_not_offered() -> None:
    def offered(length: int) -> str:
        continuation = Continuation(2, "a" * length, (), resumes=True)
        continuation.begin(is_takeover=True)
        return continuation.offered

    assert len(offered(CONTINUE_FROM_LENGTH_MAX)) == CONTINUE_FROM_LENGTH_MAX
    assert offered(CONTINUE_FROM_LENGTH_MAX + 1) == ""


CITED: Final = Citation(
    document_id="doc_1",
    document_version=1,
    document_name="notes.md",
    knowledge_base_id="kb_1",
    chunk_id="chk_1",
    part_id=ANSWER_PART_ID,
    start=0,
    end=3,
    source_start=0,
    source_end=3,
    quote="Ada",
    locator="",
    score=0.5,
    number=1,
)


def resumed(*citations: Citation) -> Continuation:
    continuation = Continuation(2, "Ada wrote", citations, resumes=True)
    continuation.begin(is_takeover=True)
    continuation.stands(len("Ada wrote"))
    return continuation


def test_citations_of_what_stands_are_kept_and_only_those_that_were_not_told_are_added() -> None:
    other = replace(CITED, start=4, end=9)
    continuation = resumed(CITED)
    steps = [
        *continuation.step(CitationAdded(CITED)),
        *continuation.step(CitationAdded(other)),
        *continuation.text(9, " notes."),
        *continuation.end(),
    ]

    assert steps == [AttemptStarted(2, 9), CitationAdded(other), TextDelta(ANSWER_PART_ID, 9, " notes.")]


def test_an_answer_that_was_whole_is_only_ended() -> None:
    assert resumed().end() == [AttemptStarted(2, 9)]


def test_a_model_that_has_to_begin_again_after_all_takes_back_what_stood() -> None:
    switched = ProviderSwitched("a/x", "b/y", "PROVIDER_UNAVAILABLE", 4)
    continuation = resumed(replace(CITED, end=9))

    steps = [*continuation.step(switched), *continuation.text(4, "codes"), *continuation.end()]

    assert steps == [AttemptStarted(2, 4), switched, TextDelta(ANSWER_PART_ID, 4, "codes")]
