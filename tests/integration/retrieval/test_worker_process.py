"""The worker as a process: what a kill leaves behind is taken over, what a stop leaves behind waits."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services.mesh.clock import SYSTEM_CLOCK
from services.mesh.ids import new_id
from services.mesh.postgres.database import open_database
from services.retrieval.app import open_encoder
from services.retrieval.model import Document, DocumentId, DocumentState, KnowledgeBase
from services.retrieval.settings import Settings
from services.retrieval.store_postgres import PostgresStore
from tests.support.retrieval import ACME, knowledge_base, until, upload

_ROOT = Path(__file__).parents[3]
_PARAGRAPHS = 400

StartWorker = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start_worker(settings: Settings) -> Iterator[StartWorker]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PARLEY_DATABASE_URL": settings.database_url.get_secret_value(),
            "PARLEY_VALKEY_URL": settings.valkey_url.get_secret_value(),
            "PARLEY_AUTH_TARGET": settings.auth_target,
            "PARLEY_RETRIEVAL_ENCODER_THREADS": "1",
            "PARLEY_RETRIEVAL_LEASE_S": "2",
            "PARLEY_RETRIEVAL_WORKER_POLL_S": "0.05",
        }
        command = [sys.executable, "-m", "services.retrieval", "worker"]
        started.append(subprocess.Popen(command, cwd=_ROOT, env=environment, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[PostgresStore]:
    async with open_database(settings, application="test") as database:
        yield PostgresStore(database)


async def _queued(store: PostgresStore, settings: Settings) -> tuple[KnowledgeBase, Document]:
    encoder = await asyncio.to_thread(open_encoder, settings)
    owner = knowledge_base(encoder=encoder.revision)
    await store.create_knowledge_base(owner, request_id=owner.id, request_digest="")
    source = "\n\n".join(
        f"Paragraph {number} tells the reader at some length about the topic that has the number {number}."
        for number in range(_PARAGRAPHS)
    )
    document = await store.put_document(
        upload(owner, source=source), id_=DocumentId(new_id("doc")), now=SYSTEM_CLOCK.now()
    )
    return owner, document


async def _until_state(store: PostgresStore, document: Document, state: DocumentState, progress: float = 0.0) -> None:
    async def holds() -> bool:
        seen = await store.document(ACME, document.id)
        return seen.state is state and seen.progress >= progress

    await until(holds, within_s=60.0)


async def test_killed_workers_document_is_taken_over_and_published_once(
    store: PostgresStore, settings: Settings, start_worker: StartWorker
) -> None:
    owner, document = await _queued(store, settings)
    first = start_worker()
    await _until_state(store, document, DocumentState.PROCESSING, progress=0.05)
    first.send_signal(signal.SIGKILL)

    start_worker()
    await _until_state(store, document, DocumentState.READY)

    sequence, rows = await store.rows(ACME, owner.id)
    assert (sequence, len(rows)) == (1, _PARAGRAPHS)


async def test_stopped_worker_puts_its_document_back_and_ends_cleanly(
    store: PostgresStore, settings: Settings, start_worker: StartWorker
) -> None:
    _, document = await _queued(store, settings)
    worker = start_worker()
    await _until_state(store, document, DocumentState.PROCESSING, progress=0.05)

    worker.send_signal(signal.SIGTERM)

    assert await asyncio.to_thread(worker.wait, 30) == 0
    assert (await store.document(ACME, document.id)).state is DocumentState.QUEUED
