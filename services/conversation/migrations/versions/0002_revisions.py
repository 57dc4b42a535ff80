"""What a message was made from, and which answer a turn goes on with."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA: Final = "conversation"


def upgrade() -> None:
    for table, column in (("messages", "revision_of"), ("turns", "continue_of")):
        op.add_column(table, sa.Column(column, sa.Text(), nullable=False, server_default=sa.text("''")), schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("turns", "continue_of", schema=SCHEMA)
    op.drop_column("messages", "revision_of", schema=SCHEMA)
