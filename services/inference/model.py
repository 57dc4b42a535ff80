"""What inference speaks of: prompts, parameters, events and answers, with their bounds.

Knows neither the wire nor any provider. Text offsets are in Unicode code points.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from services.inference.omissions import Omission
from services.inference.parts import (
    PARTS_MAX,
    TOOLS_MAX,
    AnswerFormat,
    Part,
    PartDelta,
    ReasoningWish,
    Tool,
    ToolChoice,
    ToolResult,
    text_of,
)
from services.inference.prompts.reference import PromptReference
from services.mesh.errors import invalid_field

# Bounds of a prompt, as the contract states them.
SYSTEM_CHARS_MAX: Final = 400_000
EXAMPLES_MAX: Final = 32
MESSAGES_MAX: Final = 1_000
PASSAGES_MAX: Final = 50
SUMMARY_CHARS_MAX: Final = 32_000
CONTINUE_FROM_CHARS_MAX: Final = 400_000
STOP_TEXTS_MAX: Final = 4
FALLBACK_MODELS_MAX: Final = 8
MODEL_NAME_CHARS_MAX: Final = 200
TEMPERATURE_MAX: Final = 2.0


class Role(StrEnum):
    """Who wrote a message of the prompt."""

    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    NO_EVIDENCE = "no_evidence"
    TOOL_CALLS = "tool_calls"


class CacheUse(StrEnum):
    """What a caller lets the cache do, where the route has one."""

    ROUTE = "route"
    REFRESH = "refresh"
    OFF = "off"


class HitKind(StrEnum):
    """Where an answer came from that was not made for the call."""

    EXACT = "exact"
    SEMANTIC = "semantic"
    SHARED = "shared"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class CacheHit:
    """The answer was not made for this call; `age_s` is how long ago it was."""

    kind: HitKind
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the conversation so far.

    Attributes:
        text: all of it, or the words in its parts.
        parts: everything in its order when it is more than text; empty otherwise.
    """

    role: Role
    text: str
    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, role: Role, parts: tuple[Part, ...]) -> "Message":
        """A message of parts.

        Raises:
            InvalidArgument: too many.
        """
        if len(parts) > PARTS_MAX:
            raise invalid_field("prompt.messages", f"must hold messages of at most {PARTS_MAX} parts")
        return cls(role, text_of(parts), parts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said or shown."""
        return not self.parts and not self.text.strip()

    @property
    def answers_tools(self) -> bool:
        """Whether it holds results of tools, which must not be parted from the calls before it."""
        return any(isinstance(part, ToolResult) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Example:
    """A question with the answer that the model shall imitate."""

    user: str
    assistant: str


@dataclass(frozen=True, slots=True)
class Passage:
    """Evidence that the model may cite by its number, counted from 1 in the order given."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Everything the model shall read.

    Attributes:
        system: instructions of the conversation.
        examples: few-shot pairs.
        messages: the conversation, oldest first; the last one is the person's question.
        passages: evidence, best first.
        input_tokens_max: budget; 0 means the model's window less the answer.
        tools: what the model may ask to be run.
        summary: stands for what was said before the messages.

    Raises:
        InvalidArgument: a bound of the contract is passed, or there is no question.
    """

    messages: tuple[Message, ...]
    system: str = ""
    examples: tuple[Example, ...] = ()
    passages: tuple[Passage, ...] = ()
    input_tokens_max: int = 0
    tools: tuple[Tool, ...] = ()
    summary: str = ""

    def __post_init__(self) -> None:
        if len(self.system) > SYSTEM_CHARS_MAX:
            raise invalid_field("prompt.system", f"must hold at most {SYSTEM_CHARS_MAX} characters")
        if len(self.examples) > EXAMPLES_MAX:
            raise invalid_field("prompt.examples", f"must hold at most {EXAMPLES_MAX} examples")
        if len(self.messages) > MESSAGES_MAX:
            raise invalid_field("prompt.messages", f"must hold at most {MESSAGES_MAX} messages")
        if len(self.passages) > PASSAGES_MAX:
            raise invalid_field("prompt.passages", f"must hold at most {PASSAGES_MAX} passages")
        if len(self.summary) > SUMMARY_CHARS_MAX:
            raise invalid_field("prompt.summary", f"must hold at most {SUMMARY_CHARS_MAX} characters")
        if self.input_tokens_max < 0:
            raise invalid_field("prompt.input_tokens_max", "must be 0 or more")
        if len(self.tools) > TOOLS_MAX:
            raise invalid_field("prompt.tools", f"must hold at most {TOOLS_MAX} tools")
        if not self.messages or self.messages[-1].role is not Role.USER or self.messages[-1].is_empty:
            raise invalid_field("prompt.messages", "must end with the user's question, which must not be empty")

    @property
    def question_at(self) -> int:
        """Index of the person's last message: after it there are only calls of tools and their results."""
        for index in range(len(self.messages) - 1, 0, -1):
            message = self.messages[index]
            if message.role is Role.USER and not message.answers_tools:
                return index
        return 0

    @property
    def question(self) -> str:
        """The words of the person's last message."""
        return self.messages[self.question_at].text


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How the answer shall be shaped; None means the provider's default.

    Raises:
        InvalidArgument: a value is out of the contract's bounds.
    """

    temperature: float | None = None
    top_p: float | None = None
    output_tokens_max: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tool_choice: ToolChoice | None = None
    format: AnswerFormat | None = None
    reasoning: ReasoningWish | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature <= TEMPERATURE_MAX:
            raise invalid_field("parameters.temperature", f"must be from 0 to {TEMPERATURE_MAX:g}")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise invalid_field("parameters.top_p", "must be from 0 to 1")
        if self.output_tokens_max is not None and self.output_tokens_max < 1:
            raise invalid_field("parameters.output_tokens_max", "must be 1 or more")
        if len(self.stop) > STOP_TEXTS_MAX:
            raise invalid_field("parameters.stop", f"must hold at most {STOP_TEXTS_MAX} texts")
        if not all(self.stop):
            raise invalid_field("parameters.stop", "must not hold an empty text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A wish for an answer.

    Attributes:
        model: `<provider>/<model>`; the platform's default when empty.
        fallback_models: tried in order; the platform's list when empty.
        accepts_restart: the reader can take back what it was sent, when an answer has to begin again.
        cache: what the cache may do.
        continue_from: the answer as far as an earlier call got with it.
        prompt_ref: prompt whose text and examples precede those of `prompt`; None for none, and once they do.
        prompt_revision: revision that `prompt_ref` led to, `<prompt id>/<number>`; empty without one.

    Raises:
        InvalidArgument: too many fallback models, or a name or text that is too long.
    """

    prompt: Prompt
    model: str = ""
    fallback_models: tuple[str, ...] = ()
    parameters: Parameters = field(default_factory=Parameters)
    accepts_restart: bool = False
    cache: CacheUse = CacheUse.ROUTE
    continue_from: str = ""
    prompt_ref: PromptReference | None = None
    prompt_revision: str = ""

    def __post_init__(self) -> None:
        if len(self.continue_from) > CONTINUE_FROM_CHARS_MAX:
            raise invalid_field("continue_from", f"must hold at most {CONTINUE_FROM_CHARS_MAX} characters")
        if len(self.model) > MODEL_NAME_CHARS_MAX:
            raise invalid_field("model", f"must hold at most {MODEL_NAME_CHARS_MAX} characters")
        if len(self.fallback_models) > FALLBACK_MODELS_MAX:
            raise invalid_field("fallback_models", f"must hold at most {FALLBACK_MODELS_MAX} models")
        if any(not name or len(name) > MODEL_NAME_CHARS_MAX for name in self.fallback_models):
            raise invalid_field("fallback_models", f"must hold names of 1 to {MODEL_NAME_CHARS_MAX} characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageCitation:
    """Ties the range `start:end` of the answer to the range `source_start:source_end` of a passage's text."""

    passage: int
    start: int
    end: int
    source_start: int
    source_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextReport:
    """What the model was given, in tokens, and how much was left out.

    Attributes:
        examples_unranked: the nearest examples were wanted and could not be found, so that the first ones were given.
    """

    system_tokens: int = 0
    example_tokens: int = 0
    history_tokens: int = 0
    passage_tokens: int = 0
    summary_tokens: int = 0
    messages_dropped: int = 0
    passages_dropped: int = 0
    omissions: tuple[Omission, ...] = ()
    examples_unranked: bool = False

    @property
    def input_tokens(self) -> int:
        """All that the model reads."""
        given = self.system_tokens + self.example_tokens + self.history_tokens + self.passage_tokens
        return given + self.summary_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an answer consumed.

    Attributes:
        input_tokens: read, cached ones included.
        output_tokens: written, reasoning included.
        cost_micros: millionths of a US dollar; None when the price is unknown, which is not zero.
        estimated: counted here, because the provider did not report it.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole generated answer; `model` is what answered, not always what was asked.

    Attributes:
        text: what was said, a refusal's words included.
        parts: everything in its order when it is more than text; empty otherwise.
        stop_text: which of the stop texts ended it, where the provider tells.
        refusal_category: the provider's word for why it refused, where it tells.
        cache: set when it was not made for this call, whose usage is nothing then.
        prompt_revision: revision of the prompt that was named, `<prompt id>/<number>`; empty when none was.
    """

    text: str
    citations: tuple[PassageCitation, ...]
    finish_reason: FinishReason
    model: str
    usage: Usage
    context: ContextReport
    parts: tuple[Part, ...] = ()
    stop_text: str = ""
    refusal_category: str = ""
    cache: CacheHit | None = None
    prompt_revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Opens an answer, whose text before `offset` its reader has."""

    model: str
    context: ContextReport
    cache: CacheHit | None = None
    offset: int = 0
    prompt_revision: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer; `offset` is that of its first code point."""

    offset: int
    text: str
    is_refusal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSwitched:
    """Another model goes on; `reason` is the name of an ErrorReason."""

    from_model: str
    to_model: str
    reason: str
    offset: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Closes an answer."""

    answer: Answer


Event: TypeAlias = Started | TextDelta | PartDelta | PassageCitation | ProviderSwitched | Finished
