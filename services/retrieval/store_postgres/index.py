"""What the index is made from, in PostgreSQL."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Select, select, tuple_

from services.mesh.errors import NotFound
from services.retrieval.model import (
    Changes,
    Chunk,
    ChunkKey,
    DocumentId,
    Head,
    IndexRow,
    KnowledgeBaseId,
    OrganizationId,
    StoredPassage,
)
from services.retrieval.store import unpack
from services.retrieval.store_postgres.statements import (
    KNOWLEDGE_BASE_OF_DOCUMENT,
    PostgresPart,
    Row,
    visible,
)
from services.retrieval.tables import CHANGES, CHUNKS, DOCUMENTS, KNOWLEDGE_BASES

_INDEXED: Final = (CHUNKS.c.key, CHUNKS.c.document_id, CHUNKS.c.title, CHUNKS.c.text, CHUNKS.c.embedding)


class PostgresIndex(PostgresPart):
    """See `IndexStore`."""

    async def head(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId) -> Head:
        """See `IndexStore`."""
        heads = await self.heads([(organization, knowledge_base)])
        if knowledge_base not in heads:
            raise NotFound.of("knowledge_base")
        return heads[knowledge_base]

    async def heads(
        self, knowledge_bases: Sequence[tuple[OrganizationId, KnowledgeBaseId]]
    ) -> dict[KnowledgeBaseId, Head]:
        """See `IndexStore`."""
        mine = tuple_(KNOWLEDGE_BASES.c.organization_id, KNOWLEDGE_BASES.c.id)
        heads = {}
        for part, wanted in self._places.parts(knowledge_bases, itemgetter(0)):
            query = select(KNOWLEDGE_BASES.c.id, KNOWLEDGE_BASES.c.sequence, KNOWLEDGE_BASES.c.encoder).where(
                mine.in_(wanted), KNOWLEDGE_BASES.c.deleted_at.is_(None)
            )
            async with part.read() as read:
                for id_, sequence, encoder in await read.execute(query):
                    heads[KnowledgeBaseId(id_)] = Head(sequence, encoder)
        return heads

    async def rows(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId
    ) -> tuple[int, tuple[IndexRow, ...]]:
        """See `IndexStore`."""
        # The sequence is read first: rows that are newer are applied once more, which does no harm.
        head = await self.head(organization, knowledge_base)
        async with self._places.of(organization).read() as read:
            of_base = CHUNKS.c.knowledge_base_id == knowledge_base
            found = await read.execute(_chunks(organization).where(of_base).order_by(CHUNKS.c.key))
            return head.sequence, tuple(_index_row(row) for row in found.mappings())

    async def changes(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, *, after: int) -> Changes:
        """See `IndexStore`."""
        head = await self.head(organization, knowledge_base)
        logged = select(CHANGES.c.document_id).where(
            CHANGES.c.organization_id == organization,
            CHANGES.c.knowledge_base_id == knowledge_base,
            CHANGES.c.sequence > after,
        )
        async with self._places.of(organization).read() as read:
            touched = [DocumentId(document) for document in (await read.execute(logged)).scalars()]
            # Not by their knowledge base, whose chunks may be a million beside those of a few documents.
            found = await read.execute(_chunks(organization).where(CHUNKS.c.document_id.in_(touched)))
            return Changes(head.sequence, tuple(touched), tuple(_index_row(row) for row in found.mappings()))

    async def passages(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, keys: Sequence[ChunkKey]
    ) -> dict[ChunkKey, StoredPassage]:
        """See `IndexStore`."""
        # LIMIT keeps a planner that expects a small knowledge base from beginning with its documents.
        of_keys = select(CHUNKS).where(CHUNKS.c.organization_id == organization, CHUNKS.c.key.in_(list(keys)))
        hits = of_keys.limit(len(keys)).subquery("hits")
        query = (
            select(hits, DOCUMENTS.c.display_name.label("document_name"))
            .join(
                DOCUMENTS,
                (DOCUMENTS.c.organization_id == hits.c.organization_id) & (DOCUMENTS.c.id == hits.c.document_id),
            )
            .join(KNOWLEDGE_BASES, KNOWLEDGE_BASE_OF_DOCUMENT)
            .where(visible(organization, knowledge_base))
        )
        async with self._places.of(organization).read() as read:
            found = [_passage(row) for row in (await read.execute(query)).mappings()]
        return {passage.key: passage for passage in found}


def _chunks(organization: OrganizationId) -> Select[Any]:
    return select(*_INDEXED).where(CHUNKS.c.organization_id == organization)


def _index_row(row: Row) -> IndexRow:
    chunk = Chunk(row["text"], 0, len(row["text"]), row["title"], "")
    return IndexRow(
        ChunkKey(row["key"]), DocumentId(row["document_id"]), chunk.searchable_text, unpack(row["embedding"])
    )


def _passage(row: Row) -> StoredPassage:
    return StoredPassage(
        key=ChunkKey(row["key"]),
        chunk_id=row["id"],
        document_id=DocumentId(row["document_id"]),
        document_version=row["document_version"],
        document_name=row["document_name"],
        text=row["text"],
        start=row["start_offset"],
        end=row["end_offset"],
        locator=row["locator"],
    )
