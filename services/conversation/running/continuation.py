"""Where another attempt goes on: where the old text ends, or as far as what it writes agrees with what watchers have.

A model that can be given the beginning of its answer writes on from there. Others answer from the start: as long as
one writes the same text, nothing is sent; where its text parts from the old one, or the old one ends, the attempt
starts in the open. An answer that goes on with an earlier one begins with a text that no attempt writes, and that none
takes back.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from services.conversation.events import AttemptStarted, CitationAdded, Payload, ProviderSwitched, TextDelta
from services.conversation.model import ANSWER_PART_ID, Citation
from services.conversation.ports import CONTINUE_FROM_LENGTH_MAX, GeneratedCitation, GeneratedText

Written: TypeAlias = GeneratedText | GeneratedCitation | ProviderSwitched


class Continuation:
    """Turns the steps of a new attempt into those that watchers still need.

    Args:
        attempt: its number, from 1; the first one passes everything on.
        text: what watchers have of the answer.
        citations: as `text`.
        resumes: whether the old text may stand at all; not when the evidence is another one.
        base: code points at the start of the text that stand whatever the attempt writes.
    """

    def __init__(self, attempt: int, text: str, citations: Sequence[Citation], *, resumes: bool, base: int = 0) -> None:
        self._attempt = attempt
        self._base = base
        self._old = text if resumes else text[:base]
        self._kept = frozenset(citation for citation in citations if resumes or citation.end <= base)
        self._matched = base
        self._held: list[CitationAdded | ProviderSwitched] = []
        self._is_open = False
        self._end = 0

    def begin(self, *, is_takeover: bool) -> list[Payload]:
        """What comes before the first word."""
        if not is_takeover:
            self._is_open = True
            return []
        return [] if len(self._old) > self._base else self._start(self._base)

    @property
    def offered(self) -> str:
        """What a model may be given as the beginning of its answer; empty for nothing, once `begin` was called.

        Not in an answer that goes on with an earlier one: its model was told to go on with that, in other words.
        """
        return "" if self._is_open or self._base or len(self._old) > CONTINUE_FROM_LENGTH_MAX else self._old

    def stands(self, offset: int) -> None:
        """The model writes on from `offset` of what it was offered."""
        self._matched = self._end = offset

    def text(self, offset: int, text: str) -> list[Payload]:
        """What is left to send of a piece of the answer."""
        self._end = offset + len(text)
        if self._is_open:
            return [TextDelta(ANSWER_PART_ID, offset, text)]
        agreed = _agreement(text, self._old, self._matched)
        self._matched += agreed
        if agreed == len(text) and self._matched < len(self._old):
            return []
        rest = text[agreed:]
        start = self._start(self._matched)
        return [*start, TextDelta(ANSWER_PART_ID, self._matched, rest)] if rest else start

    def step(self, step: CitationAdded | ProviderSwitched) -> list[Payload]:
        """What is left to send of a step other than text."""
        if isinstance(step, ProviderSwitched) and step.offset < self._end:
            return self._take_back(step)
        if not self._is_open:
            self._held.append(step)
            return []
        return [] if self._is_known(step) else [step]

    def end(self) -> list[Payload]:
        """What comes after the last word: a new answer may be shorter than the old one."""
        return [] if self._is_open else self._start(self._matched)

    def _take_back(self, switched: ProviderSwitched) -> list[Payload]:
        """Whoever goes on could not do so from the end: what is written now takes the place of what stood."""
        if self._is_open:
            return [switched, AttemptStarted(self._attempt, switched.offset)]
        self._matched = min(self._matched, switched.offset)
        self._held = [one for one in self._held if not _reaches_beyond(one, switched.offset)] + [switched]
        return []

    def _start(self, offset: int) -> list[Payload]:
        self._is_open = True
        # What reaches beyond the offset is void, and has to be sent again.
        self._kept = frozenset(citation for citation in self._kept if citation.end <= offset)
        return [AttemptStarted(self._attempt, offset), *(step for step in self._held if not self._is_known(step))]

    def _is_known(self, step: CitationAdded | ProviderSwitched) -> bool:
        return isinstance(step, CitationAdded) and step.citation in self._kept


class Extension:
    """Places what a model writes behind a text that stands.

    A model that goes on begins with something else than that text; one that answers from the start, as one does that
    gives the same answer to the same question, repeats it and is followed to where it ends.

    Args:
        standing: the text that stands.
    """

    def __init__(self, standing: str) -> None:
        self._standing = standing
        self._unplaced = ""
        self._held: list[GeneratedCitation | ProviderSwitched] = []
        self._shift: int | None = None if standing else 0

    def place(self, step: Written) -> list[Written]:
        """The steps that are certain now, with offsets in the whole text."""
        if self._shift is not None:
            return [_shifted(step, self._shift)]
        if not isinstance(step, GeneratedText):
            self._held.append(step)
            return []
        self._unplaced += step.text
        length = len(self._standing)
        if self._unplaced.startswith(self._standing):
            return self._placed(0, length, self._unplaced[length:])
        if self._standing.startswith(self._unplaced):
            return []
        return self._placed(length, length, self._unplaced)

    def _placed(self, shift: int, offset: int, text: str) -> list[Written]:
        self._shift = shift
        held = [_shifted(step, shift) for step in self._held]
        return [*([GeneratedText(offset, text)] if text else []), *held]


def _shifted(step: Written, shift: int) -> Written:
    if isinstance(step, GeneratedCitation):
        return replace(step, start=step.start + shift, end=step.end + shift)
    return replace(step, offset=step.offset + shift)


def _agreement(text: str, old: str, offset: int) -> int:
    """How many code points of `text` are those of `old` from `offset` on."""
    if old.startswith(text, offset):
        return len(text)
    return next(
        (i for i, (new, known) in enumerate(zip(text, old[offset:], strict=False)) if new != known), len(old) - offset
    )


def _reaches_beyond(step: CitationAdded | ProviderSwitched, offset: int) -> bool:
    return isinstance(step, CitationAdded) and step.citation.end > offset
