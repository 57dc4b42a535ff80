"""Reads the `[n]` marks that a language model writes, while it writes them, into citations with ranges.

A citation depends only on the text up to the end of its mark, so it is the same however the text was cut into pieces.
The text itself passes unchanged.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from services.inference.extraction.sentences import Kind, Sentence, split
from services.inference.extraction.terms import Bag, terms
from services.inference.model import Passage, PassageCitation

# `[1]`, `[1, 3]`, `[1][2]`; bounded, so that a mark in the making is never longer than what is looked at again.
_MARK: Final = re.compile(r"\[ ?\d{1,2}(?: ?[,;] ?\d{1,2}){0,15} ?\]")
_NUMBER: Final = re.compile(r"\d+")
# Where the claim before a mark may begin: after a sentence, a line, a list mark or an earlier mark.
_BORDER: Final = re.compile(r"(?<=[.!?…。！？])[\"'”’)]*\s+|\n+\s*(?:(?:[-*+•]|\d{1,3}[.)]|#{1,6}|>)\s+)*")  # noqa: RUF001 - stops of other scripts
_OPENING: Final = re.compile(r"\s*(?:(?:[-*+•]|\d{1,3}[.)]|#{1,6}|>)\s+)*")
_MARK_CHARS_MAX: Final = 128
_FENCE: Final = "```"


class CitationReader:
    """Finds citations in the text of one answer.

    Args:
        passages: what may be cited, number 1 first.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._sources = [_Source(passage.text) for passage in passages]
        self._text = ""
        self._scanned = 0
        self._claim: tuple[int, int] | None = None
        self._claim_mark_end = -1
        self._seen: set[PassageCitation] = set()

    def again(self, text: str) -> "CitationReader":
        """A reader of the same passages that has read `text`, and nothing after it."""
        reader = CitationReader(self._passages)
        reader.feed(text)
        return reader

    def feed(self, piece: str) -> list[PassageCitation]:
        """Takes the next piece of the answer and gives the citations that it completes, each once."""
        self._text += piece
        found: list[PassageCitation] = []
        if not self._sources or "]" not in piece:
            return found
        for mark in _MARK.finditer(self._text, self._scanned):
            self._scanned = mark.end()
            if not self._is_code(mark.start()):
                found.extend(self._cite(mark))
        # An unfinished mark is looked at again with the next piece.
        self._scanned = max(self._scanned, len(self._text) - _MARK_CHARS_MAX)
        return found

    def _cite(self, mark: re.Match[str]) -> list[PassageCitation]:
        claim = self._claim_before(mark)
        if claim is None:
            return []
        start, end = claim
        found = []
        for digits in _NUMBER.findall(mark[0]):
            number = int(digits)
            if 1 <= number <= len(self._sources):
                source = self._sources[number - 1].best(self._text[start:end])
                citation = PassageCitation(
                    passage=number, start=start, end=end, source_start=source.start, source_end=source.end
                )
                if citation not in self._seen:
                    self._seen.add(citation)
                    found.append(citation)
        return found

    def _claim_before(self, mark: re.Match[str]) -> tuple[int, int] | None:
        """The range that the mark supports; marks side by side support the same one."""
        between = self._text[max(self._claim_mark_end, 0) : mark.start()]
        if self._claim_mark_end < 0 or between.strip(" ,;\t"):
            self._claim = self._range(mark.start())
        self._claim_mark_end = mark.end()
        return self._claim

    def _range(self, end: int) -> tuple[int, int] | None:
        floor = max(self._claim_mark_end, 0)
        piece = self._text[floor:end].rstrip()
        end = floor + len(piece)
        start = floor
        for border in _BORDER.finditer(self._text, floor, end):
            if border.end() < end:
                start = border.end()
        opening = _OPENING.match(self._text, start, end)
        start = opening.end() if opening else start
        # A mark after the stop of an earlier claim leaves that stop behind.
        while start < end and not self._text[start].isalnum() and self._text[start] in ".,;:!? \t":
            start += 1
        return (start, end) if any(letter.isalnum() for letter in self._text[start:end]) else None

    def _is_code(self, position: int) -> bool:
        """`a[1]` inside code is an index, not a citation."""
        before = self._text[:position]
        if before.count(_FENCE) % 2:
            return True
        line = before[before.rfind("\n") + 1 :].replace(_FENCE, "")
        return line.count("`") % 2 == 1


class _Source:
    """A passage whose sentences are compared with claims; cut on first use."""

    def __init__(self, text: str) -> None:
        self._text = text

    def best(self, claim: str) -> Sentence:
        """The sentence that shares most with the claim; the whole passage when none shares anything."""
        wanted = Bag.of(terms(claim))
        scored = [(_likeness(wanted, bag), -index) for index, (_, bag) in enumerate(self._sentences)]
        score, index = max(scored, default=(0.0, 0))
        return self._sentences[-index][0] if score > 0 else Sentence(0, len(self._text))

    @cached_property
    def _sentences(self) -> list[tuple[Sentence, Bag]]:
        cut = [sentence for sentence in split(self._text) if sentence.kind is not Kind.HEADING]
        return [(sentence, Bag.of(terms(self._text[sentence.start : sentence.end]))) for sentence in cut]


def _likeness(wanted: Bag, present: Bag) -> float:
    """Shared terms over the mean of both sizes (Dice), so that neither a long nor a short sentence wins by size."""
    total = len(wanted.terms) + len(present.terms)
    return 2 * len(wanted.terms & present.terms) / total if total else 0.0
