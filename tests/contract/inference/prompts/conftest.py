"""Every store of prompts."""

from collections.abc import AsyncIterator, Callable

import pytest

from services.inference.prompts.store import PromptStore
from services.inference.prompts.store_memory import MemoryPrompts
from services.inference.store_postgres.prompts import PostgresPrompts
from services.mesh.postgres.database import open_database
from tests.support.money import database_settings
from tests.support.prompts import BOUNDS


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[PromptStore]:
    if request.param == "memory":
        yield MemoryPrompts(BOUNDS)
        return
    make: Callable[..., str] = request.getfixturevalue("migrated_database_url")
    async with open_database(database_settings(make("inference")), application="tests", pool_wait_s=60.0) as database:
        yield PostgresPrompts(database, BOUNDS)
