"""Prompts with their revisions, and vectors of examples.

Which revision answered is told for ever, so a revision must never say something else than it did: the table itself
refuses every change of a row.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA: Final = "inference"

_REFUSE_CHANGE: Final = """
CREATE FUNCTION inference.refuse_change_of_prompt_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'a revision of a prompt never changes';
END $$
"""
_TRIGGER: Final = """
CREATE TRIGGER prompt_revisions_never_change BEFORE UPDATE ON inference.prompt_revisions
FOR EACH ROW EXECUTE FUNCTION inference.refuse_change_of_prompt_revision()
"""


def upgrade() -> None:
    """Makes the tables, and the trigger that keeps revisions as they are."""
    _create_prompts()
    _create_revisions()
    op.create_table(
        "prompt_vectors",
        *_text("organization_id", "encoder"),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "encoder", "digest", name="prompt_vectors_pkey"),
        schema=SCHEMA,
    )
    op.execute(_REFUSE_CHANGE)
    op.execute(_TRIGGER)


def downgrade() -> None:
    """Drops everything."""
    for table in ("prompt_vectors", "prompt_revisions", "prompts"):
        op.drop_table(table, schema=SCHEMA)
    op.execute("DROP FUNCTION inference.refuse_change_of_prompt_revision")


def _create_prompts() -> None:
    op.create_table(
        "prompts",
        *_text("organization_id", "id", "name", "description"),
        sa.Column("latest_revision", sa.Integer(), nullable=False),
        sa.Column("aliases", JSONB(), nullable=False),
        *_instant("created_at", "updated_at"),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "id", name="prompts_pkey"),
        schema=SCHEMA,
    )
    living = sa.text("deleted_at IS NULL")
    op.create_index(
        "prompts_by_name", "prompts", ["organization_id", "name"], unique=True, schema=SCHEMA, postgresql_where=living
    )


def _create_revisions() -> None:
    op.create_table(
        "prompt_revisions",
        *_text("organization_id", "prompt_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", JSONB(), nullable=False),
        *_text("note", "author_id"),
        *_instant("created_at"),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("body_hash", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "prompt_id", "number", name="prompt_revisions_pkey"),
        sa.ForeignKeyConstraint(
            ["organization_id", "prompt_id"],
            [f"{SCHEMA}.prompts.organization_id", f"{SCHEMA}.prompts.id"],
            name="prompt_revisions_of_prompt",
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "prompt_revisions_by_request",
        "prompt_revisions",
        ["organization_id", "author_id", "request_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _instant(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in names]
