"""Settling reads the few rows that it needs by their keys, however many budgets there are.

PostgreSQL takes JSON for a hundred rows and more, and reads tables as a whole to join them with that; with sixty
thousand counters that was three thousand pages for every settlement.
"""

from typing import Final

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FUNCTIONS: Final = ("lock_counters(jsonb)", "settle(jsonb, timestamptz)")
METHODS: Final = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")


def upgrade() -> None:
    for function in FUNCTIONS:
        for method in METHODS:
            op.execute(f"ALTER FUNCTION inference.{function} SET {method} = off")


def downgrade() -> None:
    for function in FUNCTIONS:
        for method in METHODS:
            op.execute(f"ALTER FUNCTION inference.{function} RESET {method}")
