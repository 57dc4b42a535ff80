"""Composition root of retrieval: settings to wiring, for its two processes."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parley.retrieval.v1 import (
    document_service_pb2_grpc,
    knowledge_base_service_pb2_grpc,
    search_service_pb2_grpc,
)
from services.mesh import tokens
from services.mesh.client import open_channel
from services.mesh.clock import SYSTEM_CLOCK
from services.mesh.debug_http import Check
from services.mesh.errors import Unimplemented
from services.mesh.postgres.migrate import Migrations
from services.mesh.postgres.shards.instances import open_places
from services.mesh.server import Register, run_worker, serve
from services.mesh.tasks import BoundedExecutor, Loop, periodic
from services.mesh.valkey import open_valkey
from services.retrieval.documents import Documents
from services.retrieval.embedding.cache import LocalVectors, ValkeyVectors
from services.retrieval.embedding.encoder import Encoder, EncoderError
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from services.retrieval.embedding.reference import SentenceTransformerEncoder
from services.retrieval.embedding.service import open_embedder
from services.retrieval.gate import Gate
from services.retrieval.index.shelf import Shelf
from services.retrieval.ingestion import IngestionLimits, Ingestor
from services.retrieval.knowledge import KnowledgeBases
from services.retrieval.parsing.outcome import Limits
from services.retrieval.parsing.sandbox import Sandbox, SandboxLimits
from services.retrieval.search import Search
from services.retrieval.servicers.documents import DocumentServicer
from services.retrieval.servicers.knowledge_bases import KnowledgeBaseServicer
from services.retrieval.servicers.search import EmbeddingServicer, SearchServicer
from services.retrieval.settings import Settings
from services.retrieval.store_postgres import PostgresStore
from services.retrieval.tables import METADATA

NAME: Final = "retrieval"
MIGRATIONS: Final = Migrations(NAME, METADATA, Path(__file__).parent / "migrations")

# More cores than this do not make one short question faster.
_ENCODER_THREADS_MAX: Final = 4
_SEARCHES_WAITING_MAX: Final = 512
_PURGE_EVERY_S: Final = 30.0
_MEASURE_EVERY_S: Final = 10.0
_DEFAULT_REFERENCE_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class Api:
    """What `serve` serves."""

    servicers: tuple[Register, ...]
    loops: tuple[Loop, ...]
    checks: tuple[Check, ...]


async def run_api(settings: Settings) -> None:
    """Serve the gRPC API."""
    async with open_api(settings) as api, open_channel(settings.auth_target, [tokens.CONTRACT], settings) as auth:
        await serve(
            settings,
            servicers=api.servicers,
            verifier=tokens.internal_verifier(NAME, auth),
            loops=api.loops,
            checks=api.checks,
        )


async def run_ingestion(settings: Settings) -> None:
    """Make queued documents searchable."""
    async with AsyncExitStack() as stack:
        places = await stack.enter_async_context(open_places(settings, application=f"{NAME} worker", service=NAME))
        encoder = open_encoder(settings)
        executor = await stack.enter_async_context(BoundedExecutor("encoder", threads=1, queue_max=1))
        store = PostgresStore(places)
        ingestor = Ingestor(
            store=store,
            encoder=encoder,
            executor=executor,
            clock=SYSTEM_CLOCK,
            limits=IngestionLimits(
                lease_s=settings.lease_s, poll_s=settings.worker_poll_s, retry_s=settings.worker_retry_s
            ),
        )
        await run_worker(
            settings,
            loops=(
                Loop("ingestion", ingestor.run, ingestor.stop),
                periodic("purge", ingestor.purge, every_s=_PURGE_EVERY_S),
                periodic("queue", ingestor.measure, every_s=_MEASURE_EVERY_S),
            ),
            checks=(Check("database", store.ping),),
        )


@asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[Api]:
    """Servicers and loops of the API on their connections."""
    encoder = open_encoder(settings)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        store = PostgresStore(await enter(open_places(settings, application=NAME, service=NAME)))
        valkey = await enter(open_valkey(settings, application=NAME))
        index = await enter(BoundedExecutor("index", threads=settings.index_threads, queue_max=_SEARCHES_WAITING_MAX))
        vectors = LocalVectors(settings.cached_questions_max, ValkeyVectors(valkey, dimension=encoder.dimension))
        embedder = await enter(open_embedder(encoder, vectors))
        shelf = Shelf(store, index, bytes_max=settings.index_bytes_max, refresh_wait_s=settings.refresh_wait_s)
        documents = Documents(
            store, Sandbox(_sandbox_limits(settings)), SYSTEM_CLOCK, file_bytes_max=settings.file_bytes_max
        )
        knowledge_bases = KnowledgeBases(store, SYSTEM_CLOCK, encoder=encoder.revision)
        search = Search(store=store, shelf=shelf, embedder=embedder, gate=Gate.shipped(), executor=index)
        yield Api(
            servicers=(
                lambda server: knowledge_base_service_pb2_grpc.add_KnowledgeBaseServiceServicer_to_server(
                    KnowledgeBaseServicer(knowledge_bases), server
                ),
                lambda server: document_service_pb2_grpc.add_DocumentServiceServicer_to_server(
                    DocumentServicer(documents), server
                ),
                lambda server: search_service_pb2_grpc.add_SearchServiceServicer_to_server(
                    SearchServicer(search), server
                ),
                lambda server: search_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(
                    EmbeddingServicer(embedder), server
                ),
            ),
            loops=(periodic("index", shelf.follow, every_s=settings.index_poll_s),),
            checks=(Check("database", store.ping),),
        )


def open_encoder(settings: Settings) -> Encoder:
    """The encoder that the settings name.

    Raises:
        Unimplemented: it cannot be loaded; the message says why.
    """
    threads = settings.encoder_threads or min(_ENCODER_THREADS_MAX, len(os.sched_getaffinity(0)))
    try:
        if settings.encoder == "sentence-transformers":
            return SentenceTransformerEncoder(settings.encoder_model or _DEFAULT_REFERENCE_MODEL, threads=threads)
        model = settings.encoder_model
        return OnnxEncoder(ModelFiles.in_folder(Path(model)) if model else ModelFiles.packaged(), threads=threads)
    except EncoderError as err:
        raise Unimplemented(f"the encoder cannot be loaded: {err}") from err


def _sandbox_limits(settings: Settings) -> SandboxLimits:
    return SandboxLimits(
        document=Limits(settings.pages_max, settings.characters_max),
        cpu_s=settings.parse_cpu_s,
        wall_s=settings.parse_wall_s,
        memory_bytes=settings.parse_memory_bytes,
        parallel_max=settings.parse_parallel_max,
    )
