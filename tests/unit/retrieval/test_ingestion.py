import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from services.mesh.ids import new_id
from services.mesh.tasks import BoundedExecutor
from services.retrieval.embedding.encoder import Encoder, EncoderError, Vectors
from services.retrieval.ingestion import IngestionLimits, Ingestor
from services.retrieval.model import Document, DocumentId, DocumentState, KnowledgeBase
from services.retrieval.store_memory import MemoryStore
from tests.support.retrieval import ACME, NOW, WordEncoder, knowledge_base, until, upload

MakeIngestor = Callable[..., Ingestor]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def make(store: MemoryStore, clock: ManualClock) -> AsyncIterator[MakeIngestor]:
    async with BoundedExecutor("encoder", threads=1, queue_max=4) as executor:

        def made(encoder: Encoder | None = None, limits: IngestionLimits | None = None) -> Ingestor:
            return Ingestor(
                store=store,
                encoder=encoder or WordEncoder(),
                executor=executor,
                clock=clock,
                limits=limits or IngestionLimits(),
            )

        yield made


async def _queued(store: MemoryStore, source: str = "Cats sleep.\n\nDogs bark.") -> tuple[KnowledgeBase, Document]:
    owner = knowledge_base()
    await store.create_knowledge_base(owner, request_id=owner.id, request_digest="")
    document = await store.put_document(upload(owner, source=source), id_=DocumentId(new_id("doc")), now=NOW)
    return owner, document


async def test_queued_document_becomes_searchable(store: MemoryStore, make: MakeIngestor) -> None:
    owner, document = await _queued(store)

    assert await make().step()

    ready = await store.document(ACME, document.id)
    assert (ready.state, ready.chunk_count, ready.progress) == (DocumentState.READY, 2, 1.0)
    _, rows = await store.rows(ACME, owner.id)
    assert [row.searchable_text for row in rows] == ["notes\nCats sleep.", "notes\nDogs bark."]


async def test_empty_queue_is_no_work(make: MakeIngestor) -> None:
    assert not await make().step()


async def test_order_of_chunks_survives_batches_by_length(store: MemoryStore, make: MakeIngestor) -> None:
    source = "\n\n".join(f"{'word ' * (number % 9)}number {number}." for number in range(100))
    owner, _ = await _queued(store, source)
    encoder = WordEncoder()

    await make(encoder).step()

    _, rows = await store.rows(ACME, owner.id)
    assert [row.searchable_text.rsplit(" ", 1)[1] for row in rows] == [f"{number}." for number in range(100)]
    assert [len(call) for call in encoder.calls] == [32, 32, 32, 4]
    for row in rows:
        assert float(row.vector @ encoder.encode([row.searchable_text])[0]) > 0.999


async def test_document_of_another_encoder_fails_and_says_so(store: MemoryStore, make: MakeIngestor) -> None:
    owner = knowledge_base(encoder="other@2")
    await store.create_knowledge_base(owner, request_id=owner.id, request_digest="")
    document = await store.put_document(upload(owner), id_=DocumentId(new_id("doc")), now=NOW)

    await make().step()

    failed = await store.document(ACME, document.id)
    assert failed.state is DocumentState.FAILED
    assert failed.failure is not None
    assert failed.failure.reason == "RETRIEVAL_UNAVAILABLE"
    assert "other@2" in failed.failure.message


@pytest.mark.parametrize(("chunks", "state"), [(2, DocumentState.READY), (3, DocumentState.FAILED)])
async def test_limit_of_chunks_is_exact(
    store: MemoryStore, make: MakeIngestor, chunks: int, state: DocumentState
) -> None:
    _, document = await _queued(store, "\n\n".join(f"Paragraph {number}." for number in range(chunks)))

    await make(limits=IngestionLimits(chunks_max=2)).step()

    settled = await store.document(ACME, document.id)
    assert settled.state is state
    assert (settled.failure.reason if settled.failure else "") == ("" if chunks == 2 else "DOCUMENT_TOO_LARGE")


class _BrokenEncoder(WordEncoder):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    def encode(self, texts: object) -> Vectors:
        if self.error is not None:
            raise self.error
        return super().encode(texts)  # type: ignore[arg-type]  # a list of texts, as the port says


@pytest.mark.parametrize("error", [EncoderError("NaN"), Unavailable("away")])
async def test_trouble_puts_the_document_back_for_a_while(
    store: MemoryStore, make: MakeIngestor, clock: ManualClock, error: Exception
) -> None:
    _, document = await _queued(store)
    encoder = _BrokenEncoder(error)
    ingestor = make(encoder)

    assert await ingestor.step()
    assert (await store.document(ACME, document.id)).state is DocumentState.QUEUED
    assert not await ingestor.step()
    encoder.error = None
    clock.advance(5.0)
    assert await ingestor.step()

    assert (await store.document(ACME, document.id)).state is DocumentState.READY


async def test_dead_workers_document_is_taken_over(store: MemoryStore, make: MakeIngestor, clock: ManualClock) -> None:
    _, document = await _queued(store)
    dead = await store.claim(lease="dead", until=clock.now() + (NOW - NOW), now=clock.now())
    assert dead is not None
    clock.advance(1.0)

    assert await make().step()

    assert (await store.document(ACME, document.id)).state is DocumentState.READY


async def test_worker_that_lost_its_document_drops_it(store: MemoryStore, make: MakeIngestor) -> None:
    owner, document = await _queued(store)

    class Stealing(WordEncoder):
        """While it encodes, a new version comes."""

        def encode(self, texts: object) -> Vectors:
            row = store._documents[document.id]
            row.document = replace(row.document, version=2)
            return super().encode(texts)  # type: ignore[arg-type]  # a list of texts, as the port says

    assert await make(Stealing()).step()

    assert (await store.rows(ACME, owner.id))[1] == ()


async def test_stopping_puts_the_document_back_at_once(store: MemoryStore, make: MakeIngestor) -> None:
    _, document = await _queued(store)
    encoder = WordEncoder()
    ingestor = make(encoder)
    ingestor._is_stopping = True

    await ingestor.step()

    assert (await store.document(ACME, document.id)).state is DocumentState.QUEUED
    assert await make().step()
    assert (await store.document(ACME, document.id)).state is DocumentState.READY


async def test_run_works_until_stopped(store: MemoryStore, make: MakeIngestor) -> None:
    _, document = await _queued(store)
    ingestor = make(limits=IngestionLimits(poll_s=0.001))
    running = asyncio.ensure_future(ingestor.run())

    async def is_ready() -> bool:
        return (await store.document(ACME, document.id)).state is DocumentState.READY

    await until(is_ready)

    await ingestor.stop()

    async with asyncio.timeout(10):
        await running


async def test_purge_goes_on_until_nothing_is_left(store: MemoryStore, make: MakeIngestor) -> None:
    owner = knowledge_base()
    await store.create_knowledge_base(owner, request_id=owner.id, request_digest="")
    for number in range(45):
        await store.put_document(upload(owner, f"{number}.txt"), id_=DocumentId(new_id("doc")), now=NOW)
    await store.delete_knowledge_base(ACME, owner.id, now=NOW)

    await make().purge()

    assert store._documents == {}
