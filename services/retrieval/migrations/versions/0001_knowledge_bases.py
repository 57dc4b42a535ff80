"""Knowledge bases, documents with their texts, chunks with their vectors, and the log of changes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "retrieval"


def _instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def upgrade() -> None:
    _knowledge_bases()
    _documents()
    _document_texts()
    _chunks()
    _changes()


def downgrade() -> None:
    for table in ("changes", "chunks", "document_texts", "documents", "knowledge_bases"):
        op.drop_table(table, schema=SCHEMA)


def _knowledge_bases() -> None:
    op.create_table(
        "knowledge_bases",
        _text("id"),
        _text("organization_id"),
        _text("display_name"),
        _text("description"),
        _text("encoder"),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        _text("request_id"),
        _text("request_digest"),
        _instant("created_at"),
        _instant("updated_at"),
        _instant("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="knowledge_bases_pkey"),
        sa.UniqueConstraint("organization_id", "id", name="knowledge_bases_of_organization"),
        sa.UniqueConstraint("organization_id", "request_id", name="knowledge_bases_request"),
        schema=SCHEMA,
    )
    op.create_index(
        "knowledge_bases_display_name",
        "knowledge_bases",
        ["organization_id", "display_name"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "knowledge_bases_deleted",
        "knowledge_bases",
        ["deleted_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )


def _documents() -> None:
    op.create_table(
        "documents",
        _text("id"),
        _text("organization_id"),
        _text("knowledge_base_id"),
        _text("display_name"),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _text("media_type"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        _text("sha256"),
        _text("state"),
        _text("failure_reason", nullable=True),
        _text("failure_message", nullable=True),
        sa.Column("chunk_count", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _text("lease", nullable=True),
        _instant("claimable_at"),
        _instant("created_at"),
        _instant("updated_at"),
        sa.PrimaryKeyConstraint("id", name="documents_pkey"),
        sa.ForeignKeyConstraint(
            ["organization_id", "knowledge_base_id"],
            [f"{SCHEMA}.knowledge_bases.organization_id", f"{SCHEMA}.knowledge_bases.id"],
            name="documents_knowledge_base",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("organization_id", "id", name="documents_of_organization"),
        sa.UniqueConstraint("organization_id", "knowledge_base_id", "display_name", name="documents_display_name"),
        schema=SCHEMA,
    )
    op.create_index("documents_page", "documents", ["organization_id", "knowledge_base_id", "id"], schema=SCHEMA)
    op.create_index(
        "documents_queue",
        "documents",
        ["claimable_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("state IN ('queued', 'processing')"),
    )


def _document_texts() -> None:
    op.create_table(
        "document_texts",
        _text("organization_id"),
        _text("document_id"),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _text("text"),
        sa.Column("blocks", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "document_id", "version", name="document_texts_pkey"),
        _of_document("document_texts_document"),
        schema=SCHEMA,
    )


def _chunks() -> None:
    op.create_table(
        "chunks",
        sa.Column("key", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _text("id"),
        _text("organization_id"),
        _text("knowledge_base_id"),
        _text("document_id"),
        sa.Column("document_version", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        _text("text"),
        sa.Column("start_offset", sa.Integer(), nullable=False),
        sa.Column("end_offset", sa.Integer(), nullable=False),
        _text("title"),
        _text("locator"),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="chunks_pkey"),
        sa.UniqueConstraint("id", name="chunks_id"),
        sa.UniqueConstraint("organization_id", "document_id", "ordinal", name="chunks_of_document"),
        _of_document("chunks_document"),
        schema=SCHEMA,
    )
    op.create_index(
        "chunks_of_knowledge_base", "chunks", ["organization_id", "knowledge_base_id", "key"], schema=SCHEMA
    )
    # Half-precision floats do not compress; trying costs time at every write.
    op.execute(f"ALTER TABLE {SCHEMA}.chunks ALTER COLUMN embedding SET STORAGE EXTERNAL")


def _changes() -> None:
    op.create_table(
        "changes",
        _text("organization_id"),
        _text("knowledge_base_id"),
        _text("document_id"),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "knowledge_base_id", "document_id", name="changes_pkey"),
        sa.ForeignKeyConstraint(
            ["organization_id", "knowledge_base_id"],
            [f"{SCHEMA}.knowledge_bases.organization_id", f"{SCHEMA}.knowledge_bases.id"],
            name="changes_knowledge_base",
            ondelete="CASCADE",
        ),
        schema=SCHEMA,
    )
    op.create_index("changes_in_order", "changes", ["organization_id", "knowledge_base_id", "sequence"], schema=SCHEMA)


def _of_document(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id", "document_id"],
        [f"{SCHEMA}.documents.organization_id", f"{SCHEMA}.documents.id"],
        name=name,
        ondelete="CASCADE",
    )
