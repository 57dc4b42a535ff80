"""HTML: the text that a reader sees, block by block. Scripts, styles and the like are dropped.

The standard library's parser works by events, so nesting costs no stack; text is emitted once, in order.
"""

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Final

from services.retrieval.parsing.text import BlockTuple, Parsed, normalise

_DROPPED: Final = frozenset({
    "script", "style", "noscript", "template", "svg", "math", "iframe", "object", "select", "button", "head", "canvas",
})  # fmt: skip
_BLOCKS: Final = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html",
    "legend", "main", "nav", "p", "section", "summary",
})  # fmt: skip
_HEADINGS: Final = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_LINE_BLOCKS: Final = frozenset({"ul", "ol", "table", "pre"})
_LINES: Final = frozenset({"li", "tr", "br", "thead", "tbody", "tfoot"})
_CELLS: Final = frozenset({"td", "th"})


def parse(text: str) -> Parsed:
    """Visible text; lists, tables and preformatted text keep their lines."""
    reader = _Reader()
    reader.feed(normalise(text))
    reader.close()
    return reader.finish()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._length = 0
        self._blocks: list[BlockTuple] = []
        self._headings: list[tuple[int, str]] = []
        self._open: list[str] = []  # text of the block that is being read
        self._heading_level = 0
        self._dropped: list[str] = []
        self._line_blocks = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag in _DROPPED:
            self._dropped.append(tag)
        elif self._dropped and tag == "body":
            self._dropped.clear()  # a head that was never closed ends here
        if self._dropped:
            return
        if tag in _LINE_BLOCKS:
            self._enter_lines(tag)
        elif tag in _BLOCKS:
            self._break(heading_level=int(tag[1]) if tag in _HEADINGS else 0)
        elif tag in _LINES:
            self._open.append("\n")
        elif tag in _CELLS:
            self._open.append("\t")

    def handle_endtag(self, tag: str) -> None:
        if self._dropped:
            if tag in self._dropped:
                del self._dropped[self._dropped.index(tag) :]
            return
        if tag in _LINE_BLOCKS and self._line_blocks:
            self._line_blocks -= 1
            self._preformatted -= tag == "pre" and self._preformatted > 0
            if self._line_blocks == 0:
                self._close_block("lines")
        elif tag in _BLOCKS:
            self._break(heading_level=0)

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        if self._preformatted:
            self._open.append(data)
            return
        words = " ".join(data.split())
        before = " " if data[:1].isspace() else ""
        after = " " if words and data[-1:].isspace() else ""
        self._open.append(before + words + after)

    def finish(self) -> Parsed:
        """The whole text and its blocks."""
        self._close_block("lines" if self._line_blocks else "paragraph")
        return "".join(self._pieces), self._blocks

    def _enter_lines(self, tag: str) -> None:
        if self._line_blocks == 0 and not "".join(self._open).rstrip().endswith(":"):
            self._close_block("paragraph")
        self._line_blocks += 1
        self._preformatted += tag == "pre"
        self._open.append("\n")

    def _break(self, *, heading_level: int) -> None:
        """A block begins or ends here; inside lists and tables it is a new line."""
        if self._line_blocks:
            self._open.append("\n")
            return
        if not heading_level and self._announces_lines():
            return
        self._close_block("heading" if self._heading_level else "paragraph")
        self._heading_level = heading_level

    def _announces_lines(self) -> bool:
        """A paragraph that ends in a colon stays open for the list, table or code that it announces."""
        if self._heading_level or not "".join(self._open).rstrip().endswith(":"):
            return False
        self._open.append("\n")
        return True

    def _close_block(self, kind: str) -> None:
        content = _tidy("".join(self._open))
        self._open.clear()
        if not content:
            return
        if self._pieces:
            self._pieces.append("\n\n")
            self._length += 2
        start = self._length
        self._pieces.append(content)
        self._length += len(content)
        above = tuple(title for _, title in self._headings)
        if self._heading_level:
            above = self._enter_heading(content)
        self._blocks.append((start, self._length, kind, above, 0))

    def _enter_heading(self, title: str) -> tuple[str, ...]:
        while self._headings and self._headings[-1][0] >= self._heading_level:
            self._headings.pop()
        above = tuple(text for _, text in self._headings)
        self._headings.append((self._heading_level, title))
        return above


def _tidy(content: str) -> str:
    """No white space at the ends of lines, no blank lines; indentation stays, for code."""
    lines = (line.rstrip() for line in content.split("\n"))
    return "\n".join(line for line in lines if line).strip()
