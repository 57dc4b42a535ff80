"""Puts chosen sentences into an answer, with a citation for each; says what is answering and when it found nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.inference.extraction.evidence import Candidate
from services.inference.extraction.selection import Selection, Strength
from services.inference.extraction.sentences import Kind
from services.inference.extraction.terms import terms
from services.inference.model import Message, Passage, PassageCitation, Role

NOTE: Final = (
    "These sentences are quoted word for word from the knowledge base by Parley's built-in extractive model, which "
    "writes nothing of its own."
)
NO_PASSAGES: Final = (
    "I am Parley's built-in extractive model: I answer by quoting the passages of a knowledge base, and this message "
    "came with none. Ask about a knowledge base that holds documents on the subject, or connect a language model by "
    "setting OPENAI_API_KEY or ANTHROPIC_API_KEY."
)
NO_QUESTION: Final = (
    "I am Parley's built-in extractive model: I answer questions by quoting the passages of a knowledge base. Ask me "
    "something that its documents can answer."
)
NO_EVIDENCE: Final = "I found nothing in the knowledge base that answers this."
CLOSEST: Final = " The closest passages are from {titles}."
UNSURE: Final = "I am not sure that the knowledge base answers this. The closest that I found:"

_TITLES_MAX: Final = 3
_LIST_MIN: Final = 3


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer with its citations, in the order of their start."""

    text: str
    citations: tuple[PassageCitation, ...] = ()


def draft(selection: Selection, messages: Sequence[Message], passages: Sequence[Passage]) -> Draft:
    """The answer that quotes `selection`; the note on who answers comes once in a conversation."""
    if not passages:
        return Draft(NO_PASSAGES)
    if selection.strength is Strength.NONE:
        return Draft(_nothing_found(messages[-1].text, passages))
    answer = _Writer()
    if selection.strength is Strength.WEAK:
        answer.add(UNSURE + "\n\n")
    _quote_all(answer, selection.sentences)
    if not any(message.role is Role.ASSISTANT and NOTE in message.text for message in messages):
        answer.add(f"\n\n_{NOTE}_")
    return answer.draft()


def _nothing_found(question: str, passages: Sequence[Passage]) -> str:
    if not terms(question):
        return NO_QUESTION
    titles = list(dict.fromkeys(passage.title.strip() for passage in passages if passage.title.strip()))[:_TITLES_MAX]
    if not titles:
        return NO_EVIDENCE
    quoted = [f"“{title}”" for title in titles]
    listed = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
    return NO_EVIDENCE + CLOSEST.format(titles=listed)


def _quote_all(answer: "_Writer", sentences: Sequence[Candidate]) -> None:
    """Neighbours of one passage read on as prose; three or more quotes from several places become a list."""
    places = {one.passage for one in sentences}
    is_list = len(sentences) >= _LIST_MIN and len(places) > 1
    for index, one in enumerate(sentences):
        previous = sentences[index - 1] if index else None
        follows = previous is not None and previous.passage == one.passage and previous.position + 1 == one.position
        if previous is not None:
            answer.add(" " if follows or not is_list else "\n")
        if is_list and not follows:
            answer.add("- ")
        answer.cite(one)


class _Writer:
    """Collects text and knows its offsets."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._citations: list[PassageCitation] = []

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._length += len(text)

    def cite(self, one: Candidate) -> None:
        start = self._length
        self.add(one.text)
        self._citations.append(
            PassageCitation(
                passage=one.passage,
                start=start,
                end=self._length,
                source_start=one.sentence.start,
                source_end=one.sentence.end,
            )
        )
        # A list item rarely ends with a stop; without one the next sentence would run into it.
        is_closed = one.text[-1] in ".!?…:;。！？”\"')" or one.sentence.kind is Kind.CODE  # noqa: RUF001 - stops of other scripts
        self.add(f"{'' if is_closed else '.'} [{one.passage}]")

    def draft(self) -> Draft:
        return Draft("".join(self._pieces), tuple(self._citations))
