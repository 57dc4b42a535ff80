"""Turns keep with which credential they were asked for: its budgets pay for the answer."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA: Final = "conversation"


def upgrade() -> None:
    credential = sa.Column("credential_id", sa.Text(), nullable=False, server_default=sa.text("''"))
    op.add_column("turns", credential, schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("turns", "credential_id", schema=SCHEMA)
