"""Every store, queue and journal of conversation."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import pytest

from dev import kafka
from services.conversation.history.branches import HistoryCache
from services.conversation.history.cache_valkey import ValkeyHistoryCache
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Journal, Tail
from services.conversation.journal.valkey import ValkeyJournal
from services.conversation.journal.valkey_tail import ValkeyTail
from services.conversation.queue.kafka.queue import open_kafka_queue
from services.conversation.queue.memory import MemoryQueue
from services.conversation.queue.port import Queue
from services.conversation.queue.valkey import ValkeyQueue
from services.conversation.store import Store
from services.conversation.store_memory import MemoryStore
from services.conversation.store_postgres import PostgresStore
from services.conversation.store_postgres.handling import Handling
from services.conversation.store_postgres.intake import Intake
from services.conversation.wire.events import EventCodec
from services.mesh.postgres.database import open_database
from services.mesh.valkey import open_valkey
from tests.support.conversation import database_settings, valkey_settings
from tests.support.conversation_fakes import MemoryHistoryCache
from tests.support.kafka import joined, own_topic
from tests.support.valkey import emptied, url_of


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    make: Callable[..., str] = request.getfixturevalue("migrated_database_url")
    settings = database_settings(make("conversation"))
    async with (
        open_database(settings, application="tests", pool_wait_s=60.0) as database,
        Intake(database) as intake,
        Handling(database) as handling,
    ):
        yield PostgresStore(database, intake=intake, handling=handling)


@pytest.fixture(params=["memory", "valkey", "cluster", "kafka"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[Queue]:
    if request.param == "memory":
        yield MemoryQueue()
        return
    if request.param == "kafka":
        server: kafka.Server = request.getfixturevalue("kafka_server")
        async with open_kafka_queue(own_topic(server.bootstrap)) as joined_queue:
            await joined(joined_queue)
            yield joined_queue
        return
    async with open_valkey(valkey_settings(url_of(request)), application="tests") as client:
        yield ValkeyQueue(client, client, prefix="test")


@pytest.fixture(params=["memory", "valkey", "cluster"])
async def history_cache(request: pytest.FixtureRequest) -> AsyncIterator[HistoryCache]:
    if request.param == "memory":
        yield MemoryHistoryCache()
        return
    async with open_valkey(valkey_settings(url_of(request)), application="tests") as client:
        yield ValkeyHistoryCache(client, prefix="test", keep_s=60)


@dataclass(frozen=True, slots=True)
class Hot:
    """A journal, who reads it, and what a wipe of its server does."""

    journal: Journal
    tail: Tail
    wipe: Callable[[], object]


@pytest.fixture(params=["memory", "valkey", "cluster"])
async def hot(request: pytest.FixtureRequest) -> AsyncIterator[Hot]:
    if request.param == "memory":
        journal = MemoryJournal()
        yield Hot(journal, journal, journal.lose_everything)
        return
    settings = valkey_settings(url_of(request))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_valkey(settings, application="tests"))
        codec = EventCodec()
        if request.param == "valkey":
            wipe = partial(emptied, request.getfixturevalue("valkey_server"))
        else:
            wipe = request.getfixturevalue("valkey_cluster").emptied
        yield Hot(
            ValkeyJournal(client, prefix="test", codec=codec),
            ValkeyTail(client, prefix="test", codec=codec),
            wipe,
        )
