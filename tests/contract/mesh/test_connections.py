"""A process opens as many connections to PostgreSQL as its settings say, and not one more."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text

from services.conversation.settings import ApiSettings, WorkerSettings
from services.conversation.store_postgres.handling import Handling
from services.conversation.store_postgres.intake import Intake
from services.inference.settings import ServeSettings
from services.inference.store_postgres import PostgresStore
from services.mesh.postgres.database import Database, open_database
from services.mesh.postgres.shards.instances import open_places
from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.settings import DatabaseSettings
from tests.support.postgres import Databases

BUSY_S = 300.0
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'loaded' AND datname = current_database()"
ROOT = Path(__file__).parents[3]


class Loaded(ShardSettings):
    database_lanes: ClassVar[int] = 2


def settings(url: str, **more: Any) -> Loaded:  # Any: fields by name
    return Loaded(database_url=SecretStr(url), database_pool_size=3, database_statement_timeout_s=600, **more)


async def open_connections(looking_on: Database) -> int:
    async with looking_on.write() as write:
        return int((await write.execute(text(COUNT))).scalar_one())


async def test_loaded_process_has_the_connections_that_it_declares(database_url: str) -> None:
    loaded = settings(database_url)
    async with (
        open_database(DatabaseSettings(database_url=SecretStr(database_url)), application="looking on") as looking_on,
        open_database(loaded, application="loaded", pool_wait_s=BUSY_S) as database,
    ):
        lanes = [database.lane(), database.lane()]
        for lane in lanes:  # they come by way of the pool, which is not free any more below
            await lane.fetch("SELECT 1")
        work = [asyncio.create_task(_read(database)) for _ in range(12)]
        work += [asyncio.create_task(_asked(lane)) for lane in lanes for _ in range(3)]
        try:
            async with asyncio.timeout(60.0):
                while await open_connections(looking_on) < loaded.database_connections()["main"]:  # noqa: ASYNC110 - it is PostgreSQL that knows
                    await asyncio.sleep(0.05)
            assert await open_connections(looking_on) == loaded.database_connections()["main"] == 5
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)


async def _read(database: Database) -> None:
    async with database.read() as reading:
        await reading.execute(select(func.pg_sleep(BUSY_S)))


async def _asked(lane: Any) -> None:  # Any: a lane
    await lane.fetch(f"SELECT pg_sleep({BUSY_S})")


async def test_every_instance_and_replica_is_counted(postgres: Databases) -> None:
    main, other = postgres.create(), postgres.create()
    try:
        several = settings(
            main,
            database_shards={"b": SecretStr(other)},
            database_replicas={"b": [SecretStr(other), SecretStr(other)]},
        )
        # Pool, lanes, and the lane that asks for shards.
        assert several.database_connections() == {"main": 6, "b": 6, "b-0": 3, "b-1": 3}
        one = settings(main)
        async with open_places(one, application="loaded", service="testing") as places:
            assert len(places._lanes) == 0  # type: ignore[attr-defined] # with one instance it is a Database
    finally:
        postgres.drop(main)
        postgres.drop(other)


async def test_inference_declares_the_lanes_that_its_stores_keep(database_url: str) -> None:
    async with open_database(DatabaseSettings(database_url=SecretStr(database_url)), application="loaded") as database:
        PostgresStore(database)
        assert len(database._lanes) == ServeSettings.database_lanes


@pytest.mark.parametrize(
    ("kept", "declared"), [(Intake, ApiSettings), (Handling, WorkerSettings)], ids=["API", "worker"]
)
async def test_conversation_declares_the_lanes_that_its_stores_keep(
    database_url: str, kept: Callable[[Database], object], declared: type[ApiSettings]
) -> None:
    async with open_database(DatabaseSettings(database_url=SecretStr(database_url)), application="loaded") as database:
        kept(database)
        assert len(database._lanes) == declared.database_lanes


def test_chart_counts_the_lanes_that_settings_declare() -> None:
    table = (ROOT / "helm/parley/templates/_components.tpl").read_text("utf-8")
    counted = dict(re.findall(r"^([a-z-]+): \{.*\bconnections: (\d+)\}$", table, re.MULTILINE))
    declared = {
        "inference": ServeSettings.database_lanes,
        "conversation": ApiSettings.database_lanes,
        "conversation-worker": WorkerSettings.database_lanes,
    }
    assert counted == {name: str(lanes) for name, lanes in declared.items()}
