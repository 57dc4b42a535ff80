"""Deletes remember what they may have left in Valkey, so that it is dropped even where Valkey was away."""

from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA: Final = "conversation"


def upgrade() -> None:
    op.create_table(
        "leftovers",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("turn_ids", JSONB(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "conversation_id"),
        schema=SCHEMA,
    )
    op.create_index("leftovers_by_age", "leftovers", ["create_time"], schema=SCHEMA)


def downgrade() -> None:
    op.drop_table("leftovers", schema=SCHEMA)
