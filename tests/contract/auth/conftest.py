"""Every store of auth."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from pydantic import SecretStr

from services.auth.store import Store
from services.auth.store_memory import MemoryStore
from services.auth.store_postgres import PostgresStore
from services.mesh.postgres.database import Database, open_database
from services.mesh.settings import DatabaseSettings


@pytest.fixture(scope="module")
def postgres_url(module_migrated_database_url: Callable[..., str]) -> str:
    return module_migrated_database_url("auth")


def opened(url: str) -> AbstractAsyncContextManager[Database]:
    settings = DatabaseSettings.model_validate({"PARLEY_DATABASE_URL": SecretStr(url)})
    return open_database(settings, application="test", pool_wait_s=60.0)


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    async with opened(postgres_url) as real:
        yield real


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    async with opened(request.getfixturevalue("postgres_url")) as real:
        yield PostgresStore(real)
