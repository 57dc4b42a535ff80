"""Turns keep the trace that they were asked for in, so that what workers do for them is a part of it."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SCHEMA: Final = "conversation"


def upgrade() -> None:
    traceparent = sa.Column("traceparent", sa.Text(), nullable=False, server_default=sa.text("''"))
    op.add_column("turns", traceparent, schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("turns", "traceparent", schema=SCHEMA)
