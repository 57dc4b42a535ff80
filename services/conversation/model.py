"""Conversations, messages and turns, and what must always hold of them.

Knows neither gRPC, SQL nor protobuf. Offsets count Unicode code points; money is in millionths of a US dollar.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NewType

from services.conversation.bounds import check_text
from services.conversation.context import ContextReport, PromptReference
from services.mesh.errors import invalid_field

ConversationId = NewType("ConversationId", str)
MessageId = NewType("MessageId", str)
TurnId = NewType("TurnId", str)

TITLE_LENGTH_MAX: Final = 200
SYSTEM_PROMPT_LENGTH_MAX: Final = 32_000
EXAMPLES_MAX: Final = 32
EXAMPLE_LENGTH_MAX: Final = 32_000
IMPORTED_MESSAGES_MAX: Final = 1_000
TEXT_LENGTH_MAX: Final = 100_000
COMMENT_LENGTH_MAX: Final = 2_000
NAME_LENGTH_MAX: Final = 200
"""Of a model's name and of a foreign id; the service that owns them judges their form."""
STOP_TEXTS_MAX: Final = 4
STOP_TEXT_LENGTH_MAX: Final = 200
TEMPERATURE_MAX: Final = 2.0
TURNS_WAITING_MAX: Final = 16
"""Of a conversation."""
ANSWER_PART_ID: Final = "p1"
"""Answers have one part until tools and reasoning bring more."""
_TITLE_FROM_QUESTION_LENGTH: Final = 60


class Role(StrEnum):
    """Who wrote a message."""

    USER = "user"
    ASSISTANT = "assistant"


class MessageState(StrEnum):
    """How complete a message is; every state but the first is final."""

    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    FAILED = "failed"


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    NO_EVIDENCE = "no_evidence"
    CANCELLED = "cancelled"
    ERROR = "error"


class TurnState(StrEnum):
    """Where a turn stands.

    WAITING, for the turns before it, comes first if at all; QUEUED and RUNNING alternate over attempts; the other
    states are final.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether nothing changes any more."""
        return self not in ACTIVE_STATES


ACTIVE_STATES: Final = frozenset({TurnState.WAITING, TurnState.QUEUED, TurnState.RUNNING})
MESSAGE_STATE_OF: Final[Mapping[TurnState, MessageState]] = MappingProxyType(
    {
        TurnState.WAITING: MessageState.IN_PROGRESS,
        TurnState.QUEUED: MessageState.IN_PROGRESS,
        TurnState.RUNNING: MessageState.IN_PROGRESS,
        TurnState.COMPLETED: MessageState.COMPLETE,
        TurnState.CANCELLED: MessageState.CANCELLED,
        TurnState.FAILED: MessageState.FAILED,
    }
)
"""The state of a turn's answer follows from the turn's."""


class OnConflict(StrEnum):
    """What becomes of a turn when another one of its conversation has not ended."""

    REJECT = "reject"
    QUEUE = "queue"
    CANCEL_RUNNING = "cancel_running"


class RetrievalMode(StrEnum):
    """When a turn searches its knowledge base."""

    ALWAYS = "always"
    SELECTIVE = "selective"
    NEVER = "never"


class RetrievalDecision(StrEnum):
    """What the gate decided; NONE when no knowledge base was asked for."""

    NONE = "none"
    RETRIEVED = "retrieved"
    WEAK = "weak"
    SKIPPED = "skipped"


class Rating(StrEnum):
    """A judgement of an answer."""

    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a conversation is: one user's of one organization. Both are in the WHERE of every query."""

    organization_id: str
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """What makes a call safe to repeat; kept in the same transaction as what the call creates."""

    method: str
    request_id: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Example:
    """A question with the answer that the model shall imitate."""

    user: str
    assistant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationSettings:
    """What a conversation's turns use unless they say otherwise. Empty text means the platform's default, or none."""

    title: str = ""
    model: str = ""
    system_prompt: str = ""
    examples: tuple[Example, ...] = ()
    knowledge_base_id: str = ""
    retrieval_mode: RetrievalMode = RetrievalMode.SELECTIVE
    prompt: PromptReference | None = None

    def __post_init__(self) -> None:
        check_text("title", self.title, TITLE_LENGTH_MAX)
        check_text("model", self.model, NAME_LENGTH_MAX)
        check_text("system_prompt", self.system_prompt, SYSTEM_PROMPT_LENGTH_MAX)
        check_text("knowledge_base_id", self.knowledge_base_id, NAME_LENGTH_MAX)
        if len(self.examples) > EXAMPLES_MAX:
            raise invalid_field("examples", f"at most {EXAMPLES_MAX} examples")
        for index, example in enumerate(self.examples):
            check_text(f"examples[{index}].user", example.user, EXAMPLE_LENGTH_MAX, length_min=1)
            check_text(f"examples[{index}].assistant", example.assistant, EXAMPLE_LENGTH_MAX, length_min=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A tree of messages with the settings of its turns.

    Attributes:
        leaf_message_id: newest message of the branch that was written last; empty when there is none.
        etag: changes with the settings only, so that a running answer does not disturb an editor.
    """

    id: ConversationId
    settings: ConversationSettings
    leaf_message_id: str
    create_time: datetime
    update_time: datetime
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an answer consumed. `cost_micros` is None when the price is unknown, which is not zero."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """Ties a range of an answer to a range of a document; see `parley.conversation.v1.Citation`."""

    document_id: str
    document_version: int
    document_name: str
    knowledge_base_id: str
    chunk_id: str
    part_id: str
    start: int
    end: int
    source_start: int
    source_end: int
    quote: str
    locator: str
    score: float
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePassage:
    """A passage that the model was given."""

    chunk_id: str
    document_id: str
    document_name: str
    score: float
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalTrace:
    """What was searched and found."""

    decision: RetrievalDecision = RetrievalDecision.NONE
    probability: float = 0.0
    passages: tuple[TracePassage, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnError:
    """Why a turn failed, safe to show. `reason` is the name of an error reason."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One node of a conversation's tree.

    Attributes:
        text: of the one part; None for an answer whose part has not begun.
        last_sequence: the latest event that is folded into an answer.
        revision_of: the sibling that it was made from.
    """

    id: MessageId
    conversation_id: ConversationId
    parent_id: str
    role: Role
    text: str | None
    state: MessageState
    create_time: datetime
    update_time: datetime
    citations: tuple[Citation, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: TurnError | None = None
    turn_id: str = ""
    model: str = ""
    retrieval: RetrievalTrace | None = None
    last_sequence: int = 0
    revision_of: str = ""
    context: ContextReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """What shapes an answer. None means the provider's default."""

    temperature: float | None = None
    top_p: float | None = None
    output_tokens_max: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        # The comparisons are written so that NaN fails them.
        if self.temperature is not None and not 0 <= self.temperature <= TEMPERATURE_MAX:
            raise invalid_field("parameters.temperature", "0 to 2")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise invalid_field("parameters.top_p", "0 to 1")
        if self.output_tokens_max is not None and self.output_tokens_max < 1:
            raise invalid_field("parameters.output_tokens_max", "1 or more")
        if len(self.stop) > STOP_TEXTS_MAX:
            raise invalid_field("parameters.stop", f"at most {STOP_TEXTS_MAX} texts")
        for index, text in enumerate(self.stop):
            check_text(f"parameters.stop[{index}]", text, STOP_TEXT_LENGTH_MAX, length_min=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOptions:
    """How a turn shall be answered, with the conversation's settings already filled in where the caller was silent.

    Attributes:
        prompt: that the conversation named; where an alias leads is settled by the first attempt that begins.
    """

    model: str = ""
    knowledge_base_id: str = ""
    retrieval_mode: RetrievalMode = RetrievalMode.SELECTIVE
    parameters: GenerationParameters = GenerationParameters()
    prompt: PromptReference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOverrides:
    """What a caller asked for one turn; empty and None mean the conversation's settings."""

    model: str = ""
    knowledge_base_id: str = ""
    retrieval_mode: RetrievalMode | None = None
    parameters: GenerationParameters = GenerationParameters()

    def __post_init__(self) -> None:
        check_text("model", self.model, NAME_LENGTH_MAX)
        check_text("knowledge_base_id", self.knowledge_base_id, NAME_LENGTH_MAX)

    def over(self, settings: ConversationSettings) -> TurnOptions:
        """The options of the turn; fixed when it is accepted, so that a later change of settings does not move it."""
        return TurnOptions(
            model=self.model or settings.model,
            knowledge_base_id=self.knowledge_base_id or settings.knowledge_base_id,
            retrieval_mode=self.retrieval_mode or settings.retrieval_mode,
            parameters=self.parameters,
            prompt=settings.prompt,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and the work of answering it."""

    id: TurnId
    conversation_id: ConversationId
    state: TurnState
    user_message_id: MessageId
    assistant_message_id: MessageId
    attempt: int
    last_sequence: int
    options: TurnOptions
    create_time: datetime
    error: TurnError | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One user's judgement of one answer."""

    message_id: MessageId
    rating: Rating
    comment: str
    update_time: datetime


def title_of(question: str) -> str:
    """A title from the first question: its beginning up to a word's end, on one line."""
    line = " ".join(question.split())
    if len(line) <= _TITLE_FROM_QUESTION_LENGTH:
        return line
    beginning = line[: _TITLE_FROM_QUESTION_LENGTH + 1]
    words, space, _ = beginning.rpartition(" ")
    return (words if space else beginning[:-1]).rstrip() + "…"
