"""Rows of the schema `conversation` <-> model. JSON columns hold the fields of the dataclasses by their names."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import RowMapping

from services.conversation.context import ContextPart, ContextReport, Omission, OmissionReason, PromptReference
from services.conversation.model import (
    Citation,
    Conversation,
    ConversationId,
    ConversationSettings,
    Example,
    Feedback,
    FinishReason,
    GenerationParameters,
    Message,
    MessageId,
    MessageState,
    Rating,
    RetrievalDecision,
    RetrievalMode,
    RetrievalTrace,
    Role,
    TracePassage,
    Turn,
    TurnError,
    TurnId,
    TurnOptions,
    TurnState,
    Usage,
)

MESSAGE_COLUMNS: Final = (
    "id", "conversation_id", "parent_id", "role", "text", "state", "create_time", "update_time", "citations",
    "finish_reason", "usage", "error", "turn_id", "model", "retrieval", "last_sequence", "revision_of",
    "context",
)  # fmt: skip
TURN_COLUMNS: Final = (
    "id", "conversation_id", "state", "user_message_id", "assistant_message_id", "attempt", "options", "create_time",
    "error", "start_time", "end_time",
)  # fmt: skip

SETTINGS_COLUMNS: Final = (
    "title", "model", "system_prompt", "examples", "knowledge_base_id", "retrieval_mode", "prompt",
)  # fmt: skip

Json = dict[str, Any]  # Any: a JSON object
Row: TypeAlias = RowMapping | Mapping[str, Any]  # Any: columns hold anything


def settings_values(settings: ConversationSettings) -> Json:
    """Columns of a conversation's settings."""
    return {
        "title": settings.title,
        "model": settings.model,
        "system_prompt": settings.system_prompt,
        "examples": [asdict(example) for example in settings.examples],
        "knowledge_base_id": settings.knowledge_base_id,
        "retrieval_mode": settings.retrieval_mode.value,
        "prompt": None if settings.prompt is None else asdict(settings.prompt),
    }


def settings_of(row: Row) -> ConversationSettings:
    """Settings of a row of `conversations`."""
    return ConversationSettings(
        title=row["title"],
        model=row["model"],
        system_prompt=row["system_prompt"],
        examples=tuple(Example(**example) for example in row["examples"]),
        knowledge_base_id=row["knowledge_base_id"],
        retrieval_mode=RetrievalMode(row["retrieval_mode"]),
        prompt=None if row["prompt"] is None else _reference_of(row["prompt"]),
    )


def conversation_of(row: Row) -> Conversation:
    """A row of `conversations`."""
    return Conversation(
        id=ConversationId(row["id"]),
        settings=settings_of(row),
        leaf_message_id=row["leaf_message_id"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=str(row["settings_revision"]),
    )


def message_of(row: Row, prefix: str = "") -> Message:
    """A row of `messages`; with a prefix, one of several in a joined row."""
    error, usage, retrieval = row[f"{prefix}error"], row[f"{prefix}usage"], row[f"{prefix}retrieval"]
    reason = row[f"{prefix}finish_reason"]
    return Message(
        id=MessageId(row[f"{prefix}id"]),
        conversation_id=ConversationId(row[f"{prefix}conversation_id"]),
        parent_id=row[f"{prefix}parent_id"],
        role=Role(row[f"{prefix}role"]),
        text=row[f"{prefix}text"],
        state=MessageState(row[f"{prefix}state"]),
        create_time=row[f"{prefix}create_time"],
        update_time=row[f"{prefix}update_time"],
        citations=tuple(Citation(**citation) for citation in row[f"{prefix}citations"]),
        finish_reason=None if reason is None else FinishReason(reason),
        usage=None if usage is None else Usage(**usage),
        error=error_of(error),
        turn_id=row[f"{prefix}turn_id"],
        model=row[f"{prefix}model"],
        retrieval=None if retrieval is None else _trace_of(retrieval),
        last_sequence=row[f"{prefix}last_sequence"],
        revision_of=row[f"{prefix}revision_of"],
        context=None if row[f"{prefix}context"] is None else _context_of(row[f"{prefix}context"]),
    )


def turn_of(row: Row, last_sequence: int, prefix: str = "") -> Turn:
    """A row of `turns`; `last_sequence` stands in the row of its answer."""
    return Turn(
        id=TurnId(row[f"{prefix}id"]),
        conversation_id=ConversationId(row[f"{prefix}conversation_id"]),
        state=TurnState(row[f"{prefix}state"]),
        user_message_id=MessageId(row[f"{prefix}user_message_id"]),
        assistant_message_id=MessageId(row[f"{prefix}assistant_message_id"]),
        attempt=row[f"{prefix}attempt"],
        last_sequence=last_sequence,
        options=options_of(row[f"{prefix}options"]),
        create_time=row[f"{prefix}create_time"],
        error=error_of(row[f"{prefix}error"]),
        start_time=row[f"{prefix}start_time"],
        end_time=row[f"{prefix}end_time"],
    )


def feedback_of(row: Row) -> Feedback:
    """A row of `feedback`."""
    update_time: datetime = row["update_time"]
    return Feedback(
        message_id=MessageId(row["message_id"]),
        rating=Rating(row["rating"]),
        comment=row["comment"],
        update_time=update_time,
    )


def json_of(value: Citation | Usage | TurnError | TurnOptions | RetrievalTrace | ContextReport | None) -> Json | None:
    """A dataclass as a JSON object; enums are strings already."""
    return None if value is None else asdict(value)


def error_of(value: Json | None) -> TurnError | None:
    """The reverse of `json_of` for errors."""
    return None if value is None else TurnError(**value)


def options_of(value: Json) -> TurnOptions:
    """The reverse of `json_of` for options."""
    parameters = dict(value["parameters"])
    parameters["stop"] = tuple(parameters["stop"])
    return TurnOptions(
        model=value["model"],
        knowledge_base_id=value["knowledge_base_id"],
        retrieval_mode=RetrievalMode(value["retrieval_mode"]),
        parameters=GenerationParameters(**parameters),
        prompt=None if value.get("prompt") is None else _reference_of(value["prompt"]),
    )


def _reference_of(value: Json) -> PromptReference:
    return PromptReference(**value | {"variables": tuple((name, text) for name, text in value["variables"])})


def _context_of(value: Json) -> ContextReport:
    omissions = tuple(
        Omission(ContextPart(one["part"]), OmissionReason(one["reason"]), one["count"]) for one in value["omissions"]
    )
    return ContextReport(**value | {"omissions": omissions})


def _trace_of(value: Json) -> RetrievalTrace:
    return RetrievalTrace(
        decision=RetrievalDecision(value["decision"]),
        probability=value["probability"],
        passages=tuple(TracePassage(**passage) for passage in value["passages"]),
    )
