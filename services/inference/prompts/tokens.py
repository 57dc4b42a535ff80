"""Estimates of tokens without a tokenizer: nothing is downloaded, and the error is on the safe side.

The provider's own count settles usage and cost; an estimate only decides what fits and what an aborted call consumed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Final, assert_never

from services.inference.parts import Image, Part, Reasoning, Refusal, TextPart, Tool, ToolCall, ToolResult

# Role marks and separators around each message (3 to 4 in the chat formats of both vendors).
MESSAGE_TOKENS: Final = 4
# Anthropic scales pictures down to about 1.15 megapixels, which are 1,568 tokens at 750 pixels each; OpenAI's models
# spend up to 1,445 on one (both vendors' pages on images, 2026).
IMAGE_TOKENS: Final = 1_600
# What stands around a tool's name, description and schema, and what a model is told once about calling tools
# (Anthropic's page on tool use names 290 to 800 for the models of 2026).
TOOL_TOKENS: Final = 16
TOOL_USE_TOKENS: Final = 500


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

    def of_parts(self, parts: Iterable[Part]) -> int:
        """Tokens of parts of a message, without its marks."""
        return sum(self._of_part(part) for part in parts)

    def of_tools(self, tools: Iterable[Tool]) -> int:
        """Tokens of what the model is told about tools; 0 without any."""
        sizes = [self.of(tool.name + tool.description + tool.input_schema) + TOOL_TOKENS for tool in tools]
        return sum(sizes) + TOOL_USE_TOKENS if sizes else 0

    def _of_part(self, part: Part) -> int:
        match part:
            case TextPart(text) | Refusal(text):
                return self.of(text)
            case Image():
                return IMAGE_TOKENS
            case ToolCall():
                return self.of(part.name + part.arguments) + TOOL_TOKENS
            case ToolResult():
                return self.of_parts(part.parts) + TOOL_TOKENS
            case Reasoning():
                return self.of(part.text or part.encrypted)
            case _:
                assert_never(part)
