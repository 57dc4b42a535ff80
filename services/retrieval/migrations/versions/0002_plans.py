"""A document is of one knowledge base, and that of one organization, which PostgreSQL has to be told.

A planner that takes them for independent expects a single row where there are thousands, and reads a whole knowledge
base where an index would give the one document.
"""

from typing import Final

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA: Final = "retrieval"
COLUMNS: Final = {
    "documents": "organization_id, knowledge_base_id",
    "changes": "organization_id, knowledge_base_id",
    "chunks": "organization_id, knowledge_base_id, document_id",
}


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        op.execute(f"CREATE STATISTICS {SCHEMA}.{table}_together (dependencies) ON {columns} FROM {SCHEMA}.{table}")
        op.execute(f"ANALYZE {SCHEMA}.{table}")


def downgrade() -> None:
    for table in COLUMNS:
        op.execute(f"DROP STATISTICS {SCHEMA}.{table}_together")
