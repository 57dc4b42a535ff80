"""Inference with prompts on the real stores, before a provider that remembers what it was given."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from services.inference.app import open_prompts, wire_up
from services.inference.generating.course import Tactics
from services.inference.settings import ServeSettings
from services.mesh.postgres.database import open_database
from services.mesh.server import Register
from services.mesh.tasks import supervised
from services.mesh.valkey import open_valkey
from tests.support.inference import FakeProvider, router
from tests.support.prompts import FakeEncoder


@dataclass(frozen=True, slots=True)
class Served:
    """What is registered on a server, and what stands behind it."""

    servicers: list[Register]
    settings: ServeSettings
    provider: FakeProvider
    encoder: FakeEncoder


@pytest.fixture
async def served(migrated_database_url: Callable[..., str], valkey_url: str) -> AsyncIterator[Served]:
    settings = ServeSettings(
        auth_target="127.0.0.1:1",
        not_serving_pause_s=0,
        database_url=SecretStr(migrated_database_url("inference")),
        valkey_url=SecretStr(valkey_url),
    )
    provider, encoder = FakeProvider("fake"), FakeEncoder()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, application="tests"))
        valkey = await stack.enter_async_context(open_valkey(settings, application="tests"))
        prompts = open_prompts(database, valkey, encoder)
        await stack.enter_async_context(supervised(tuple(prompts.loops()), drain_s=30))
        servicers = wire_up(settings, router(provider), Tactics(), prompts=prompts)
        yield Served(servicers, settings, provider, encoder)
