"""Conversations, messages, turns and feedback, to the wire and from it."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from parley.common.v1 import usage_pb2
from parley.conversation.v1 import conversation_pb2, message_pb2, turn_pb2, turn_service_pb2
from services.conversation.model import (
    ANSWER_PART_ID,
    Citation,
    Conversation,
    Example,
    Feedback,
    FinishReason,
    GenerationParameters,
    Message,
    MessageState,
    OnConflict,
    Rating,
    RetrievalDecision,
    RetrievalMode,
    RetrievalTrace,
    Role,
    TracePassage,
    Turn,
    TurnError,
    TurnState,
    Usage,
)
from services.conversation.wire.context import context_to_wire, reference_to_wire
from services.mesh.errors import invalid_field

ROLES: Final[Mapping[Role, "message_pb2.Role.ValueType"]] = MappingProxyType(
    {Role.USER: message_pb2.ROLE_USER, Role.ASSISTANT: message_pb2.ROLE_ASSISTANT}
)
MESSAGE_STATES: Final[Mapping[MessageState, "message_pb2.MessageState.ValueType"]] = MappingProxyType(
    {
        MessageState.IN_PROGRESS: message_pb2.MESSAGE_STATE_IN_PROGRESS,
        MessageState.COMPLETE: message_pb2.MESSAGE_STATE_COMPLETE,
        MessageState.CANCELLED: message_pb2.MESSAGE_STATE_CANCELLED,
        MessageState.FAILED: message_pb2.MESSAGE_STATE_FAILED,
    }
)
FINISH_REASONS: Final[Mapping[FinishReason, "message_pb2.FinishReason.ValueType"]] = MappingProxyType(
    {
        FinishReason.STOP: message_pb2.FINISH_REASON_STOP,
        FinishReason.LENGTH: message_pb2.FINISH_REASON_LENGTH,
        FinishReason.CONTENT_FILTER: message_pb2.FINISH_REASON_CONTENT_FILTER,
        FinishReason.NO_EVIDENCE: message_pb2.FINISH_REASON_NO_EVIDENCE,
        FinishReason.CANCELLED: message_pb2.FINISH_REASON_CANCELLED,
        FinishReason.ERROR: message_pb2.FINISH_REASON_ERROR,
    }
)
TURN_STATES: Final[Mapping[TurnState, "turn_pb2.TurnState.ValueType"]] = MappingProxyType(
    {
        # Why a turn waits is nobody's business; the reverse of the one value is QUEUED, which therefore comes second.
        TurnState.WAITING: turn_pb2.TURN_STATE_QUEUED,
        TurnState.QUEUED: turn_pb2.TURN_STATE_QUEUED,
        TurnState.RUNNING: turn_pb2.TURN_STATE_RUNNING,
        TurnState.COMPLETED: turn_pb2.TURN_STATE_COMPLETED,
        TurnState.CANCELLED: turn_pb2.TURN_STATE_CANCELLED,
        TurnState.FAILED: turn_pb2.TURN_STATE_FAILED,
    }
)
RETRIEVAL_MODES: Final[Mapping[RetrievalMode, "conversation_pb2.RetrievalMode.ValueType"]] = MappingProxyType(
    {
        RetrievalMode.ALWAYS: conversation_pb2.RETRIEVAL_MODE_ALWAYS,
        RetrievalMode.SELECTIVE: conversation_pb2.RETRIEVAL_MODE_SELECTIVE,
        RetrievalMode.NEVER: conversation_pb2.RETRIEVAL_MODE_NEVER,
    }
)
RETRIEVAL_DECISIONS: Final[Mapping[RetrievalDecision, "message_pb2.RetrievalDecision.ValueType"]] = MappingProxyType(
    {
        RetrievalDecision.NONE: message_pb2.RETRIEVAL_DECISION_UNSPECIFIED,
        RetrievalDecision.RETRIEVED: message_pb2.RETRIEVAL_DECISION_RETRIEVED,
        RetrievalDecision.WEAK: message_pb2.RETRIEVAL_DECISION_WEAK,
        RetrievalDecision.SKIPPED: message_pb2.RETRIEVAL_DECISION_SKIPPED,
    }
)
RATINGS: Final[Mapping[Rating, "message_pb2.Rating.ValueType"]] = MappingProxyType(
    {Rating.GOOD: message_pb2.RATING_GOOD, Rating.BAD: message_pb2.RATING_BAD}
)


def time_to_wire(time: datetime) -> Timestamp:
    """An instant."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def conversation_to_wire(conversation: Conversation) -> conversation_pb2.Conversation:
    """A conversation."""
    settings = conversation.settings
    return conversation_pb2.Conversation(
        id=conversation.id,
        title=settings.title,
        model=settings.model,
        system_prompt=settings.system_prompt,
        examples=[
            conversation_pb2.Example(user=example.user, assistant=example.assistant) for example in settings.examples
        ],
        knowledge_base_id=settings.knowledge_base_id,
        retrieval_mode=RETRIEVAL_MODES[settings.retrieval_mode],
        leaf_message_id=conversation.leaf_message_id,
        create_time=time_to_wire(conversation.create_time),
        update_time=time_to_wire(conversation.update_time),
        etag=conversation.etag,
        prompt=None if settings.prompt is None else reference_to_wire(settings.prompt),
    )


def message_to_wire(message: Message) -> message_pb2.Message:
    """A message."""
    shown = message_pb2.Message(
        id=message.id,
        conversation_id=message.conversation_id,
        parent_id=message.parent_id,
        role=ROLES[message.role],
        citations=[citation_to_wire(citation) for citation in message.citations],
        state=MESSAGE_STATES[message.state],
        turn_id=message.turn_id,
        model=message.model,
        last_sequence=message.last_sequence,
        revision_of=message.revision_of,
        create_time=time_to_wire(message.create_time),
        update_time=time_to_wire(message.update_time),
    )
    if message.text is not None:
        shown.parts.add(id=ANSWER_PART_ID).text.text = message.text
    if message.finish_reason is not None:
        shown.finish_reason = FINISH_REASONS[message.finish_reason]
    if message.usage is not None:
        shown.usage.CopyFrom(usage_to_wire(message.usage))
    if message.error is not None:
        shown.error.CopyFrom(_error_to_wire(message.error))
    if message.retrieval is not None:
        shown.retrieval.CopyFrom(trace_to_wire(message.retrieval))
    if message.context is not None:
        shown.context.CopyFrom(context_to_wire(message.context))
    return shown


def turn_to_wire(turn: Turn) -> turn_pb2.Turn:
    """A turn."""
    shown = turn_pb2.Turn(
        id=turn.id,
        conversation_id=turn.conversation_id,
        state=TURN_STATES[turn.state],
        user_message_id=turn.user_message_id,
        assistant_message_id=turn.assistant_message_id,
        attempt=turn.attempt,
        last_sequence=turn.last_sequence,
        model=turn.options.model,
        create_time=time_to_wire(turn.create_time),
    )
    if turn.error is not None:
        shown.error.CopyFrom(_error_to_wire(turn.error))
    if turn.start_time is not None:
        shown.start_time.CopyFrom(time_to_wire(turn.start_time))
    if turn.end_time is not None:
        shown.end_time.CopyFrom(time_to_wire(turn.end_time))
    return shown


def feedback_to_wire(feedback: Feedback) -> message_pb2.Feedback:
    """A judgement."""
    return message_pb2.Feedback(
        message_id=feedback.message_id,
        rating=RATINGS[feedback.rating],
        comment=feedback.comment,
        update_time=time_to_wire(feedback.update_time),
    )


def usage_to_wire(usage: Usage) -> usage_pb2.Usage:
    """What was consumed."""
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_micros=usage.cost_micros,
        estimated=usage.estimated,
    )


def usage_of(usage: usage_pb2.Usage) -> Usage:
    """What was consumed."""
    return Usage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_micros=usage.cost_micros if usage.HasField("cost_micros") else None,
        estimated=usage.estimated,
    )


def citation_to_wire(citation: Citation) -> message_pb2.Citation:
    """A citation."""
    return message_pb2.Citation(
        document_id=citation.document_id,
        document_version=citation.document_version,
        document_name=citation.document_name,
        knowledge_base_id=citation.knowledge_base_id,
        chunk_id=citation.chunk_id,
        part_id=citation.part_id,
        start=citation.start,
        end=citation.end,
        source_start=citation.source_start,
        source_end=citation.source_end,
        quote=citation.quote,
        locator=citation.locator,
        score=citation.score,
        number=citation.number,
    )


def citation_of(citation: message_pb2.Citation) -> Citation:
    """A citation."""
    return Citation(
        document_id=citation.document_id,
        document_version=citation.document_version,
        document_name=citation.document_name,
        knowledge_base_id=citation.knowledge_base_id,
        chunk_id=citation.chunk_id,
        part_id=citation.part_id,
        start=citation.start,
        end=citation.end,
        source_start=citation.source_start,
        source_end=citation.source_end,
        quote=citation.quote,
        locator=citation.locator,
        score=citation.score,
        number=citation.number,
    )


def trace_to_wire(trace: RetrievalTrace) -> message_pb2.RetrievalTrace:
    """What was searched and found."""
    return message_pb2.RetrievalTrace(
        decision=RETRIEVAL_DECISIONS[trace.decision],
        probability=trace.probability,
        passages=[
            message_pb2.TracePassage(
                chunk_id=passage.chunk_id,
                document_id=passage.document_id,
                document_name=passage.document_name,
                score=passage.score,
                number=passage.number,
            )
            for passage in trace.passages
        ],
    )


def trace_of(trace: message_pb2.RetrievalTrace) -> RetrievalTrace:
    """What was searched and found."""
    decisions = {value: decision for decision, value in RETRIEVAL_DECISIONS.items()}
    return RetrievalTrace(
        decision=decisions[trace.decision],
        probability=trace.probability,
        passages=tuple(
            TracePassage(
                chunk_id=passage.chunk_id,
                document_id=passage.document_id,
                document_name=passage.document_name,
                score=passage.score,
                number=passage.number,
            )
            for passage in trace.passages
        ),
    )


def _error_to_wire(error: TurnError) -> message_pb2.TurnError:
    return message_pb2.TurnError(reason=error.reason, message=error.message)


def role_of(role: "message_pb2.Role.ValueType", field: str) -> Role:
    """A role. Raises InvalidArgument when it is none."""
    for known, value in ROLES.items():
        if value == role:
            return known
    raise invalid_field(field, "user or assistant")


def rating_of(rating: "message_pb2.Rating.ValueType") -> Rating:
    """A rating. Raises InvalidArgument when it is none."""
    for known, value in RATINGS.items():
        if value == rating:
            return known
    raise invalid_field("rating", "good or bad")


def mode_of(mode: "conversation_pb2.RetrievalMode.ValueType", field: str) -> RetrievalMode | None:
    """A mode, None when unspecified. Raises InvalidArgument when it is unknown."""
    if mode == conversation_pb2.RETRIEVAL_MODE_UNSPECIFIED:
        return None
    for known, value in RETRIEVAL_MODES.items():
        if value == mode:
            return known
    raise invalid_field(field, "always, selective or never")


def conflict_of(on_conflict: "turn_service_pb2.OnConflict.ValueType") -> OnConflict:
    """What to do in a conflict. Raises InvalidArgument when it is unknown."""
    known = {
        turn_service_pb2.ON_CONFLICT_UNSPECIFIED: OnConflict.REJECT,
        turn_service_pb2.ON_CONFLICT_REJECT: OnConflict.REJECT,
        turn_service_pb2.ON_CONFLICT_QUEUE: OnConflict.QUEUE,
        turn_service_pb2.ON_CONFLICT_CANCEL_RUNNING: OnConflict.CANCEL_RUNNING,
    }
    if on_conflict not in known:
        raise invalid_field("on_conflict", "reject, queue or cancel_running")
    return known[on_conflict]


def example_of(example: conversation_pb2.Example) -> Example:
    """A few-shot pair."""
    return Example(example.user, example.assistant)


def parameters_of(parameters: turn_service_pb2.GenerationParameters) -> GenerationParameters:
    """What shapes an answer. Raises InvalidArgument when something is out of bounds."""
    return GenerationParameters(
        temperature=parameters.temperature if parameters.HasField("temperature") else None,
        top_p=parameters.top_p if parameters.HasField("top_p") else None,
        output_tokens_max=parameters.output_tokens_max if parameters.HasField("output_tokens_max") else None,
        stop=tuple(parameters.stop),
        seed=parameters.seed if parameters.HasField("seed") else None,
    )
