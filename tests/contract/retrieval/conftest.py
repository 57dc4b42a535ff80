from collections.abc import AsyncIterator, Callable

import pytest
from pydantic import SecretStr

from services.mesh.postgres.database import open_database
from services.mesh.settings import DatabaseSettings
from services.retrieval.store import Store
from services.retrieval.store_memory import MemoryStore
from services.retrieval.store_postgres import PostgresStore


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    make: Callable[..., str] = request.getfixturevalue("migrated_database_url")
    settings = DatabaseSettings(database_url=SecretStr(make("retrieval")))
    async with open_database(settings, application="test", pool_wait_s=60.0) as database:
        yield PostgresStore(database)
