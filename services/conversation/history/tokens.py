"""About how many tokens a text has, without a tokenizer: good enough to say when a history has become long."""

from typing import Final

ASCII_PER_TOKEN: Final = 4
"""Characters of English prose on a token, about."""


def tokens_of(text: str) -> int:
    """Tokens of a text; other letters than those of English count as one each, which is true of Chinese."""
    plain = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return -(-plain // ASCII_PER_TOKEN) + len(text) - plain
