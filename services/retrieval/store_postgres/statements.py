"""What the parts of the store share: visibility, row to model, and the change log."""

from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Select, and_, func, select, true, update
from sqlalchemy.dialects.postgresql import insert

from services.mesh.errors import NotFound
from services.mesh.postgres.database import ReadOnly, ReadWrite
from services.mesh.postgres.places import Places
from services.retrieval.model import (
    Document,
    DocumentFailure,
    DocumentId,
    DocumentState,
    KnowledgeBase,
    KnowledgeBaseId,
    MediaType,
    OrganizationId,
)
from services.retrieval.tables import CHANGES, DOCUMENTS, KNOWLEDGE_BASES

Row = RowMapping
"""Values of many types, which the tables fix and the models check."""


class PostgresPart:
    """A part of the store."""

    def __init__(self, places: Places) -> None:
        self._places = places


KNOWLEDGE_BASE_OF_DOCUMENT: Final = and_(
    KNOWLEDGE_BASES.c.organization_id == DOCUMENTS.c.organization_id,
    KNOWLEDGE_BASES.c.id == DOCUMENTS.c.knowledge_base_id,
    KNOWLEDGE_BASES.c.deleted_at.is_(None),
)
"""Join condition: only documents whose knowledge base is still there exist for anybody."""


def visible(organization: OrganizationId, id_: KnowledgeBaseId) -> ColumnElement[bool]:
    """Condition for one knowledge base of an organization that is not deleted."""
    return and_(
        KNOWLEDGE_BASES.c.organization_id == organization,
        KNOWLEDGE_BASES.c.id == id_,
        KNOWLEDGE_BASES.c.deleted_at.is_(None),
    )


def counted_knowledge_bases(organization: OrganizationId) -> Select[Any]:
    """Knowledge bases of an organization with their counts."""
    counts = (
        select(
            func.count().label("document_count"),
            func.coalesce(func.sum(DOCUMENTS.c.chunk_count), 0).label("chunk_count"),
        )
        .where(
            DOCUMENTS.c.organization_id == organization,
            DOCUMENTS.c.knowledge_base_id == KNOWLEDGE_BASES.c.id,
        )
        .lateral("counts")
    )
    return (
        select(KNOWLEDGE_BASES, counts)
        .join(counts, true())
        .where(KNOWLEDGE_BASES.c.organization_id == organization, KNOWLEDGE_BASES.c.deleted_at.is_(None))
    )


def document_of(organization: OrganizationId, id_: DocumentId) -> Select[Any]:
    """One document of an organization."""
    return (
        select(DOCUMENTS)
        .join(KNOWLEDGE_BASES, KNOWLEDGE_BASE_OF_DOCUMENT)
        .where(DOCUMENTS.c.organization_id == organization, DOCUMENTS.c.id == id_)
    )


async def require_knowledge_base(read: ReadOnly, organization: OrganizationId, id_: KnowledgeBaseId) -> None:
    """Raises NotFound when there is none."""
    found = await read.execute(select(KNOWLEDGE_BASES.c.id).where(visible(organization, id_)))
    if found.first() is None:
        raise NotFound.of("knowledge_base")


async def next_sequence(write: ReadWrite, organization: OrganizationId, id_: KnowledgeBaseId) -> int | None:
    """The number of the change that this transaction makes; locks the knowledge base until it ends.

    None when the knowledge base is gone.
    """
    bumped = await write.execute(
        update(KNOWLEDGE_BASES)
        .where(visible(organization, id_))
        .values(sequence=KNOWLEDGE_BASES.c.sequence + 1)
        .returning(KNOWLEDGE_BASES.c.sequence)
    )
    return bumped.scalar_one_or_none()


async def log_change(
    write: ReadWrite,
    organization: OrganizationId,
    knowledge_base: KnowledgeBaseId,
    document: DocumentId,
    *,
    sequence: int,
) -> None:
    """Notes that the document's chunks changed at `sequence`."""
    entry = insert(CHANGES).values(
        organization_id=organization,
        knowledge_base_id=knowledge_base,
        document_id=document,
        sequence=sequence,
    )
    await write.execute(
        entry.on_conflict_do_update(constraint="changes_pkey", set_={"sequence": entry.excluded.sequence})
    )


def knowledge_base_from(row: Row) -> KnowledgeBase:
    """A row of `counted_knowledge_bases`, or of the table alone."""
    return KnowledgeBase(
        id=KnowledgeBaseId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        display_name=row["display_name"],
        description=row["description"],
        encoder=row["encoder"],
        create_time=row["created_at"],
        update_time=row["updated_at"],
        document_count=int(row.get("document_count", 0)),
        chunk_count=int(row.get("chunk_count", 0)),
        sequence=row["sequence"],
    )


def document_from(row: Row) -> Document:
    """A row of `documents`."""
    failure = DocumentFailure(row["failure_reason"], row["failure_message"]) if row["failure_reason"] else None
    return Document(
        id=DocumentId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        knowledge_base_id=KnowledgeBaseId(row["knowledge_base_id"]),
        version=row["version"],
        display_name=row["display_name"],
        media_type=MediaType(row["media_type"]),
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        state=DocumentState(row["state"]),
        create_time=row["created_at"],
        update_time=row["updated_at"],
        failure=failure,
        chunk_count=row["chunk_count"],
        progress=row["progress"],
    )
