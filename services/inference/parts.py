"""Pieces of messages and answers that are more than text, and the tools and formats that they belong to.

Knows neither the wire nor any provider. JSON is kept as the text that its author wrote: nothing is lost in numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from services.mesh.errors import invalid_field

# Bounds, as the contract states them.
TOOLS_MAX: Final = 256
PARTS_MAX: Final = 1_000
TOOL_NAME_CHARS_MAX: Final = 128
EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text or Markdown."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture, by value or by address; `detail` is how closely OpenAI's models look."""

    media_type: str = ""
    data: bytes = field(default=b"", repr=False)
    url: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.url):
            raise invalid_field("prompt.messages", "an image must have either data or a url")
        if self.data and not self.media_type.startswith("image/"):
            raise invalid_field("prompt.messages", "an image with data must have a media type such as image/png")
        if self.url and not self.url.startswith("https://"):
            raise invalid_field("prompt.messages", "the url of an image must begin with https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model's wish that a tool be run; `arguments` are JSON text, which need not be valid."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool gave for a call."""

    call_id: str
    parts: tuple[TextPart | Image, ...]
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """What a model thought; `signature` and `encrypted` are opaque and go back to the provider unchanged."""

    text: str = ""
    signature: str = ""
    encrypted: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model's word that it will not answer."""

    text: str


Part: TypeAlias = TextPart | Image | ToolCall | ToolResult | Reasoning | Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something that the model may ask to be run.

    Attributes:
        input_schema: the JSON schema of its arguments, as JSON text; empty for none.
        is_strict: whether arguments are bound to the schema; None leaves it to the provider.
    """

    name: str
    description: str = ""
    input_schema: str = ""
    is_strict: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= TOOL_NAME_CHARS_MAX:
            raise invalid_field("prompt.tools", f"must have names of 1 to {TOOL_NAME_CHARS_MAX} characters")


class ToolMode(StrEnum):
    """Whether tools must, may or must not be called."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Whether tools must be called, and several at once; None leaves it to the provider."""

    mode: ToolMode | None = None
    name: str = ""
    is_parallel: bool | None = None

    def __post_init__(self) -> None:
        if (self.mode is ToolMode.NAMED) != bool(self.name):
            raise invalid_field("parameters.tool_choice.name", "must be given with the mode that names a tool only")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """Binds an answer to JSON: that of a schema, or any object when `json_schema` is empty."""

    json_schema: str = ""
    name: str = ""
    description: str = ""
    is_strict: bool | None = None


class ReasoningMode(StrEnum):
    """Whether a model thinks before it answers."""

    OFF = "off"
    ADAPTIVE = "adaptive"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningWish:
    """How much the model shall think; what is empty is the provider's to choose."""

    mode: ReasoningMode | None = None
    effort: str = ""
    tokens_max: int = 0
    display: str = ""

    def __post_init__(self) -> None:
        if self.effort and self.effort not in EFFORTS:
            raise invalid_field("parameters.reasoning.effort", f"must be one of {', '.join(EFFORTS)}")
        if self.display not in {"", "summarized", "omitted"}:
            raise invalid_field("parameters.reasoning.display", "must be summarized or omitted")
        if self.tokens_max < 0 or (self.mode is ReasoningMode.BUDGET) != bool(self.tokens_max):
            raise invalid_field("parameters.reasoning.tokens_max", "must be 1 or more, in the mode with a budget only")


@dataclass(frozen=True, slots=True)
class PartDelta:
    """A piece of the tool call or reasoning with this number; its texts are appended to those so far."""

    number: int
    piece: ToolCall | Reasoning


def text_of(parts: Iterable[Part]) -> str:
    """All that a person may read of some parts, that of tools' results included; what tokens are estimated by."""
    return "".join(_words(part) for part in parts)


def _words(part: Part) -> str:
    match part:
        case TextPart(text) | Refusal(text):
            return text
        case ToolResult():
            return "".join(piece.text for piece in part.parts if isinstance(piece, TextPart))
        case Image() | ToolCall() | Reasoning():
            return ""


class PartsRead:
    """Gathers an answer's parts from its pieces, in the order in which they began."""

    def __init__(self) -> None:
        self._begun: list[_Words | _Growing] = []
        self._by_number: dict[int, _Growing] = {}

    def add_text(self, text: str, *, is_refusal: bool) -> None:
        """Text goes on, or begins after another part."""
        last = self._begun[-1] if self._begun else None
        if not isinstance(last, _Words) or last.is_refusal != is_refusal:
            last = _Words(is_refusal=is_refusal)
            self._begun.append(last)
        last.texts.append(text)

    def add(self, delta: PartDelta) -> None:
        """A piece of a part that is not text."""
        growing = self._by_number.get(delta.number)
        if growing is None:
            growing = self._by_number[delta.number] = _Growing()
            self._begun.append(growing)
        growing.pieces.append(delta.piece)

    def parts(self) -> tuple[Part, ...]:
        """The parts; none when there is nothing but text."""
        if all(isinstance(one, _Words) and not one.is_refusal for one in self._begun):
            return ()
        return tuple(one.part() for one in self._begun)


class _Words:
    """Text in pieces."""

    __slots__ = ("is_refusal", "texts")

    def __init__(self, *, is_refusal: bool) -> None:
        self.texts: list[str] = []
        self.is_refusal = is_refusal

    def part(self) -> TextPart | Refusal:
        text = "".join(self.texts)
        return Refusal(text) if self.is_refusal else TextPart(text)


class _Growing:
    """A tool call or reasoning in pieces."""

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[ToolCall | Reasoning] = []

    def part(self) -> ToolCall | Reasoning:
        calls = [piece for piece in self.pieces if isinstance(piece, ToolCall)]
        if calls:
            return ToolCall(
                id="".join(piece.id for piece in calls),
                name="".join(piece.name for piece in calls),
                arguments="".join(piece.arguments for piece in calls),
            )
        thoughts = [piece for piece in self.pieces if isinstance(piece, Reasoning)]
        return Reasoning(
            text="".join(piece.text for piece in thoughts),
            signature="".join(piece.signature for piece in thoughts),
            encrypted="".join(piece.encrypted for piece in thoughts),
        )
