"""What models were given to read: prompts that conversations name, reports on answers, summaries of older history."""

from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA: Final = "conversation"


def upgrade() -> None:
    op.add_column("conversations", sa.Column("prompt", JSONB(none_as_null=True), nullable=True), schema=SCHEMA)
    op.add_column("messages", sa.Column("context", JSONB(none_as_null=True), nullable=True), schema=SCHEMA)
    op.create_table(
        "summaries",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("through_message_id", sa.Text(), nullable=False),
        sa.Column("messages_covered", sa.Integer(), nullable=False),
        sa.Column("made_from", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("wording_revision", sa.Text(), nullable=False),
        sa.Column("tokens_before", sa.Integer(), nullable=False),
        sa.Column("tokens_after", sa.Integer(), nullable=False),
        sa.Column("usage", JSONB(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        _of_conversation(),
        sa.PrimaryKeyConstraint("organization_id", "id"),
        sa.UniqueConstraint("organization_id", "conversation_id", "through_message_id", name="summaries_by_message"),
        schema=SCHEMA,
    )
    op.create_table(
        "summary_claims",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        _of_conversation(),
        sa.PrimaryKeyConstraint("organization_id", "conversation_id"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_table("summary_claims", schema=SCHEMA)
    op.drop_table("summaries", schema=SCHEMA)
    op.drop_column("messages", "context", schema=SCHEMA)
    op.drop_column("conversations", "prompt", schema=SCHEMA)


def _of_conversation() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id", "conversation_id"],
        [f"{SCHEMA}.conversations.organization_id", f"{SCHEMA}.conversations.id"],
        ondelete="CASCADE",
    )
