"""Documents and their texts in PostgreSQL."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from services.mesh.errors import NotFound
from services.mesh.postgres.database import ReadOnly, ReadWrite, constraint_of
from services.retrieval.model import (
    Document,
    DocumentId,
    DocumentState,
    KnowledgeBaseId,
    OrganizationId,
    ParsedDocument,
    TextRange,
    Upload,
)
from services.retrieval.store import Page
from services.retrieval.store_postgres.statements import (
    PostgresPart,
    Row,
    document_from,
    document_of,
    log_change,
    next_sequence,
    require_knowledge_base,
    visible,
)
from services.retrieval.tables import DOCUMENT_TEXTS, DOCUMENTS, KNOWLEDGE_BASES

# The race of two first uploads under one name has one winner, whom the second try finds.
_PUT_TRIES: Final = 2


class PostgresDocuments(PostgresPart):
    """See `DocumentStore`."""

    async def put_document(self, upload: Upload, *, id_: DocumentId, now: datetime) -> Document:
        """See `DocumentStore`."""
        for _ in range(_PUT_TRIES - 1):
            try:
                return await self._put(upload, id_, now)
            except IntegrityError as err:
                if constraint_of(err) != "documents_display_name":
                    raise
        return await self._put(upload, id_, now)

    async def _put(self, upload: Upload, id_: DocumentId, now: datetime) -> Document:
        async with self._places.of(upload.organization_id).write() as write:
            # Shared with other uploads, but not with the deletion of the knowledge base.
            mine = select(KNOWLEDGE_BASES.c.id).where(visible(upload.organization_id, upload.knowledge_base_id))
            if (await write.execute(mine.with_for_update(read=True))).first() is None:
                raise NotFound.of("knowledge_base")
            there = await _named(write, upload, lock=True)
            if there and there.sha256 == upload.sha256 and there.state is not DocumentState.FAILED:
                return there
            stored = await write.execute(_stored(upload, there, id_=id_, now=now))
            document = document_from(stored.mappings().one())
            await write.execute(
                insert(DOCUMENT_TEXTS).values(
                    organization_id=upload.organization_id,
                    document_id=document.id,
                    version=document.version,
                    text=upload.parsed.text,
                    blocks=_blocks(upload.parsed),
                )
            )
            return document

    async def document(self, organization: OrganizationId, id_: DocumentId) -> Document:
        """See `DocumentStore`."""
        async with self._places.of(organization).read() as read:
            return document_from(await _one(read, organization, id_))

    async def document_named(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, display_name: str
    ) -> Document | None:
        """See `DocumentStore`."""
        query = _documents(organization, knowledge_base).where(DOCUMENTS.c.display_name == display_name)
        async with self._places.of(organization).read() as read:
            await require_knowledge_base(read, organization, knowledge_base)
            row = (await read.execute(query)).mappings().one_or_none()
        return document_from(row) if row else None

    async def documents(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, page: Page
    ) -> list[Document]:
        """See `DocumentStore`."""
        one = DOCUMENTS.alias("one")
        # Of ids alone: that is read from the index, in its order, whatever a planner expects of the knowledge base.
        ids = select(one.c.id).where(one.c.organization_id == organization, one.c.knowledge_base_id == knowledge_base)
        if page.before is not None:
            ids = ids.where(one.c.id < page.before)
        of_page = ids.order_by(one.c.id.desc()).limit(page.limit).subquery("page")
        query = _documents(organization, knowledge_base).join(of_page, of_page.c.id == DOCUMENTS.c.id)
        query = query.order_by(DOCUMENTS.c.id.desc())
        async with self._places.of(organization).read() as read:
            await require_knowledge_base(read, organization, knowledge_base)
            return [document_from(row) for row in (await read.execute(query)).mappings()]

    async def delete_document(self, organization: OrganizationId, id_: DocumentId) -> None:
        """See `DocumentStore`."""
        async with self._places.of(organization).write() as write:
            knowledge_base = KnowledgeBaseId((await _one(write, organization, id_))["knowledge_base_id"])
            sequence = await next_sequence(write, organization, knowledge_base)
            gone = await write.execute(
                delete(DOCUMENTS)
                .where(DOCUMENTS.c.organization_id == organization, DOCUMENTS.c.id == id_)
                .returning(DOCUMENTS.c.id)
            )
            if sequence is None or gone.first() is None:
                raise NotFound.of("document")
            await log_change(write, organization, knowledge_base, id_, sequence=sequence)

    async def read_text(
        self, organization: OrganizationId, id_: DocumentId, *, version: int, start: int, end: int
    ) -> TextRange:
        """See `DocumentStore`."""
        length = func.length(DOCUMENT_TEXTS.c.text)
        async with self._places.of(organization).read() as read:
            version = version or int((await _one(read, organization, id_))["version"])
            found = await read.execute(
                select(length, func.substr(DOCUMENT_TEXTS.c.text, start + 1, max(0, end - start))).where(
                    DOCUMENT_TEXTS.c.organization_id == organization,
                    DOCUMENT_TEXTS.c.document_id == id_,
                    DOCUMENT_TEXTS.c.version == version,
                    select(document_of(organization, id_).subquery().c.id).exists(),
                )
            )
            row = found.one_or_none()
        if row is None:
            raise NotFound.of("document")
        total, text = int(row[0]), str(row[1])
        start = min(start, total)
        return TextRange(text, start, start + len(text), total, version)


async def _one(read: ReadOnly, organization: OrganizationId, id_: DocumentId) -> Row:
    row = (await read.execute(document_of(organization, id_))).mappings().one_or_none()
    if row is None:
        raise NotFound.of("document")
    return row


async def _named(write: ReadWrite, upload: Upload, *, lock: bool) -> Document | None:
    query = _documents(upload.organization_id, upload.knowledge_base_id).where(
        DOCUMENTS.c.display_name == upload.display_name
    )
    row = (await write.execute(query.with_for_update() if lock else query)).mappings().one_or_none()
    return document_from(row) if row else None


def _documents(organization: OrganizationId, knowledge_base: KnowledgeBaseId) -> Any:  # Any: a Select of all columns
    return select(DOCUMENTS).where(
        DOCUMENTS.c.organization_id == organization, DOCUMENTS.c.knowledge_base_id == knowledge_base
    )


def _stored(upload: Upload, there: Document | None, *, id_: DocumentId, now: datetime) -> Any:  # Any: insert or update
    values = {
        "media_type": upload.parsed.media_type.value,
        "size_bytes": upload.size_bytes,
        "sha256": upload.sha256,
        "state": DocumentState.QUEUED.value,
        "failure_reason": None,
        "failure_message": None,
        "progress": 0.0,
        "attempts": 0,
        "lease": None,
        "claimable_at": now,
        "updated_at": now,
    }
    if there is not None:
        return (
            update(DOCUMENTS)
            .where(DOCUMENTS.c.organization_id == upload.organization_id, DOCUMENTS.c.id == there.id)
            .values(**values, version=there.version + 1)
            .returning(*DOCUMENTS.c)
        )
    return (
        insert(DOCUMENTS)
        .values(
            **values,
            id=id_,
            organization_id=upload.organization_id,
            knowledge_base_id=upload.knowledge_base_id,
            display_name=upload.display_name,
            version=1,
            chunk_count=0,
            created_at=now,
        )
        .returning(*DOCUMENTS.c)
    )


def _blocks(parsed: ParsedDocument) -> list[list[object]]:
    return [[it.start, it.end, it.kind.value, list(it.headings), it.page] for it in parsed.blocks]
