import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import grpc.aio
import pytest
from pydantic import SecretStr

from services.mesh.clock import SYSTEM_CLOCK
from services.mesh.postgres.database import open_database
from services.mesh.server import running
from services.mesh.tasks import BoundedExecutor
from services.retrieval.app import open_api, open_encoder
from services.retrieval.ingestion import IngestionLimits, Ingestor
from services.retrieval.settings import Settings
from services.retrieval.store_postgres import PostgresStore
from tests.support.tokens import Issuer


@pytest.fixture
def settings(migrated_database_url: Callable[..., str], valkey_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(migrated_database_url("retrieval")),
        valkey_url=SecretStr(valkey_url),
        auth_target="127.0.0.1:1",
        encoder_threads=1,
        index_poll_s=0.05,
        drain_s=5.0,
    )


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def channel(settings: Settings, issuer: Issuer) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a running server of retrieval, with the real encoder, stores and parser."""
    async with (
        open_api(settings) as api,
        running(
            settings,
            servicers=api.servicers,
            verifier=issuer.verifier("retrieval"),
            loops=api.loops,
            checks=api.checks,
        ) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[Ingestor]:
    """A running worker of the queue."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, application="worker"))
        executor = await stack.enter_async_context(BoundedExecutor("encoder", threads=1, queue_max=1))
        ingestor = Ingestor(
            store=PostgresStore(database),
            encoder=open_encoder(settings),
            executor=executor,
            clock=SYSTEM_CLOCK,
            limits=IngestionLimits(poll_s=0.02),
        )
        async with asyncio.TaskGroup() as tasks:
            running_task = tasks.create_task(ingestor.run())
            yield ingestor
            await ingestor.stop()
            running_task.cancel()
