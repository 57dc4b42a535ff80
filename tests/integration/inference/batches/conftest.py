"""Inference with batches on the real stores, before a provider that remembers what it was given."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from services.inference.app import open_answers, open_batches, open_money, open_prompts, wire_up
from services.inference.generating.course import Tactics
from services.inference.settings import ServeSettings
from services.inference.store_postgres.batches import PostgresBatches
from services.mesh.postgres.database import Database, open_database
from services.mesh.server import Register
from services.mesh.tasks import supervised
from services.mesh.valkey import open_valkey
from tests.support.inference import FakeProvider, router


@dataclass(frozen=True, slots=True)
class Served:
    """What is registered on a server, and what stands behind it."""

    servicers: list[Register]
    provider: FakeProvider
    database: Database


@pytest.fixture
async def served(migrated_database_url: Callable[..., str], valkey_url: str) -> AsyncIterator[Served]:
    settings = ServeSettings(
        auth_target="127.0.0.1:1",
        not_serving_pause_s=0,
        database_url=SecretStr(migrated_database_url("inference")),
        valkey_url=SecretStr(valkey_url),
    )
    provider, tactics = FakeProvider("fake"), Tactics()
    known = router(provider)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, application="tests"))
        valkey = await stack.enter_async_context(open_valkey(settings, application="tests"))
        money = await open_money(settings, database, valkey, stack)
        prompts = open_prompts(database, valkey, None)
        answers = prompts.answers(open_answers(settings, known, tactics, money))
        batches = open_batches(settings, PostgresBatches(database), known, tactics, answers, money)
        loops = (*money.loops, *prompts.loops(), *batches.loops)
        await stack.enter_async_context(supervised(loops, drain_s=30))
        servicers = wire_up(settings, known, tactics, money, prompts)
        yield Served([*servicers, batches.servicer], provider, database)
