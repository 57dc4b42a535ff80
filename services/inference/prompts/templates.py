"""Templates of system texts: `{{name}}` stands for a variable, and that is all they can do.

A template is cut into pieces once; filling it joins them. Values are never read as templates, so whatever stands in one
stays text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}", re.ASCII)

_OPENING: Final = re.compile(r"(\\*)\{\{")
_CLOSING: Final = "}}"
_SHOWN_CHARS: Final = 40


@dataclass(frozen=True, slots=True)
class Place:
    """Where the value of a variable goes; `source` is what the template has there, at `offset`."""

    name: str
    source: str
    offset: int


Piece: TypeAlias = str | Place


class TemplateError(Exception):
    """A template cannot be read; the message tells the line, the column, and what would be right."""


def parse(template: str) -> tuple[Piece, ...]:
    r"""The pieces of a template, none of them empty.

    Backslashes count only before `{{`: each pair of them is one, and one that is left makes the braces text.

    Raises:
        TemplateError: braces are not closed, or hold something else than a name.
    """
    pieces: list[Piece] = []
    text, at = "", 0
    for opening in _OPENING.finditer(template):
        if opening.start() < at:
            continue
        slashes = len(opening[1])
        text += template[at : opening.start()] + "\\" * (slashes // 2)
        at = opening.end()
        if slashes % 2:
            text += "{{"
            continue
        start = opening.end() - 2
        end = template.find(_CLOSING, at)
        if end < 0:
            raise TemplateError(f"{position(template, start)}: the braces that open here are never closed")
        name = template[at:end].strip(" \t")
        if NAME.fullmatch(name) is None:
            raise TemplateError(
                f"{position(template, start)}: {name[:_SHOWN_CHARS]!r} is no name of a variable; write \\{{{{ where "
                "two braces are meant"
            )
        at = end + len(_CLOSING)
        if text:
            pieces.append(text)
        pieces.append(Place(name, template[start:at], start))
        text = ""
    text += template[at:]
    return (*pieces, text) if text else tuple(pieces)


def fill(pieces: tuple[Piece, ...], values: Mapping[str, str]) -> str:
    """The text with its values; a place without one is left as the template has it."""
    return "".join(piece if isinstance(piece, str) else values.get(piece.name, piece.source) for piece in pieces)


def position(template: str, offset: int) -> str:
    """Where an offset is, as people count."""
    before = template[:offset]
    return f"line {before.count(chr(10)) + 1}, column {offset - before.rfind(chr(10))}"
