"""What PostgreSQL has to know so that long conversations cost what short ones do.

A conversation is of one user of one organization. A planner that takes the three for independent expects a thousandth
of the rows there are, and reads a conversation as a whole where an index would give one row or one page of it.
"""

from typing import Final

from alembic import op

from services.mesh.postgres.migrate import concurrent

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA: Final = "conversation"
TABLES: Final = ("messages", "turns", "summaries", "feedback")


def upgrade() -> None:
    for table in TABLES:
        op.execute(
            f"CREATE STATISTICS {SCHEMA}.{table}_of_conversation (dependencies) "
            f"ON organization_id, user_id, conversation_id FROM {SCHEMA}.{table}"
        )
        op.execute(f"ANALYZE {SCHEMA}.{table}")
    with concurrent():
        op.create_index(
            "summaries_by_length",
            "summaries",
            ["organization_id", "conversation_id", "messages_covered"],
            schema=SCHEMA,
            postgresql_include=["id", "through_message_id"],
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def downgrade() -> None:
    with concurrent():
        op.drop_index("summaries_by_length", "summaries", schema=SCHEMA, postgresql_concurrently=True, if_exists=True)
    for table in TABLES:
        op.execute(f"DROP STATISTICS {SCHEMA}.{table}_of_conversation")
