"""Tables of the schema `retrieval`; the migrations make them, a test holds the two against each other.

Every table carries its organization, and every foreign key includes it, so that no row can point across.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Float,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA: Final = "retrieval"
METADATA: Final = MetaData(schema=SCHEMA)


def _instant(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


KNOWLEDGE_BASES: Final = Table(
    "knowledge_bases",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("organization_id", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("encoder", Text, nullable=False),
    # Of the latest change; taken under this row's lock, so that changes commit in their order.
    Column("sequence", BigInteger, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("request_digest", Text, nullable=False),
    _instant("created_at"),
    _instant("updated_at"),
    # From here on it answers nothing; its rows go when a worker comes by.
    _instant("deleted_at", nullable=True),
    UniqueConstraint("organization_id", "id", name="knowledge_bases_of_organization"),
    UniqueConstraint("organization_id", "request_id", name="knowledge_bases_request"),
    Index(
        "knowledge_bases_display_name",
        "organization_id",
        "display_name",
        unique=True,
        postgresql_where=text("deleted_at IS NULL"),
    ),
    Index("knowledge_bases_deleted", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
)

DOCUMENTS: Final = Table(
    "documents",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("organization_id", Text, nullable=False),
    Column("knowledge_base_id", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("failure_reason", Text, nullable=True),
    Column("failure_message", Text, nullable=True),
    Column("chunk_count", BigInteger, nullable=False),
    Column("progress", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    # Who works on it, and from when on anybody else may: the end of the lease, or of the pause after a failure.
    Column("lease", Text, nullable=True),
    _instant("claimable_at"),
    _instant("created_at"),
    _instant("updated_at"),
    ForeignKeyConstraint(
        ["organization_id", "knowledge_base_id"],
        [KNOWLEDGE_BASES.c.organization_id, KNOWLEDGE_BASES.c.id],
        name="documents_knowledge_base",
        ondelete="CASCADE",
    ),
    UniqueConstraint("organization_id", "id", name="documents_of_organization"),
    UniqueConstraint("organization_id", "knowledge_base_id", "display_name", name="documents_display_name"),
    Index("documents_page", "organization_id", "knowledge_base_id", "id"),
    Index("documents_queue", "claimable_at", postgresql_where=text("state IN ('queued', 'processing')")),
)

DOCUMENT_TEXTS: Final = Table(
    "document_texts",
    METADATA,
    Column("organization_id", Text, nullable=False),
    Column("document_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("blocks", JSONB, nullable=False),
    PrimaryKeyConstraint("organization_id", "document_id", "version", name="document_texts_pkey"),
    ForeignKeyConstraint(
        ["organization_id", "document_id"],
        [DOCUMENTS.c.organization_id, DOCUMENTS.c.id],
        name="document_texts_document",
        ondelete="CASCADE",
    ),
)

CHUNKS: Final = Table(
    "chunks",
    METADATA,
    # The chunk's identity in the index, so it must never be used twice.
    Column("key", BigInteger, Identity(always=True), primary_key=True),
    Column("id", Text, nullable=False),
    Column("organization_id", Text, nullable=False),
    Column("knowledge_base_id", Text, nullable=False),
    Column("document_id", Text, nullable=False),
    Column("document_version", BigInteger, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("start_offset", Integer, nullable=False),
    Column("end_offset", Integer, nullable=False),
    Column("title", Text, nullable=False),
    Column("locator", Text, nullable=False),
    # Unit vector in half precision: 768 bytes at 384 dimensions, and a rebuild never calls the encoder.
    Column("embedding", LargeBinary, nullable=False),
    UniqueConstraint("id", name="chunks_id"),
    UniqueConstraint("organization_id", "document_id", "ordinal", name="chunks_of_document"),
    Index("chunks_of_knowledge_base", "organization_id", "knowledge_base_id", "key"),
    ForeignKeyConstraint(
        ["organization_id", "document_id"],
        [DOCUMENTS.c.organization_id, DOCUMENTS.c.id],
        name="chunks_document",
        ondelete="CASCADE",
    ),
)

# Which document changed last at which sequence. One row per document, also after its end, so the log stays as small as
# the knowledge base: whoever follows it reads the documents' present chunks, not their history.
CHANGES: Final = Table(
    "changes",
    METADATA,
    Column("organization_id", Text, nullable=False),
    Column("knowledge_base_id", Text, nullable=False),
    Column("document_id", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    PrimaryKeyConstraint("organization_id", "knowledge_base_id", "document_id", name="changes_pkey"),
    ForeignKeyConstraint(
        ["organization_id", "knowledge_base_id"],
        [KNOWLEDGE_BASES.c.organization_id, KNOWLEDGE_BASES.c.id],
        name="changes_knowledge_base",
        ondelete="CASCADE",
    ),
    Index("changes_in_order", "organization_id", "knowledge_base_id", "sequence"),
)
