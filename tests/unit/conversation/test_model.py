"""Titles, options and what an event does to an answer."""

import pytest

from services.conversation.events import (
    AttemptStarted,
    BrokenSequenceError,
    CitationAdded,
    Draft,
    PartStarted,
    Payload,
    ProviderSwitched,
    RetrievalDecided,
    TextDelta,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    UsageUpdated,
)
from services.conversation.model import (
    Citation,
    ConversationSettings,
    RetrievalDecision,
    RetrievalMode,
    RetrievalTrace,
    TracePassage,
    TurnOverrides,
    TurnState,
    Usage,
    title_of,
)
from services.conversation.wire.events import EventCodec

CITATION = Citation(
    document_id="doc_1", document_version=2, document_name="n", knowledge_base_id="kb_1", chunk_id="chk_1",
    part_id="p1", start=0, end=3, source_start=5, source_end=8, quote="Ada", locator="p. 1", score=0.5, number=1,
)  # fmt: skip
PASSAGE = TracePassage(chunk_id="chk_1", document_id="doc_1", document_name="n", score=0.5, number=1)
PAYLOADS: list[Payload] = [
    TurnStarted("turn_1", "conv_1", "msg_1", "msg_2"),
    RetrievalDecided(RetrievalTrace(decision=RetrievalDecision.WEAK, probability=0.25, passages=(PASSAGE,))),
    PartStarted("p1"),
    TextDelta("p1", 3, "🙂\n"),
    CitationAdded(CITATION),
    ProviderSwitched("a/b", "c/d", "PROVIDER_TIMEOUT", 7),
    AttemptStarted(2, 0),
    UsageUpdated(Usage(input_tokens=1, output_tokens=2, cost_micros=0)),
    UsageUpdated(Usage(cost_micros=None, estimated=True)),
    *(TurnFinished(state) for state in TurnState if state.has_ended),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: type(payload).__name__)
def test_an_event_comes_back_from_the_journal_as_it_was(payload: Payload) -> None:
    codec, event = EventCodec(), TurnEvent(2**40, 3, payload)

    assert codec.decode(codec.encode(event)) == event


def test_an_event_of_a_kind_that_is_never_journalled_is_a_bug() -> None:
    with pytest.raises(ValueError, match="None"):
        EventCodec().decode(b"")


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("What  did\nAda write?", "What did Ada write?"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 60 + "…"),
        ("word " * 13, "word " * 11 + "word…"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_a_title_is_the_beginning_of_the_question(question: str, title: str) -> None:
    assert title_of(question) == title


def test_a_turn_takes_from_the_conversation_what_its_caller_left_open() -> None:
    settings = ConversationSettings(model="a/b", knowledge_base_id="kb_1", retrieval_mode=RetrievalMode.ALWAYS)

    silent = TurnOverrides().over(settings)
    told = TurnOverrides(model="c/d", knowledge_base_id="kb_2", retrieval_mode=RetrievalMode.NEVER).over(settings)

    assert (silent.model, silent.knowledge_base_id, silent.retrieval_mode) == ("a/b", "kb_1", RetrievalMode.ALWAYS)
    assert (told.model, told.knowledge_base_id, told.retrieval_mode) == ("c/d", "kb_2", RetrievalMode.NEVER)


def test_a_reset_takes_back_text_and_the_citations_that_reach_into_it() -> None:
    draft = Draft()
    for payload in (TextDelta("p1", 0, "Ada wrote"), CitationAdded(CITATION)):
        draft.apply_payload(payload)

    draft.reset(3)
    kept = list(draft.citations)
    draft.reset(2)

    assert (kept, draft.citations, draft.text) == ([CITATION], [], "Ad")


@pytest.mark.parametrize(
    "event",
    [
        TurnEvent(2, 1, TextDelta("p1", 0, "x")),
        TurnEvent(0, 1, TextDelta("p1", 0, "x")),
        TurnEvent(1, 1, TextDelta("p1", 1, "x")),
    ],
)
def test_a_gap_or_a_repeat_is_noticed(event: TurnEvent) -> None:
    with pytest.raises(BrokenSequenceError):
        Draft().apply(event)
