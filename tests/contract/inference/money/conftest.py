"""Every store of inference."""

from collections.abc import AsyncIterator, Callable

import pytest

from services.inference.store import Store
from services.inference.store_memory import MemoryStore
from services.inference.store_postgres import PostgresStore
from services.mesh.postgres.database import open_database
from tests.support.money import database_settings


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    make: Callable[..., str] = request.getfixturevalue("migrated_database_url")
    async with open_database(database_settings(make("inference")), application="tests", pool_wait_s=60.0) as database:
        yield PostgresStore(database)
