"""Cuts a passage into sentences with exact offsets; knows prose, lists, headings and code of Markdown-like text."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# A lead-in such as "The steps are:" is quoted together with its list up to this length; longer lists are cut.
LIST_CHARS_MAX: Final = 600

_BULLET: Final = re.compile(r"\s*(?:[-*+•‣◦]|\d{1,3}[.)])\s+")
_HEADING: Final = re.compile(r"\s{0,3}#{1,6}\s+")
_FENCE: Final = re.compile(r"\s*(?:```|~~~)")
# A sentence ends at a terminator, closing quotes or brackets and citation marks, before white space and a beginning.
# Nothing is tried twice: the first of many terminators is where they begin, and what a repetition has taken it keeps.
# Else a megabyte of stops, which any caller may send as a passage, would hold the interpreter for hours.
_END: Final = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+(?:\[\d{1,3}\])*+\s++(?=[\"'“‘(\[]?[^\W_a-zß-öø-ÿ])|"
    r"[。！？]+[」』”]*\s*"  # noqa: RUF001 - the terminators of Chinese and Japanese
)
_ABBREVIATION: Final = re.compile(
    r"(?:^|[\s(\[\"'“])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Mt|Sr|Jr|Gen|Col|Lt|Capt|Rev|Hon|Gov|Sen|Rep|No|Nos|Vol|Fig|Figs|Eq|"
    r"pp?|cf|vs|etc|al|approx|ca|c|e\.g|i\.e|Inc|Ltd|Co|Corp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|"
    r"(?:[A-Za-z]\.)+[A-Za-z])\.$"
)
_ABBREVIATION_CHARS_MAX: Final = 32


class Kind(StrEnum):
    """What a sentence is in the layout of its passage."""

    PROSE = "prose"
    ITEM = "item"
    LIST = "list"
    HEADING = "heading"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Sentence:
    """The range `start:end` of a passage's text."""

    start: int
    end: int
    kind: Kind = Kind.PROSE


def split(text: str) -> list[Sentence]:
    """Sentences of `text` in their order; ranges are trimmed, never empty, and hold at least one letter or digit.

    A lead-in that ends with a colon becomes one LIST sentence with the items after it; the items are also there on
    their own, so ranges may overlap in that case only.
    """
    blocks = list(_blocks(text))
    found: list[Sentence] = []
    for index, block in enumerate(blocks):
        if block.kind in {Kind.HEADING, Kind.CODE}:
            found.append(block)
            continue
        prose = list(_sentences(text, block))
        if not prose:  # a list mark with nothing behind it
            continue
        following = (blocks[at] for at in range(index + 1, len(blocks)))
        end = _list_end(text, following, prose[-1])
        found.extend(prose if end is None else [*prose[:-1], Sentence(prose[-1].start, end, Kind.LIST)])
    trimmed = (_trim(text, sentence) for sentence in found)
    return [sentence for sentence in trimmed if any(letter.isalnum() for letter in text[sentence.start : sentence.end])]


def quote(text: str, sentence: Sentence) -> str:
    """The words of a sentence on one line; only white space differs from the source."""
    return " ".join(text[sentence.start : sentence.end].split())


@dataclass(frozen=True, slots=True)
class _Line:
    """A line without its mark; `kind` is None for borders between blocks, `opens` tells that a block begins here."""

    start: int
    end: int
    kind: Kind | None
    opens: bool = False


def _blocks(text: str) -> Iterator[Sentence]:
    """Paragraphs, list items, headings and fenced code, without their marks."""
    block: Sentence | None = None
    for line in _lines(text):
        if block is not None and _continues(block, line):
            block = Sentence(block.start, line.end, block.kind)
            continue
        if block is not None:
            yield block
        block = None if line.kind is None else Sentence(line.start, line.end, line.kind)
    if block is not None:
        yield block


def _continues(block: Sentence, line: _Line) -> bool:
    if line.opens:
        return False
    return line.kind is block.kind or (block.kind is Kind.ITEM and line.kind is Kind.PROSE)


def _lines(text: str) -> Iterator[_Line]:
    is_code = False
    end = 0
    for line in text.splitlines(keepends=True):
        start, end = end, end + len(line)
        if _FENCE.match(line):
            is_code = not is_code
            yield _Line(start, end, None)
        elif is_code:
            yield _Line(start, end, Kind.CODE)
        elif not line.strip():
            yield _Line(start, end, None)
        elif heading := _HEADING.match(line):
            yield _Line(start + heading.end(), end, Kind.HEADING, opens=True)
        elif bullet := _BULLET.match(line):
            yield _Line(start + bullet.end(), end, Kind.ITEM, opens=True)
        else:
            is_row = line.lstrip().startswith("|")
            yield _Line(start, end, Kind.ITEM if is_row else Kind.PROSE, opens=is_row)


def _list_end(text: str, following: Iterable[Sentence], lead: Sentence) -> int | None:
    """Where the list ends that `lead` introduces; None when it introduces none."""
    if lead.kind is not Kind.PROSE or not text[lead.start : lead.end].rstrip().endswith(":"):
        return None
    end = None
    for item in following:
        if item.kind is not Kind.ITEM or item.end - lead.start > LIST_CHARS_MAX:
            break
        end = item.end
    return end


def _sentences(text: str, block: Sentence) -> Iterator[Sentence]:
    start = block.start
    for ending in _END.finditer(text, block.start, block.end):
        if ending.group().rstrip() != "." or not _abbreviates(text, start, ending.start()):
            yield Sentence(start, ending.end(), block.kind)
            start = ending.end()
    if start < block.end:
        yield Sentence(start, block.end, block.kind)


def _abbreviates(text: str, start: int, stop: int) -> bool:
    """Whether the full stop at `stop` belongs to the word before it."""
    return _ABBREVIATION.search(text[max(start, stop - _ABBREVIATION_CHARS_MAX) : stop + 1]) is not None


def _trim(text: str, sentence: Sentence) -> Sentence:
    piece = text[sentence.start : sentence.end]
    start = sentence.start + len(piece) - len(piece.lstrip())
    return Sentence(start, max(start, sentence.start + len(piece.rstrip())), sentence.kind)
