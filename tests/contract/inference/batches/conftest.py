"""Every store of batches."""

from collections.abc import AsyncIterator, Callable

import pytest

from services.inference.batches.store import BatchStore
from services.inference.batches.store_memory import MemoryBatches
from services.inference.store_postgres.batches import PostgresBatches
from services.mesh.postgres.database import open_database
from tests.support.money import database_settings

OPEN_MAX = 6


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[BatchStore]:
    if request.param == "memory":
        yield MemoryBatches(open_max=OPEN_MAX)
        return
    make: Callable[..., str] = request.getfixturevalue("migrated_database_url")
    async with open_database(database_settings(make("inference")), application="tests", pool_wait_s=60.0) as database:
        yield PostgresBatches(database, open_max=OPEN_MAX)
