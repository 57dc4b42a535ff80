"""Summaries, to the wire."""

from parley.conversation.v1 import message_pb2
from services.conversation.store.summaries import Summary
from services.conversation.wire.resources import time_to_wire, usage_to_wire


def summary_to_wire(summary: Summary) -> message_pb2.Summary:
    """A summary."""
    return message_pb2.Summary(
        id=summary.id,
        conversation_id=summary.conversation_id,
        through_message_id=summary.through_message_id,
        made_from=summary.made_from,
        text=summary.text,
        model=summary.model,
        wording_revision=summary.wording_revision,
        messages_covered=summary.messages_covered,
        tokens_before=summary.tokens_before,
        tokens_after=summary.tokens_after,
        usage=usage_to_wire(summary.usage),
        create_time=time_to_wire(summary.create_time),
    )
