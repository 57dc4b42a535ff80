"""Conversations, the message tree, turns with their leases, and what makes calls repeatable."""

from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA: Final = "conversation"


def upgrade() -> None:
    _create_conversations()
    _create_idempotency()
    _create_feedback()
    _create_messages()
    _create_outbox()
    _create_turns()


def downgrade() -> None:
    for name in ("turns", "outbox", "messages", "feedback", "idempotency", "conversations"):
        op.drop_table(name, schema=SCHEMA)


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("system_prompt", sa.Text(), nullable=False),
        sa.Column("examples", postgresql.JSONB(), nullable=False),
        sa.Column("knowledge_base_id", sa.Text(), nullable=False),
        sa.Column("retrieval_mode", sa.Text(), nullable=False),
        sa.Column("leaf_message_id", sa.Text(), nullable=False),
        sa.Column("settings_revision", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "id"),
        schema=SCHEMA,
    )
    op.create_index(
        "conversations_by_update", "conversations", ["organization_id", "user_id", "update_time", "id"], schema=SCHEMA
    )


def _create_idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "user_id", "method", "request_id"),
        schema=SCHEMA,
    )
    op.create_index("idempotency_by_age", "idempotency", ["create_time"], schema=SCHEMA)


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("rating", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "conversation_id"],
            ["conversation.conversations.organization_id", "conversation.conversations.id"],
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "user_id", "message_id"),
        schema=SCHEMA,
    )
    op.create_index("feedback_by_conversation", "feedback", ["organization_id", "conversation_id"], schema=SCHEMA)


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=False),
        sa.Column("segment_id", sa.Text(), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("citations", postgresql.JSONB(), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("usage", postgresql.JSONB(), nullable=True),
        sa.Column("error", postgresql.JSONB(), nullable=True),
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("retrieval", postgresql.JSONB(), nullable=True),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "conversation_id"],
            ["conversation.conversations.organization_id", "conversation.conversations.id"],
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "id"),
        sa.UniqueConstraint("organization_id", "conversation_id", "segment_id", "depth", name="messages_by_segment"),
        schema=SCHEMA,
    )
    op.create_index("messages_by_conversation", "messages", ["organization_id", "conversation_id", "id"], schema=SCHEMA)


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "conversation_id"],
            ["conversation.conversations.organization_id", "conversation.conversations.id"],
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "turn_id"),
        schema=SCHEMA,
    )
    op.create_index("outbox_by_age", "outbox", ["create_time"], schema=SCHEMA)


def _create_turns() -> None:
    op.create_table(
        "turns",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("user_message_id", sa.Text(), nullable=False),
        sa.Column("assistant_message_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("options", postgresql.JSONB(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("journal_epoch", sa.Text(), nullable=False),
        sa.Column("sequence_limit", sa.BigInteger(), nullable=False),
        sa.Column("error", postgresql.JSONB(), nullable=True),
        sa.Column("publish_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id", "conversation_id"],
            ["conversation.conversations.organization_id", "conversation.conversations.id"],
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "id"),
        schema=SCHEMA,
    )
    op.create_index(
        "turns_active",
        "turns",
        ["organization_id", "conversation_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index("turns_by_conversation", "turns", ["organization_id", "conversation_id", "id"], schema=SCHEMA)
    op.create_index(
        "turns_deadline",
        "turns",
        ["deadline"],
        schema=SCHEMA,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "turns_queued", "turns", ["publish_time"], schema=SCHEMA, postgresql_where=sa.text("state = 'queued'")
    )
    op.create_index(
        "turns_running", "turns", ["lease_expire_time"], schema=SCHEMA, postgresql_where=sa.text("state = 'running'")
    )
