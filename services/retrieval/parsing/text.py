"""Plain text: paragraphs are what blank lines part. Also the normal form of all text that is stored."""

import re
import unicodedata

from services.retrieval.parsing.outcome import Limits, too_large, unreadable

BlockTuple = tuple[int, int, str, tuple[str, ...], int]
"""start, end, kind, headings, page: what the child sends per block."""
Parsed = tuple[str, list[BlockTuple]]

_LINE_END = re.compile(r"\r\n?|[\u2028\u0085\x0b]")
_PARAGRAPH_MARK = re.compile(r"[\u2029\x0c]")
# What remains of the controls, and what PostgreSQL or UTF-8 cannot hold.
_DROPPED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
_BLANK_LINES = re.compile(r"\n[ \t]*(?=\n)")
_GARBLED = re.compile(r"[\ufffd\ue000-\uf8ff]")
_GARBLED_SHARE_MAX = 0.05


def normalise(text: str) -> str:
    """One form for all stored text: NFC, line feeds as line ends, no controls but tab and line feed."""
    text = _LINE_END.sub("\n", text)
    text = _PARAGRAPH_MARK.sub("\n\n", text)
    return unicodedata.normalize("NFC", _DROPPED.sub("", text))


def parse(text: str) -> Parsed:
    """Text as it is, cut at blank lines."""
    text = normalise(text)
    return text, [(*span, "paragraph", (), 0) for span in paragraphs(text)]


def paragraphs(text: str, offset: int = 0) -> list[tuple[int, int]]:
    """Spans of the paragraphs of `text`, without white space around them, moved by `offset`."""
    spans: list[tuple[int, int]] = []
    start = 0
    for gap in (*(found.start() for found in _BLANK_LINES.finditer(text)), len(text)):
        piece = text[start:gap]
        words = piece.strip()
        if words:
            first = offset + start + piece.index(words[0])
            spans.append((first, first + len(words)))
        start = gap
    return spans


def check(text: str, limits: Limits) -> None:
    """Holds the limits of every kind of document.

    Raises:
        Refusal: the text is too long, empty or garbled.
    """
    if len(text) > limits.characters_max:
        raise too_large(f"the text is longer than {limits.characters_max} characters", limits.characters_max)
    if not any(character.isalnum() for character in text):
        raise unreadable("the file holds no text; a scan must go through text recognition first")
    if len(_GARBLED.findall(text)) > _GARBLED_SHARE_MAX * len(text):
        raise unreadable("the text is garbled: its fonts do not say which characters they show")
