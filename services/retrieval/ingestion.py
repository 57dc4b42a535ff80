"""Makes queued documents searchable: claim, chunk, embed, publish.

A worker may die anywhere: its lease lapses, the next one takes over, and what the dead one still writes is refused.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np

from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import MeshError
from services.mesh.ids import new_id
from services.mesh.tasks import BoundedExecutor
from services.retrieval.chunking import chunk
from services.retrieval.embedding.encoder import Encoder, EncoderError, Vectors
from services.retrieval.model import Chunk, Claim, DocumentFailure, EmbeddedChunk
from services.retrieval.store import LeaseLostError, QueueStore

# Between two batches the worker shows progress and can be stopped; 32 chunks take about a second on two cores.
_BATCH_CHUNKS: Final = 32
_TOMBSTONES_KEPT: Final = timedelta(days=1)  # longer than any client repeats a request
_PURGED_DOCUMENTS_MAX: Final = 20
_PENDING_MAX: Final = 10_000  # more would scale no further, and be slow to count

_log = telemetry.logger("retrieval.ingestion")
_DOCUMENTS: Final = telemetry.counter(
    "parley_retrieval_documents", "Documents by how their processing ended.", ["outcome"]
)
_PENDING: Final = telemetry.gauge(
    "parley_retrieval_documents_pending_count", "Documents that wait for a worker or are in the hands of one."
)
_CHUNKS: Final = telemetry.counter("parley_retrieval_chunks", "Chunks that were embedded.")
_SECONDS: Final = telemetry.histogram(
    "parley_retrieval_document_seconds",
    "Time from claim to publication.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestionLimits:
    """How the worker holds documents.

    Attributes:
        lease_s: after this without a sign of life, another worker may take the document.
        poll_s: pause when nothing waits.
        retry_s: pause before a document is tried again, times the attempt.
        chunks_max: a document with more is refused.
    """

    lease_s: float = 60.0
    poll_s: float = 0.25
    retry_s: float = 5.0
    chunks_max: int = 50_000


class Ingestor:
    """A worker of the queue of documents.

    Args:
        store: the queue.
        encoder: of chunks.
        executor: where the encoder runs.
        clock: the time.
        limits: see there.
    """

    def __init__(
        self, *, store: QueueStore, encoder: Encoder, executor: BoundedExecutor, clock: Clock, limits: IngestionLimits
    ) -> None:
        self._store = store
        self._encoder = encoder
        self._executor = executor
        self._clock = clock
        self._limits = limits
        self._is_stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Works until cancelled, or until `stop`."""
        while not self._is_stopping:
            if not await self.step():
                await asyncio.sleep(self._limits.poll_s)

    async def stop(self) -> None:
        """Takes no further document, and returns when the one in hand is done or back in the queue."""
        self._is_stopping = True
        await self._idle.wait()

    async def step(self) -> bool:
        """Processes one document; False when none waits."""
        now = self._clock.now()
        claim = await self._store.claim(lease=new_id("lease"), until=now + self._lease, now=now)
        if claim is None:
            return False
        self._idle.clear()
        try:
            with _SECONDS.time():
                outcome = await self._process(claim)
        finally:
            self._idle.set()
        _DOCUMENTS.labels(outcome).inc()
        _log.info(
            "document_processed",
            document=claim.document_id,
            version=claim.version,
            attempt=claim.attempt,
            outcome=outcome,
        )
        return True

    async def measure(self) -> None:
        """Shows what is in the queue; every worker shows the same figure, by which their number is scaled."""
        _PENDING.set(await self._store.pending(documents_max=_PENDING_MAX))

    async def purge(self) -> None:
        """Removes rows of deleted knowledge bases, until none are left."""
        before = self._clock.now() - _TOMBSTONES_KEPT
        while await self._store.purge(documents_max=_PURGED_DOCUMENTS_MAX, tombstones_before=before):
            continue

    @property
    def _lease(self) -> timedelta:
        return timedelta(seconds=self._limits.lease_s)

    async def _process(self, claim: Claim) -> str:
        """How it ended: published, failed, retried, released or lost."""
        try:
            refusal = await self._publish(claim)
            if refusal is None:
                return "published"
            await self._store.fail(claim, refusal, now=self._clock.now())
            return "failed"
        except LeaseLostError:
            return "lost"
        except _Stopping:
            await self._release(claim, retry_s=0.0)
            return "released"
        except asyncio.CancelledError:
            await asyncio.shield(self._release(claim, retry_s=0.0))
            raise
        except (MeshError, EncoderError):
            _log.exception("document_not_processed", document=claim.document_id, attempt=claim.attempt)
            with suppress(MeshError):  # without a database the lease lapses by itself
                await self._release(claim, retry_s=self._limits.retry_s * claim.attempt)
            return "retried"

    async def _publish(self, claim: Claim) -> DocumentFailure | None:
        """Why not, or None when it is done."""
        if claim.encoder != self._encoder.revision:
            return DocumentFailure(
                "RETRIEVAL_UNAVAILABLE",
                f"the knowledge base was made for the encoder {claim.encoder!r}; this server runs another one",
            )
        chunks = await self._executor.run(
            chunk, claim.parsed, display_name=claim.display_name, count_tokens=self._encoder.count_tokens
        )
        if len(chunks) > self._limits.chunks_max:
            return DocumentFailure("DOCUMENT_TOO_LARGE", f"the text makes more than {self._limits.chunks_max} chunks")
        vectors = await self._embedded(claim, chunks)
        made = [EmbeddedChunk(new_id("chk"), piece, vector) for piece, vector in zip(chunks, vectors, strict=True)]
        await self._store.publish(claim, made, now=self._clock.now())
        _CHUNKS.inc(len(made))
        return None

    async def _embedded(self, claim: Claim, chunks: Sequence[Chunk]) -> Vectors:
        """Vectors of all chunks, by length, so that a batch holds little padding; renews the lease between batches."""
        order = sorted(range(len(chunks)), key=lambda place: len(chunks[place].searchable_text))
        vectors = np.empty((len(chunks), self._encoder.dimension), dtype=np.float32)
        for first in range(0, len(order), _BATCH_CHUNKS):
            batch = order[first : first + _BATCH_CHUNKS]
            vectors[batch] = await self._executor.run(
                self._encoder.encode, [chunks[place].searchable_text for place in batch]
            )
            if self._is_stopping:
                raise _Stopping
            now = self._clock.now()
            progress = (first + len(batch)) / (len(order) + 1)  # whole only when it is published
            await self._store.renew(claim, until=now + self._lease, progress=progress, now=now)
        return vectors

    async def _release(self, claim: Claim, *, retry_s: float) -> None:
        now = self._clock.now()
        await self._store.release(claim, retry_at=now + timedelta(seconds=retry_s), now=now)


class _Stopping(Exception):  # noqa: N818 - not an error: the process ends, the document goes back
    """The worker is being stopped."""
