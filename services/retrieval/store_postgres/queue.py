"""The queue of documents in PostgreSQL: claims by SKIP LOCKED, leases that every write must match."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, func, insert, literal, literal_column, select, text, update

from services.mesh.postgres.database import ReadWrite
from services.mesh.postgres.places import Whole, first_of
from services.retrieval.model import (
    Block,
    BlockKind,
    Claim,
    DocumentFailure,
    DocumentId,
    DocumentState,
    EmbeddedChunk,
    KnowledgeBaseId,
    MediaType,
    OrganizationId,
    ParsedDocument,
)
from services.retrieval.store import ATTEMPTS_MAX, GIVEN_UP, LeaseLostError, pack
from services.retrieval.store_postgres.statements import (
    KNOWLEDGE_BASE_OF_DOCUMENT,
    PostgresPart,
    Row,
    log_change,
    next_sequence,
)
from services.retrieval.tables import CHUNKS, DOCUMENT_TEXTS, DOCUMENTS, KNOWLEDGE_BASES

_ROWS_PER_INSERT: Final = 500
# Spelled as the partial index is: a plan that serves for every parameter would not know that it fits.
_WAITING: Final = DOCUMENTS.c.state.in_(
    [literal_column(f"'{state.value}'") for state in (DocumentState.QUEUED, DocumentState.PROCESSING)]
)


class PostgresQueue(PostgresPart):
    """See `QueueStore`."""

    async def claim(self, *, lease: str, until: datetime, now: datetime) -> Claim | None:
        """See `QueueStore`."""

        async def ask(here: Whole) -> Claim | None:
            return await _claim(here, lease=lease, until=until, now=now)

        return await first_of(self._places.each(), ask)

    async def renew(self, claim: Claim, *, until: datetime, progress: float, now: datetime) -> None:
        """See `QueueStore`."""
        async with self._places.of(claim.organization_id).write() as write:
            await _update_held(write, claim, claimable_at=until, progress=progress, updated_at=now)

    async def publish(self, claim: Claim, chunks: Sequence[EmbeddedChunk], *, now: datetime) -> None:
        """See `QueueStore`."""
        async with self._places.of(claim.organization_id).write() as write:
            sequence = await next_sequence(write, claim.organization_id, claim.knowledge_base_id)
            if sequence is None:
                raise LeaseLostError
            await _update_held(
                write,
                claim,
                state=DocumentState.READY.value,
                progress=1.0,
                chunk_count=len(chunks),
                lease=None,
                updated_at=now,
            )
            await write.execute(
                delete(CHUNKS).where(
                    CHUNKS.c.organization_id == claim.organization_id, CHUNKS.c.document_id == claim.document_id
                )
            )
            rows = [_chunk_row(claim, place, chunk) for place, chunk in enumerate(chunks)]
            for first in range(0, len(rows), _ROWS_PER_INSERT):
                await write.execute(insert(CHUNKS), rows[first : first + _ROWS_PER_INSERT])
            await log_change(
                write, claim.organization_id, claim.knowledge_base_id, claim.document_id, sequence=sequence
            )

    async def fail(self, claim: Claim, failure: DocumentFailure, *, now: datetime) -> None:
        """See `QueueStore`."""
        async with self._places.of(claim.organization_id).write() as write:
            await _update_held(write, claim, **_failed(failure, now))

    async def release(self, claim: Claim, *, retry_at: datetime, now: datetime) -> None:
        """See `QueueStore`."""
        values = {
            "state": DocumentState.QUEUED.value,
            "progress": 0.0,
            "lease": None,
            "claimable_at": retry_at,
            "updated_at": now,
        }
        async with self._places.of(claim.organization_id).write() as write:
            await write.execute(update(DOCUMENTS).where(_held(claim)).values(**values))

    async def pending(self, *, documents_max: int) -> int:
        """See `QueueStore`."""
        found = 0
        for here in self._places.each():
            unsettled = (
                select(literal(1))
                .select_from(DOCUMENTS.join(KNOWLEDGE_BASES, KNOWLEDGE_BASE_OF_DOCUMENT))
                # Spelled as the partial index is: a plan that serves for every parameter would not know that it fits.
                .where(text("documents.state IN ('queued', 'processing')"), here.present(DOCUMENTS.c.organization_id))
                .limit(documents_max)
                .subquery()
            )
            async with here.read() as read:
                found += (await read.execute(select(func.count()).select_from(unsettled))).scalar_one()
        return min(found, documents_max)

    async def purge(self, *, documents_max: int, tombstones_before: datetime) -> int:
        """See `QueueStore`."""
        purged = 0
        for here in self._places.each():
            purged += await _purge(here, documents_max=documents_max, tombstones_before=tombstones_before)
        return purged


async def _claim(here: Whole, *, lease: str, until: datetime, now: datetime) -> Claim | None:
    is_due = and_(_WAITING, DOCUMENTS.c.claimable_at <= now, here.present(DOCUMENTS.c.organization_id))
    async with here.write() as write:
        await write.execute(
            update(DOCUMENTS).where(is_due, DOCUMENTS.c.attempts >= ATTEMPTS_MAX).values(**_failed(GIVEN_UP, now))
        )
        next_one = (
            select(DOCUMENTS.c.organization_id, DOCUMENTS.c.id)
            .join(KNOWLEDGE_BASES, KNOWLEDGE_BASE_OF_DOCUMENT)
            .where(is_due)
            .order_by(DOCUMENTS.c.claimable_at, DOCUMENTS.c.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=DOCUMENTS)
            .cte("next_one")
        )
        claimed = await write.execute(
            update(DOCUMENTS)
            .where(
                DOCUMENTS.c.organization_id == next_one.c.organization_id,
                DOCUMENTS.c.id == next_one.c.id,
            )
            .values(
                state=DocumentState.PROCESSING.value,
                progress=0.0,
                attempts=DOCUMENTS.c.attempts + 1,
                lease=lease,
                claimable_at=until,
                updated_at=now,
            )
            .returning(*DOCUMENTS.c)
        )
        row = claimed.mappings().one_or_none()
        return await _claim_of(write, row, lease) if row else None


async def _purge(here: Whole, *, documents_max: int, tombstones_before: datetime) -> int:
    deleted = and_(KNOWLEDGE_BASES.c.deleted_at.is_not(None), here.present(KNOWLEDGE_BASES.c.organization_id))
    of_deleted = (
        select(DOCUMENTS.c.id)
        .join(
            KNOWLEDGE_BASES,
            and_(
                KNOWLEDGE_BASES.c.organization_id == DOCUMENTS.c.organization_id,
                KNOWLEDGE_BASES.c.id == DOCUMENTS.c.knowledge_base_id,
            ),
        )
        .where(deleted)
        .limit(documents_max)
    )
    has_documents = (
        select(literal(1))
        .where(
            DOCUMENTS.c.organization_id == KNOWLEDGE_BASES.c.organization_id,
            DOCUMENTS.c.knowledge_base_id == KNOWLEDGE_BASES.c.id,
        )
        .exists()
    )
    async with here.write() as write:
        gone = await write.execute(delete(DOCUMENTS).where(DOCUMENTS.c.id.in_(of_deleted)).returning(DOCUMENTS.c.id))
        count = len(gone.all())
        await write.execute(
            delete(KNOWLEDGE_BASES).where(deleted, KNOWLEDGE_BASES.c.deleted_at < tombstones_before, ~has_documents)
        )
        return count


async def _claim_of(write: ReadWrite, row: Row, lease: str) -> Claim:
    encoder = select(KNOWLEDGE_BASES.c.encoder).where(
        KNOWLEDGE_BASES.c.organization_id == row["organization_id"], KNOWLEDGE_BASES.c.id == row["knowledge_base_id"]
    )
    text = select(DOCUMENT_TEXTS.c.text, DOCUMENT_TEXTS.c.blocks).where(
        DOCUMENT_TEXTS.c.organization_id == row["organization_id"],
        DOCUMENT_TEXTS.c.document_id == row["id"],
        DOCUMENT_TEXTS.c.version == row["version"],
    )
    stored = (await write.execute(text)).one()
    return Claim(
        document_id=DocumentId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        knowledge_base_id=KnowledgeBaseId(row["knowledge_base_id"]),
        version=row["version"],
        display_name=row["display_name"],
        encoder=(await write.execute(encoder)).scalar_one(),
        lease=lease,
        attempt=row["attempts"],
        parsed=ParsedDocument(
            MediaType(row["media_type"]),
            stored.text,
            tuple(
                Block(start, end, BlockKind(kind), tuple(headings), page)
                for start, end, kind, headings, page in stored.blocks
            ),
        ),
    )


def _held(claim: Claim) -> ColumnElement[bool]:
    return and_(
        DOCUMENTS.c.organization_id == claim.organization_id,
        DOCUMENTS.c.id == claim.document_id,
        DOCUMENTS.c.version == claim.version,
        DOCUMENTS.c.lease == claim.lease,
    )


async def _update_held(write: ReadWrite, claim: Claim, **values: object) -> None:
    held = await write.execute(update(DOCUMENTS).where(_held(claim)).values(**values).returning(DOCUMENTS.c.id))
    if held.first() is None:
        raise LeaseLostError


def _failed(failure: DocumentFailure, now: datetime) -> dict[str, object]:
    return {
        "state": DocumentState.FAILED.value,
        "failure_reason": failure.reason,
        "failure_message": failure.message,
        "lease": None,
        "updated_at": now,
    }


def _chunk_row(claim: Claim, place: int, made: EmbeddedChunk) -> dict[str, object]:
    return {
        "id": made.id,
        "organization_id": claim.organization_id,
        "knowledge_base_id": claim.knowledge_base_id,
        "document_id": claim.document_id,
        "document_version": claim.version,
        "ordinal": place,
        "text": made.chunk.text,
        "start_offset": made.chunk.start,
        "end_offset": made.chunk.end,
        "title": made.chunk.title,
        "locator": made.chunk.locator,
        "embedding": pack(made.vector),
    }
