"""What retrieval keeps: the port that use cases see. Rows are the truth; the index is made from them.

Every method that is not about the queue takes the organization, and answers about another one's ids as about random
ones: NotFound, or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import numpy as np

from services.retrieval.model import (
    Changes,
    ChunkKey,
    Claim,
    Document,
    DocumentFailure,
    DocumentId,
    EmbeddedChunk,
    Head,
    IndexRow,
    KnowledgeBase,
    KnowledgeBaseId,
    OrganizationId,
    StoredPassage,
    TextRange,
    Upload,
    Vector,
)

ATTEMPTS_MAX: Final = 5
"""Claims of one document before it is given up: a file that kills its worker must not kill all of them for ever."""
GIVEN_UP: Final = DocumentFailure("INTERNAL", "the document could not be processed; upload it again")


class LeaseLostError(Exception):
    """Somebody else has the document now, or it is gone, or a newer version came: the work is to be dropped."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list in descending order of ids.

    Attributes:
        before: the last id of the page before; None for the first page.
        limit: rows at most.
    """

    before: str | None
    limit: int


class KnowledgeBaseStore(Protocol):
    """Knowledge bases."""

    async def create_knowledge_base(
        self, made: KnowledgeBase, *, request_id: str, request_digest: str
    ) -> KnowledgeBase:
        """Stores `made`, or returns the one that the same request made before.

        Raises:
            AlreadyExists: the name is taken.
            IdempotencyMismatch: the request id came before with another digest.
            NotFound: the request made one that was deleted since.
        """
        ...

    async def knowledge_base(self, organization: OrganizationId, id_: KnowledgeBaseId) -> KnowledgeBase:
        """One knowledge base with its counts.

        Raises:
            NotFound: there is none.
        """
        ...

    async def knowledge_bases(self, organization: OrganizationId, page: Page) -> list[KnowledgeBase]:
        """Knowledge bases with their counts, newest first."""
        ...

    async def update_knowledge_base(
        self,
        organization: OrganizationId,
        id_: KnowledgeBaseId,
        *,
        display_name: str | None,
        description: str | None,
        now: datetime,
    ) -> KnowledgeBase:
        """Changes what is not None.

        Raises:
            NotFound: there is none.
            AlreadyExists: the name is taken.
        """
        ...

    async def delete_knowledge_base(self, organization: OrganizationId, id_: KnowledgeBaseId, *, now: datetime) -> None:
        """Hides it and all its documents from everybody, at once.

        Raises:
            NotFound: there is none.
        """
        ...


class DocumentStore(Protocol):
    """Documents and their texts."""

    async def put_document(self, upload: Upload, *, id_: DocumentId, now: datetime) -> Document:
        """Queues a new document, or the next version of the one with this name; the same bytes change nothing.

        A document that failed is tried again by the same bytes.

        Raises:
            NotFound: there is no such knowledge base.
        """
        ...

    async def document(self, organization: OrganizationId, id_: DocumentId) -> Document:
        """One document.

        Raises:
            NotFound: there is none.
        """
        ...

    async def document_named(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, display_name: str
    ) -> Document | None:
        """The document of that name.

        Raises:
            NotFound: there is no such knowledge base.
        """
        ...

    async def documents(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, page: Page
    ) -> list[Document]:
        """Documents, newest first.

        Raises:
            NotFound: there is no such knowledge base.
        """
        ...

    async def delete_document(self, organization: OrganizationId, id_: DocumentId) -> None:
        """Removes a document with its chunks and texts; commits a change of its knowledge base.

        Raises:
            NotFound: there is none.
        """
        ...

    async def read_text(
        self, organization: OrganizationId, id_: DocumentId, *, version: int, start: int, end: int
    ) -> TextRange:
        """Part of a document's text; version 0 is the present one. Offsets past the end are cut.

        Raises:
            NotFound: there is no such document or version.
        """
        ...


class QueueStore(Protocol):
    """The documents that wait for a worker. Workers serve all organizations."""

    async def claim(self, *, lease: str, until: datetime, now: datetime) -> Claim | None:
        """Takes the document that waits longest, or one whose worker let its lease lapse; None when none waits.

        A document that was claimed ATTEMPTS_MAX times becomes FAILED instead.
        """
        ...

    async def renew(self, claim: Claim, *, until: datetime, progress: float, now: datetime) -> None:
        """Keeps the lease and shows progress.

        Raises:
            LeaseLostError: it is no longer ours.
        """
        ...

    async def publish(self, claim: Claim, chunks: Sequence[EmbeddedChunk], *, now: datetime) -> None:
        """Replaces the document's chunks, makes it READY and commits a change, all at once.

        Raises:
            LeaseLostError: it is no longer ours.
        """
        ...

    async def fail(self, claim: Claim, failure: DocumentFailure, *, now: datetime) -> None:
        """Makes the document FAILED; what was searchable of the version before stays so.

        Raises:
            LeaseLostError: it is no longer ours.
        """
        ...

    async def release(self, claim: Claim, *, retry_at: datetime, now: datetime) -> None:
        """Puts the document back into the queue, not to be claimed before `retry_at`. Losing the lease is no error."""
        ...

    async def pending(self, *, documents_max: int) -> int:
        """How many documents wait for a worker or are in the hands of one; counts up to the bound."""
        ...

    async def purge(self, *, documents_max: int, tombstones_before: datetime) -> int:
        """Removes rows of deleted knowledge bases, some documents at a time; how many went.

        The tombstone of a knowledge base stays until `tombstones_before`, so that a repeated request finds it.
        """
        ...


class IndexStore(Protocol):
    """What the index is made from, and what every hit is checked against."""

    async def head(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId) -> Head:
        """Where a knowledge base stands.

        Raises:
            NotFound: there is none.
        """
        ...

    async def heads(
        self, knowledge_bases: Sequence[tuple[OrganizationId, KnowledgeBaseId]]
    ) -> dict[KnowledgeBaseId, Head]:
        """Where several stand; those that are gone are missing."""
        ...

    async def rows(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId
    ) -> tuple[int, tuple[IndexRow, ...]]:
        """All chunks, and a sequence that they are not older than.

        Raises:
            NotFound: there is no such knowledge base.
        """
        ...

    async def changes(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, *, after: int) -> Changes:
        """What changed after a sequence. Chunks may be newer than the sequence that is returned, never older.

        Raises:
            NotFound: there is no such knowledge base.
        """
        ...

    async def passages(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, keys: Sequence[ChunkKey]
    ) -> dict[ChunkKey, StoredPassage]:
        """Those of the chunks that are searchable at this moment."""
        ...


class Store(KnowledgeBaseStore, DocumentStore, QueueStore, IndexStore, Protocol):
    """All of it."""

    async def ping(self) -> None:
        """Whether the store answers; for readiness.

        Raises:
            Unavailable: it does not.
        """
        ...


def pack(vector: Vector) -> bytes:
    """A vector in half precision, as it is stored; the loss is far below that of int8 weights."""
    return vector.astype("<f2").tobytes()


def unpack(packed: bytes) -> Vector:
    """The vector that `pack` stored, of length 1 again: rounding moves the length, and a cosine above 1 is none."""
    vector: Vector = np.frombuffer(packed, dtype="<f2").astype(np.float32)
    return vector / np.linalg.norm(vector)
