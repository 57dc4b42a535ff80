"""A lane on a real server: what it gives, what it raises, and that no failure leaves it unusable."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from services.mesh.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.mesh.postgres.database import Database, open_database, translated
from services.mesh.postgres.lane import Lane
from services.mesh.settings import DatabaseSettings

OWN_ID: Final = "SELECT pg_backend_pid() AS id"


def settings(url: str, *, pool_size: int = 1, statement_timeout_s: float = 60.0) -> DatabaseSettings:
    return DatabaseSettings(
        database_url=SecretStr(url), database_pool_size=pool_size, database_statement_timeout_s=statement_timeout_s
    )


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(settings(database_url), application="test") as opened:
        yield opened


async def own_id(lane: Lane) -> int:
    (row,) = await lane.fetch(OWN_ID)
    found: int = row["id"]
    return found


async def test_rows_come_by_name_and_parameters_by_place(database: Database) -> None:
    statement = "SELECT $1::int + n AS sum, $2::text AS word FROM generate_series(1, 2) AS n"
    rows = await database.lane().fetch(statement, 5, "a")
    assert [dict(row) for row in rows] == [{"sum": 6, "word": "a"}, {"sum": 7, "word": "a"}]


async def test_statement_commits_by_itself(database: Database) -> None:
    lane = database.lane()
    await lane.fetch("CREATE TABLE notes (id int)")
    await lane.fetch("INSERT INTO notes VALUES (1)")
    async with database.read() as read:  # another connection
        assert (await read.execute(select(func.to_regclass("notes").is_not(None)))).scalar_one()


async def test_connection_is_kept_and_none_of_the_pool(database: Database) -> None:
    lane, another = database.lane(), database.lane()
    ids = {await own_id(lane), await own_id(another)}
    assert len(ids) == 2
    async with database.read() as read:  # the only one of the pool
        assert (await read.execute(select(func.pg_backend_pid()))).scalar_one() not in ids
        assert {await own_id(lane), await own_id(another)} == ids


async def test_statements_at_the_same_time_go_one_after_the_other(database: Database) -> None:
    lane = database.lane()
    assert len(set(await asyncio.gather(*(own_id(lane) for _ in range(10))))) == 1


async def test_refused_statement_leaves_the_connection_as_it_is(database: Database) -> None:
    lane = database.lane()
    before = await own_id(lane)
    with pytest.raises(asyncpg.DivisionByZeroError), translated():
        await lane.fetch("SELECT 1 / 0")
    with pytest.raises(InvalidArgument), translated():
        await lane.fetch("SELECT $1::text", "\x00")
    assert await own_id(lane) == before


async def test_statement_that_takes_too_long_is_ended(database_url: str) -> None:
    async with open_database(settings(database_url, statement_timeout_s=0.5), application="test") as database:
        lane = database.lane()
        with pytest.raises(DeadlineExceeded), translated():
            await lane.fetch("SELECT pg_sleep(600)")
        assert await own_id(lane)


async def test_connection_that_the_server_ended_is_made_anew(database: Database) -> None:
    lane, another = database.lane(), database.lane()
    before = await own_id(lane)
    await another.fetch("SELECT pg_terminate_backend($1, 60000)", before)

    async def is_anew() -> bool:
        try:
            with translated():
                return await own_id(lane) != before
        except Unavailable:  # the statement that meets the end
            return False

    async with asyncio.timeout(60):
        while not await is_anew():  # noqa: ASYNC110 - PostgreSQL sets no event of ours
            await asyncio.sleep(0.05)


async def test_statement_that_is_left_does_not_spoil_the_next(database: Database) -> None:
    lane = database.lane()
    before = await own_id(lane)
    waiting = asyncio.create_task(lane.fetch("SELECT pg_sleep(600)"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await own_id(lane) != before


async def test_server_that_is_away_is_unavailable() -> None:
    async with open_database(settings("postgresql://parley@127.0.0.1:9/parley"), application="test") as database:
        with pytest.raises(Unavailable), translated():
            await database.lane().fetch(OWN_ID)


async def test_closed_lanes_leave_no_connection(database_url: str, database: Database) -> None:
    async with open_database(settings(database_url), application="short") as opened:
        assert await own_id(opened.lane())
    lane, counted = database.lane(), "SELECT count(*) AS open FROM pg_stat_activity WHERE application_name = 'short'"
    async with asyncio.timeout(60):
        while (await lane.fetch(counted))[0]["open"]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
