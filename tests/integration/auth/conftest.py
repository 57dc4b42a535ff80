"""Auth on a real PostgreSQL and Valkey."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest

from services.auth.app import App, opened
from services.auth.settings import Settings
from services.mesh.tasks import supervised
from tests.support.auth import auth_settings
from tests.support.auth_service import Auth, served

Replicas = Callable[..., AbstractAsyncContextManager[tuple[App, ...]]]


@pytest.fixture(scope="module")
def auth_database_url(module_migrated_database_url: Callable[..., str]) -> str:
    return module_migrated_database_url("auth")


@pytest.fixture
def settings(auth_database_url: str, valkey_url: str) -> Settings:
    return auth_settings(PARLEY_DATABASE_URL=auth_database_url, PARLEY_VALKEY_URL=valkey_url)


@pytest.fixture
async def auth(settings: Settings) -> AsyncIterator[Auth]:
    async with served(settings) as service:
        yield service


@pytest.fixture
def replicas(settings: Settings) -> Replicas:
    """Makes replicas of auth in this process: `async with replicas(2) as (one, other)`."""

    @asynccontextmanager
    async def make(number: int, *, of: Settings = settings, listening: bool = True) -> AsyncIterator[tuple[App, ...]]:
        async with AsyncExitStack() as stack:
            apps = []
            for _ in range(number):
                app, loops, _ = await stack.enter_async_context(opened(of))
                running = tuple(loop for loop in loops if listening or loop.name != "auth_facts")
                await stack.enter_async_context(supervised(running, drain_s=5.0))
                apps.append(app)
            yield tuple(apps)

    return make
