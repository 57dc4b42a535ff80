"""The store in a dictionary, for tests of use cases; it passes the same suite as PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.mesh.errors import AlreadyExists, IdempotencyMismatch, NotFound
from services.retrieval.model import (
    Changes,
    ChunkKey,
    Claim,
    Document,
    DocumentFailure,
    DocumentId,
    DocumentState,
    EmbeddedChunk,
    Head,
    IndexRow,
    KnowledgeBase,
    KnowledgeBaseId,
    OrganizationId,
    ParsedDocument,
    StoredPassage,
    TextRange,
    Upload,
)
from services.retrieval.store import ATTEMPTS_MAX, GIVEN_UP, LeaseLostError, Page, pack, unpack


@dataclass(slots=True)
class _KnowledgeBaseRow:
    made: KnowledgeBase
    request_id: str
    request_digest: str
    deleted_at: datetime | None = None
    changes: dict[DocumentId, int] = field(default_factory=dict)


@dataclass(slots=True)
class _DocumentRow:
    document: Document
    claimable_at: datetime
    texts: dict[int, ParsedDocument] = field(default_factory=dict)
    chunks: dict[ChunkKey, tuple[EmbeddedChunk, bytes]] = field(default_factory=dict)
    chunks_version: int = 0
    attempts: int = 0
    lease: str | None = None


class MemoryStore:
    """See `Store`. For one event loop."""

    def __init__(self) -> None:
        self._knowledge_bases: dict[KnowledgeBaseId, _KnowledgeBaseRow] = {}
        self._documents: dict[DocumentId, _DocumentRow] = {}
        self._keys = 0

    async def ping(self) -> None:
        """See `Store.ping`."""

    # ------------------------------------------------------------------------------------------------ knowledge bases

    async def create_knowledge_base(
        self, made: KnowledgeBase, *, request_id: str, request_digest: str
    ) -> KnowledgeBase:
        """See `KnowledgeBaseStore`."""
        for row in self._knowledge_bases.values():
            if (row.made.organization_id, row.request_id) == (made.organization_id, request_id):
                if row.request_digest != request_digest:
                    raise IdempotencyMismatch
                return await self.knowledge_base(made.organization_id, row.made.id)
        self._refuse_taken_name(made.organization_id, made.display_name, except_id=made.id)
        self._knowledge_bases[made.id] = _KnowledgeBaseRow(made, request_id, request_digest)
        return made

    async def knowledge_base(self, organization: OrganizationId, id_: KnowledgeBaseId) -> KnowledgeBase:
        """See `KnowledgeBaseStore`."""
        return self._counted(self._knowledge_base(organization, id_))

    async def knowledge_bases(self, organization: OrganizationId, page: Page) -> list[KnowledgeBase]:
        """See `KnowledgeBaseStore`."""
        mine = [
            row
            for id_, row in sorted(self._knowledge_bases.items(), reverse=True)
            if row.made.organization_id == organization
            and row.deleted_at is None
            and (page.before is None or id_ < page.before)
        ]
        return [self._counted(row) for row in mine[: page.limit]]

    async def update_knowledge_base(
        self,
        organization: OrganizationId,
        id_: KnowledgeBaseId,
        *,
        display_name: str | None,
        description: str | None,
        now: datetime,
    ) -> KnowledgeBase:
        """See `KnowledgeBaseStore`."""
        row = self._knowledge_base(organization, id_)
        if display_name is not None:
            self._refuse_taken_name(organization, display_name, except_id=id_)
        row.made = replace(
            row.made,
            display_name=row.made.display_name if display_name is None else display_name,
            description=row.made.description if description is None else description,
            update_time=now,
        )
        return self._counted(row)

    async def delete_knowledge_base(self, organization: OrganizationId, id_: KnowledgeBaseId, *, now: datetime) -> None:
        """See `KnowledgeBaseStore`."""
        self._knowledge_base(organization, id_).deleted_at = now

    # ------------------------------------------------------------------------------------------------------ documents

    async def put_document(self, upload: Upload, *, id_: DocumentId, now: datetime) -> Document:
        """See `DocumentStore`."""
        there = await self.document_named(upload.organization_id, upload.knowledge_base_id, upload.display_name)
        if there and there.sha256 == upload.sha256 and there.state is not DocumentState.FAILED:
            return there
        row = self._documents[there.id] if there else None
        document = Document(
            id=there.id if there else id_,
            organization_id=upload.organization_id,
            knowledge_base_id=upload.knowledge_base_id,
            version=there.version + 1 if there else 1,
            display_name=upload.display_name,
            media_type=upload.parsed.media_type,
            size_bytes=upload.size_bytes,
            sha256=upload.sha256,
            state=DocumentState.QUEUED,
            create_time=there.create_time if there else now,
            update_time=now,
            chunk_count=there.chunk_count if there else 0,
        )
        row = row or _DocumentRow(document, now)
        row.document, row.claimable_at, row.attempts, row.lease = document, now, 0, None
        row.texts[document.version] = upload.parsed
        self._documents[document.id] = row
        return document

    async def document(self, organization: OrganizationId, id_: DocumentId) -> Document:
        """See `DocumentStore`."""
        return self._document(organization, id_).document

    async def document_named(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, display_name: str
    ) -> Document | None:
        """See `DocumentStore`."""
        self._knowledge_base(organization, knowledge_base)
        named = [row.document for row in self._of(knowledge_base) if row.document.display_name == display_name]
        return named[0] if named else None

    async def documents(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, page: Page
    ) -> list[Document]:
        """See `DocumentStore`."""
        self._knowledge_base(organization, knowledge_base)
        newest = sorted((row.document for row in self._of(knowledge_base)), key=lambda it: it.id, reverse=True)
        return [it for it in newest if page.before is None or it.id < page.before][: page.limit]

    async def delete_document(self, organization: OrganizationId, id_: DocumentId) -> None:
        """See `DocumentStore`."""
        document = self._document(organization, id_).document
        del self._documents[id_]
        self._change(document)

    async def read_text(
        self, organization: OrganizationId, id_: DocumentId, *, version: int, start: int, end: int
    ) -> TextRange:
        """See `DocumentStore`."""
        row = self._document(organization, id_)
        version = version or row.document.version
        if version not in row.texts:
            raise NotFound.of("document")
        text = row.texts[version].text
        start, end = min(start, len(text)), min(end, len(text))
        return TextRange(text[start:end], start, end, len(text), version)

    # ---------------------------------------------------------------------------------------------------------- queue

    async def claim(self, *, lease: str, until: datetime, now: datetime) -> Claim | None:
        """See `QueueStore`."""
        for row in sorted(self._documents.values(), key=lambda it: (it.claimable_at, it.document.id)):
            knowledge_base = self._knowledge_bases[row.document.knowledge_base_id]
            if row.document.is_settled or row.claimable_at > now or knowledge_base.deleted_at:
                continue
            if row.attempts >= ATTEMPTS_MAX:
                row.document = _failed(row.document, GIVEN_UP, now)
                continue
            row.attempts, row.lease, row.claimable_at = row.attempts + 1, lease, until
            row.document = replace(row.document, state=DocumentState.PROCESSING, progress=0.0, update_time=now)
            return Claim(
                document_id=row.document.id,
                organization_id=row.document.organization_id,
                knowledge_base_id=row.document.knowledge_base_id,
                version=row.document.version,
                display_name=row.document.display_name,
                encoder=knowledge_base.made.encoder,
                lease=lease,
                attempt=row.attempts,
                parsed=row.texts[row.document.version],
            )
        return None

    async def renew(self, claim: Claim, *, until: datetime, progress: float, now: datetime) -> None:
        """See `QueueStore`."""
        row = self._held(claim)
        row.claimable_at = until
        row.document = replace(row.document, progress=progress, update_time=now)

    async def publish(self, claim: Claim, chunks: Sequence[EmbeddedChunk], *, now: datetime) -> None:
        """See `QueueStore`."""
        row = self._held(claim)
        row.chunks = {self._next_key(): (made, pack(made.vector)) for made in chunks}
        row.chunks_version, row.lease = claim.version, None
        row.document = replace(
            row.document, state=DocumentState.READY, progress=1.0, chunk_count=len(chunks), update_time=now
        )
        self._change(row.document)

    async def fail(self, claim: Claim, failure: DocumentFailure, *, now: datetime) -> None:
        """See `QueueStore`."""
        row = self._held(claim)
        row.lease, row.document = None, _failed(row.document, failure, now)

    async def release(self, claim: Claim, *, retry_at: datetime, now: datetime) -> None:
        """See `QueueStore`."""
        try:
            row = self._held(claim)
        except LeaseLostError:
            return
        row.lease, row.claimable_at = None, retry_at
        row.document = replace(row.document, state=DocumentState.QUEUED, progress=0.0, update_time=now)

    async def pending(self, *, documents_max: int) -> int:
        """See `QueueStore`."""
        unsettled = [
            row
            for row in self._documents.values()
            if not row.document.is_settled and not self._knowledge_bases[row.document.knowledge_base_id].deleted_at
        ]
        return min(len(unsettled), documents_max)

    async def purge(self, *, documents_max: int, tombstones_before: datetime) -> int:
        """See `QueueStore`."""
        gone = [
            id_
            for id_, row in self._documents.items()
            if self._knowledge_bases[row.document.knowledge_base_id].deleted_at is not None
        ][:documents_max]
        for id_ in gone:
            del self._documents[id_]
        for knowledge_base_id, row in list(self._knowledge_bases.items()):
            is_old = row.deleted_at is not None and row.deleted_at < tombstones_before
            if is_old and not self._of(knowledge_base_id):
                del self._knowledge_bases[knowledge_base_id]
        return len(gone)

    # ---------------------------------------------------------------------------------------------------------- index

    async def head(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId) -> Head:
        """See `IndexStore`."""
        made = self._knowledge_base(organization, knowledge_base).made
        return Head(made.sequence, made.encoder)

    async def heads(
        self, knowledge_bases: Sequence[tuple[OrganizationId, KnowledgeBaseId]]
    ) -> dict[KnowledgeBaseId, Head]:
        """See `IndexStore`."""
        heads = {}
        for organization, knowledge_base in knowledge_bases:
            try:
                heads[knowledge_base] = await self.head(organization, knowledge_base)
            except NotFound:
                continue
        return heads

    async def rows(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId
    ) -> tuple[int, tuple[IndexRow, ...]]:
        """See `IndexStore`."""
        made = self._knowledge_base(organization, knowledge_base).made
        return made.sequence, tuple(row for document in self._of(knowledge_base) for row in _index_rows(document))

    async def changes(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, *, after: int) -> Changes:
        """See `IndexStore`."""
        row = self._knowledge_base(organization, knowledge_base)
        touched = tuple(document for document, sequence in row.changes.items() if sequence > after)
        present = [self._documents[document] for document in touched if document in self._documents]
        return Changes(row.made.sequence, touched, tuple(made for it in present for made in _index_rows(it)))

    async def passages(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, keys: Sequence[ChunkKey]
    ) -> dict[ChunkKey, StoredPassage]:
        """See `IndexStore`."""
        try:
            self._knowledge_base(organization, knowledge_base)
        except NotFound:
            return {}
        return {
            key: StoredPassage(
                key=key,
                chunk_id=made.id,
                document_id=row.document.id,
                document_version=row.chunks_version,
                document_name=row.document.display_name,
                text=made.chunk.text,
                start=made.chunk.start,
                end=made.chunk.end,
                locator=made.chunk.locator,
            )
            for row in self._of(knowledge_base)
            for key, (made, _) in row.chunks.items()
            if key in set(keys)
        }

    # -------------------------------------------------------------------------------------------------------- details

    def _knowledge_base(self, organization: OrganizationId, id_: KnowledgeBaseId) -> _KnowledgeBaseRow:
        row = self._knowledge_bases.get(id_)
        if row is None or row.made.organization_id != organization or row.deleted_at is not None:
            raise NotFound.of("knowledge_base")
        return row

    def _document(self, organization: OrganizationId, id_: DocumentId) -> _DocumentRow:
        row = self._documents.get(id_)
        if row is None or row.document.organization_id != organization:
            raise NotFound.of("document")
        if self._knowledge_bases[row.document.knowledge_base_id].deleted_at is not None:
            raise NotFound.of("document")
        return row

    def _of(self, knowledge_base: KnowledgeBaseId) -> list[_DocumentRow]:
        return [row for row in self._documents.values() if row.document.knowledge_base_id == knowledge_base]

    def _held(self, claim: Claim) -> _DocumentRow:
        row = self._documents.get(claim.document_id)
        if row is None or row.lease != claim.lease or row.document.version != claim.version:
            raise LeaseLostError
        if self._knowledge_bases[row.document.knowledge_base_id].deleted_at is not None:
            raise LeaseLostError
        return row

    def _counted(self, row: _KnowledgeBaseRow) -> KnowledgeBase:
        documents = [it.document for it in self._of(row.made.id)]
        return replace(row.made, document_count=len(documents), chunk_count=sum(it.chunk_count for it in documents))

    def _refuse_taken_name(self, organization: OrganizationId, name: str, *, except_id: KnowledgeBaseId) -> None:
        for id_, row in self._knowledge_bases.items():
            is_same_name = (row.made.organization_id, row.made.display_name) == (organization, name)
            if is_same_name and id_ != except_id and row.deleted_at is None:
                raise AlreadyExists(f"there is a knowledge base named {name!r}", metadata={"field": "display_name"})

    def _change(self, document: Document) -> None:
        row = self._knowledge_bases[document.knowledge_base_id]
        row.made = replace(row.made, sequence=row.made.sequence + 1)
        row.changes[document.id] = row.made.sequence

    def _next_key(self) -> ChunkKey:
        self._keys += 1
        return ChunkKey(self._keys)


def _failed(document: Document, failure: DocumentFailure, now: datetime) -> Document:
    return replace(document, state=DocumentState.FAILED, failure=failure, update_time=now)


def _index_rows(row: _DocumentRow) -> list[IndexRow]:
    return [
        IndexRow(key, row.document.id, made.chunk.searchable_text, unpack(packed))
        for key, (made, packed) in row.chunks.items()
    ]
