"""Tables of the schema `conversation`.

The organization leads every key: it is the shard key, and no query on tenant data goes without it. Foreign keys go to
`conversations` only, so that deleting one row deletes everything of it.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA: Final = "conversation"
metadata: Final = MetaData(schema=SCHEMA)
ACTIVE: Final = "state IN ('queued', 'running')"


def _time(name: str, *, nullable: bool = False) -> Column[Any]:  # Any: SQLAlchemy types columns by their use
    """An instant; those that must be there begin as the transaction's."""
    default = None if nullable else text("now()")
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=default)


def _of_conversation() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["organization_id", "conversation_id"],
        [f"{SCHEMA}.conversations.organization_id", f"{SCHEMA}.conversations.id"],
        ondelete="CASCADE",
    )


conversations: Final = Table(
    "conversations",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("system_prompt", Text, nullable=False),
    Column("examples", JSONB, nullable=False),
    Column("knowledge_base_id", Text, nullable=False),
    Column("retrieval_mode", Text, nullable=False),
    Column("leaf_message_id", Text, nullable=False),
    # Counts changes of the settings; it is the etag.
    Column("settings_revision", BigInteger, nullable=False),
    _time("create_time"),
    _time("update_time"),
    Column("prompt", JSONB(none_as_null=True), nullable=True),
    PrimaryKeyConstraint("organization_id", "id"),
    Index("conversations_by_update", "organization_id", "user_id", "update_time", "id"),
)

messages: Final = Table(
    "messages",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("parent_id", Text, nullable=False),
    # A branch is a chain of segments. A segment is a run of messages without a fork, named by its first message, so
    # that any page of any branch is a range of an index however long the conversation is.
    Column("segment_id", Text, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("text", Text, nullable=True),
    Column("state", Text, nullable=False),
    Column("citations", JSONB, nullable=False),
    Column("finish_reason", Text, nullable=True),
    Column("usage", JSONB(none_as_null=True), nullable=True),
    Column("error", JSONB(none_as_null=True), nullable=True),
    Column("turn_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("retrieval", JSONB(none_as_null=True), nullable=True),
    Column("last_sequence", BigInteger, nullable=False),
    _time("create_time"),
    _time("update_time"),
    # The default lets a server of the release before go on writing while this one is rolled out.
    Column("revision_of", Text, nullable=False, server_default=text("''")),
    Column("context", JSONB(none_as_null=True), nullable=True),
    PrimaryKeyConstraint("organization_id", "id"),
    UniqueConstraint("organization_id", "conversation_id", "segment_id", "depth", name="messages_by_segment"),
    Index("messages_by_conversation", "organization_id", "conversation_id", "id"),
    _of_conversation(),
)

turns: Final = Table(
    "turns",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("user_message_id", Text, nullable=False),
    Column("assistant_message_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("options", JSONB, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    _time("lease_expire_time", nullable=True),
    Column("deadline", DateTime(timezone=True), nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("journal_epoch", Text, nullable=False),
    Column("sequence_limit", BigInteger, nullable=False),
    Column("error", JSONB(none_as_null=True), nullable=True),
    # When it was last handed to the queue, so that what the queue lost is found again.
    _time("publish_time"),
    _time("create_time"),
    _time("start_time", nullable=True),
    _time("end_time", nullable=True),
    Column("continue_of", Text, nullable=False, server_default=text("''")),
    # The order of those that wait for the turns before them.
    Column("place", Integer, nullable=False, server_default=text("0")),
    # With which it was asked for: its budgets pay. Empty for turns of releases that did not know it.
    Column("credential_id", Text, nullable=False, server_default=text("''")),
    # The trace that it was asked for in, so that every worker's part of it belongs to that one.
    Column("traceparent", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("organization_id", "id"),
    Index("turns_by_conversation", "organization_id", "conversation_id", "id"),
    # One active turn per conversation, whoever races; those that wait are not active.
    Index(
        "turns_active",
        "organization_id",
        "conversation_id",
        unique=True,
        postgresql_where=text(ACTIVE),
    ),
    Index(
        "turns_waiting",
        "organization_id",
        "conversation_id",
        "place",
        unique=True,
        postgresql_where=text("state = 'waiting'"),
    ),
    Index("turns_queued", "publish_time", postgresql_where=text("state = 'queued'")),
    Index("turns_running", "lease_expire_time", postgresql_where=text("state = 'running'")),
    Index("turns_deadline", "deadline", postgresql_where=text(ACTIVE)),
    _of_conversation(),
)

idempotency: Final = Table(
    "idempotency",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),
    Column("resource_id", Text, nullable=False),
    _time("create_time"),
    PrimaryKeyConstraint("organization_id", "user_id", "method", "request_id"),
    Index("idempotency_by_age", "create_time"),
)

outbox: Final = Table(
    "outbox",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("turn_id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    _time("create_time"),
    PrimaryKeyConstraint("organization_id", "turn_id"),
    Index("outbox_by_age", "create_time"),
    # The outbox is part of the conversation's own data: what was deleted need not be answered.
    _of_conversation(),
)

summaries: Final = Table(
    "summaries",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("through_message_id", Text, nullable=False),
    Column("messages_covered", Integer, nullable=False),
    Column("made_from", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("wording_revision", Text, nullable=False),
    Column("tokens_before", Integer, nullable=False),
    Column("tokens_after", Integer, nullable=False),
    Column("usage", JSONB, nullable=False),
    _time("create_time"),
    PrimaryKeyConstraint("organization_id", "id"),
    UniqueConstraint("organization_id", "conversation_id", "through_message_id", name="summaries_by_message"),
    # The longest one of a branch is looked for from the longest one of all.
    Index(
        "summaries_by_length",
        "organization_id",
        "conversation_id",
        "messages_covered",
        postgresql_include=["id", "through_message_id"],
    ),
    _of_conversation(),
)

summary_claims: Final = Table(
    "summary_claims",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    # Whose it is; empty while the conversation is left alone after a failure.
    Column("token", Text, nullable=False),
    _time("expire_time"),
    PrimaryKeyConstraint("organization_id", "conversation_id"),
    _of_conversation(),
)

leftovers: Final = Table(
    "leftovers",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    # Of a conversation that is gone, so that no foreign key holds it.
    Column("conversation_id", Text, nullable=False),
    Column("turn_ids", JSONB, nullable=False),
    _time("create_time"),
    PrimaryKeyConstraint("organization_id", "conversation_id"),
    Index("leftovers_by_age", "create_time"),
)

feedback: Final = Table(
    "feedback",
    metadata,
    Column("organization_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("rating", Text, nullable=False),
    Column("comment", Text, nullable=False),
    _time("update_time"),
    PrimaryKeyConstraint("organization_id", "user_id", "message_id"),
    Index("feedback_by_conversation", "organization_id", "conversation_id"),
    _of_conversation(),
)
