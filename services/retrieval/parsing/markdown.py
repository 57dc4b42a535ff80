"""Markdown: the source is the text, markup included; markdown-it-py's line maps give headings and paragraphs."""

from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.retrieval.parsing.text import BlockTuple, Parsed, normalise

# Deeper nesting than people write costs time and says nothing; it is also markdown-it's own guard.
_NESTING_MAX: Final = 20
_LINE_KINDS: Final = frozenset({
    "bullet_list_open", "ordered_list_open", "table_open", "fence", "code_block", "blockquote_open",
})  # fmt: skip


def parse(text: str) -> Parsed:
    """The source with one block per heading, paragraph, list, table or code block."""
    text = normalise(text)
    lines = _line_starts(text)
    # Only the blocks are wanted; looking into them is most of the work.
    parser = MarkdownIt("commonmark", {"maxNesting": _NESTING_MAX}).enable("table").disable(["inline", "text_join"])
    blocks: list[BlockTuple] = []
    headings: list[tuple[int, str]] = []
    tokens = parser.parse(text)
    for place, token in enumerate(tokens):
        if token.level or not token.map:
            continue
        start, end = _trimmed(text, lines[token.map[0]], lines[token.map[1]])
        if start == end:
            continue
        above = tuple(title for _, title in headings)
        if token.type == "heading_open":
            above = _enter(headings, int(token.tag[1:]), tokens[place + 1])
            blocks.append((start, end, "heading", above, 0))
        elif token.type in _LINE_KINDS:
            blocks.append(_with_lead_in(text, blocks, (start, end, "lines", above, 0)))
        elif token.type in {"paragraph_open", "html_block"}:
            blocks.append((start, end, "paragraph", above, 0))
    return text, blocks


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    starts[-1] = len(text)
    return [*starts, len(text)]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip("\n")), start + len(piece.rstrip())


def _enter(headings: list[tuple[int, str]], level: int, inline: Token) -> tuple[str, ...]:
    """Closes the headings that are not above this one, and opens it; returns those above."""
    while headings and headings[-1][0] >= level:
        headings.pop()
    above = tuple(title for _, title in headings)
    headings.append((level, " ".join(inline.content.split())))
    return above


def _with_lead_in(text: str, blocks: list[BlockTuple], block: BlockTuple) -> BlockTuple:
    """Takes a paragraph that ends in a colon into the list, table or code that it announces."""
    if not blocks or blocks[-1][2] != "paragraph" or text[blocks[-1][1] - 1] != ":":
        return block
    lead_in = blocks.pop()
    return lead_in[0], *block[1:]
