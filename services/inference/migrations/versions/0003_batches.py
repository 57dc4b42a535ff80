"""Offline batches: what was asked for together, each item, and what of it was handed over to a vendor.

Items and handovers go with their batch, so that nothing of a deleted one can be left behind.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA: Final = "inference"


def upgrade() -> None:
    """Makes the tables."""
    _create_batches()
    _create_items()
    _create_handovers()


def downgrade() -> None:
    """Drops them."""
    for table in ("batch_handovers", "batch_items", "batches"):
        op.drop_table(table, schema=SCHEMA)


def _create_batches() -> None:
    op.create_table(
        "batches",
        *_text("organization_id", "id", "user_id", "credential_id", "state"),
        *_instant("created_at", "due_at"),
        *_instant("ended_at", "deleted_at", nullable=True),
        sa.Column("lease", sa.Text(), nullable=True),
        *_instant("claimable_at"),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("body_hash", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "id", name="batches_pkey"),
        schema=SCHEMA,
    )
    op.create_index("batches_of_user", "batches", ["organization_id", "user_id", "id"], schema=SCHEMA)
    for name, column, condition in (
        ("batches_claimable", "claimable_at", "ended_at IS NULL"),
        ("batches_ended", "ended_at", "ended_at IS NOT NULL"),
    ):
        op.create_index(name, "batches", [column], schema=SCHEMA, postgresql_where=sa.text(condition))
    op.create_index(
        "batches_by_request",
        "batches",
        ["organization_id", "user_id", "request_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )


def _create_items() -> None:
    op.create_table(
        "batch_items",
        *_text("organization_id", "batch_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        *_text("id", "custom_id"),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        *_text("model", "purpose", "call_id"),
        sa.Column("output_tokens_max", sa.Integer(), nullable=True),
        sa.Column("is_batched", sa.Boolean(), nullable=False),
        *_text("state"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        *_instant("ready_at"),
        *_text("handover_id"),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        *_text("reason", "message"),
        sa.PrimaryKeyConstraint("organization_id", "batch_id", "number", name="batch_items_pkey"),
        _of_batch("batch_items_of_batch"),
        schema=SCHEMA,
    )


def _create_handovers() -> None:
    op.create_table(
        "batch_handovers",
        *_text("organization_id", "batch_id", "id", "model", "key_id"),
        sa.Column("items_count", sa.Integer(), nullable=False),
        *_instant("submitted_at"),
        *_text("vendor_id"),
        *_instant("cancelled_at", "closed_at", nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "batch_id", "id", name="batch_handovers_pkey"),
        _of_batch("batch_handovers_of_batch"),
        schema=SCHEMA,
    )
    op.create_index("batch_handovers_of_key", "batch_handovers", ["key_id", "submitted_at"], schema=SCHEMA)


def _of_batch(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id", "batch_id"],
        [f"{SCHEMA}.batches.organization_id", f"{SCHEMA}.batches.id"],
        name=name,
        ondelete="CASCADE",
    )


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _instant(*names: str, nullable: bool = False) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=nullable) for name in names]
