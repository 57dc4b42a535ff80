"""Estimates of tokens without a tokenizer: nothing is downloaded, and the error is on the safe side.

The provider's own count settles usage and cost; an estimate only decides what fits and what an aborted call consumed.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

# Role marks and separators around each message (3 to 4 in the chat formats of both vendors).
MESSAGE_TOKENS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEstimate:
    """Counts tokens by characters.

    Attributes:
        ascii_chars_per_token: ASCII characters that a token holds on average, rounded down for safety.
        tokens_per_other_char: tokens for any other character; 1 covers Chinese, and is generous for Cyrillic or Greek.
    """

    ascii_chars_per_token: float
    tokens_per_other_char: float = 1.0

    def of(self, text: str) -> int:
        """Tokens of a text; 0 for the empty one."""
        plain = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
        return ceil(plain / self.ascii_chars_per_token + (len(text) - plain) * self.tokens_per_other_char)

    def of_message(self, text: str) -> int:
        """Tokens of a message with its marks."""
        return self.of(text) + MESSAGE_TOKENS
