"""Turns that wait for the turns before them."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA: Final = "conversation"


def upgrade() -> None:
    place = sa.Column("place", sa.Integer(), nullable=False, server_default=sa.text("0"))
    op.add_column("turns", place, schema=SCHEMA)
    op.create_index(
        "turns_waiting",
        "turns",
        ["organization_id", "conversation_id", "place"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("state = 'waiting'"),
    )


def downgrade() -> None:
    op.drop_index("turns_waiting", "turns", schema=SCHEMA)
    op.drop_column("turns", "place", schema=SCHEMA)
