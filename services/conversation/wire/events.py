"""Turn events, to the wire and from it. The journal keeps the same bytes that watchers are sent."""

from typing import assert_never

from parley.conversation.v1 import turn_pb2
from services.conversation.events import (
    AttemptStarted,
    CitationAdded,
    PartStarted,
    Payload,
    ProviderSwitched,
    RetrievalDecided,
    Snapshot,
    TextDelta,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    UsageUpdated,
)
from services.conversation.wire.resources import (
    TURN_STATES,
    citation_of,
    citation_to_wire,
    message_to_wire,
    trace_of,
    trace_to_wire,
    usage_of,
    usage_to_wire,
)


class EventCodec:
    """See `services.conversation.journal.port.Codec`."""

    def encode(self, event: TurnEvent) -> bytes:
        """See `Codec.encode`."""
        return event_to_wire(event).SerializeToString()

    def decode(self, data: bytes) -> TurnEvent:
        """See `Codec.decode`."""
        return event_of(turn_pb2.TurnEvent.FromString(data))


def event_to_wire(event: TurnEvent) -> turn_pb2.TurnEvent:
    """An event."""
    shown = turn_pb2.TurnEvent(sequence=event.sequence, attempt=event.attempt)
    _fill(shown, event.payload)
    return shown


def _fill(shown: turn_pb2.TurnEvent, payload: Payload) -> None:  # noqa: C901 - one short case per kind
    match payload:
        case TextDelta():
            delta = shown.text_delta
            delta.part_id, delta.offset, delta.text = payload.part_id, payload.offset, payload.text
        case TurnStarted():
            started = shown.turn_started
            started.turn_id, started.conversation_id = payload.turn_id, payload.conversation_id
            started.user_message_id = payload.user_message_id
            started.assistant_message_id = payload.assistant_message_id
        case RetrievalDecided():
            shown.retrieval_decided.retrieval.CopyFrom(trace_to_wire(payload.retrieval))
        case PartStarted():
            shown.part_started.part_id = payload.part_id
        case CitationAdded():
            shown.citation_added.citation.CopyFrom(citation_to_wire(payload.citation))
        case ProviderSwitched():
            switched = shown.provider_switched
            switched.from_model, switched.to_model = payload.from_model, payload.to_model
            switched.reason, switched.offset = payload.reason, payload.offset
        case AttemptStarted():
            shown.attempt_started.attempt = payload.attempt
            shown.attempt_started.resume_offset = payload.resume_offset
        case UsageUpdated():
            shown.usage_updated.usage.CopyFrom(usage_to_wire(payload.usage))
        case TurnFinished():
            shown.turn_finished.state = TURN_STATES[payload.state]
            if payload.message is not None:
                shown.turn_finished.message.CopyFrom(message_to_wire(payload.message))
        case Snapshot():
            shown.snapshot.message.CopyFrom(message_to_wire(payload.message))
        case _:
            assert_never(payload)


def event_of(shown: turn_pb2.TurnEvent) -> TurnEvent:
    """A journalled event; the journal holds neither snapshots nor the message of an end."""
    return TurnEvent(shown.sequence, shown.attempt, _payload_of(shown))


def _payload_of(shown: turn_pb2.TurnEvent) -> Payload:  # noqa: PLR0911 - one short return per kind
    match shown.WhichOneof("payload"):
        case "text_delta":
            delta = shown.text_delta
            return TextDelta(delta.part_id, delta.offset, delta.text)
        case "turn_started":
            began = shown.turn_started
            return TurnStarted(began.turn_id, began.conversation_id, began.user_message_id, began.assistant_message_id)
        case "retrieval_decided":
            return RetrievalDecided(trace_of(shown.retrieval_decided.retrieval))
        case "part_started":
            return PartStarted(shown.part_started.part_id)
        case "citation_added":
            return CitationAdded(citation_of(shown.citation_added.citation))
        case "provider_switched":
            switched = shown.provider_switched
            return ProviderSwitched(switched.from_model, switched.to_model, switched.reason, switched.offset)
        case "attempt_started":
            return AttemptStarted(shown.attempt_started.attempt, shown.attempt_started.resume_offset)
        case "usage_updated":
            return UsageUpdated(usage_of(shown.usage_updated.usage))
        case "turn_finished":
            states = {value: state for state, value in TURN_STATES.items()}
            return TurnFinished(states[shown.turn_finished.state])
        case other:
            raise ValueError(f"a journalled event of kind {other!r}")
