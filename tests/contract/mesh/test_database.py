import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from services.mesh.errors import DeadlineExceeded, InvalidArgument, MeshError, Overloaded, Unavailable
from services.mesh.postgres.database import Conflict, Database, ReadWrite, constraint_of, normalized_url, open_database
from services.mesh.settings import DatabaseSettings

METADATA = MetaData()
NOTES = Table(
    "notes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("content", Text, nullable=False),
    UniqueConstraint("content", name="uq_notes_content"),
)
KINDS = [Overloaded, Unavailable]


def settings(url: str, *, pool_size: int = 5, statement_timeout_s: float = 10.0) -> DatabaseSettings:
    return DatabaseSettings(
        database_url=SecretStr(url), database_pool_size=pool_size, database_statement_timeout_s=statement_timeout_s
    )


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(settings(database_url), application="test") as opened:
        async with opened.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield opened


async def contents(database: Database) -> list[str]:
    async with database.read() as read:
        return list((await read.execute(select(NOTES.c.content).order_by(NOTES.c.id))).scalars())


async def test_write_commits_when_its_body_ends(database: Database) -> None:
    async with database.write() as write:
        await write.execute(insert(NOTES), [{"id": 1, "content": "a"}, {"id": 2, "content": "b"}])
    assert await contents(database) == ["a", "b"]


async def write_and_fail(database: Database) -> None:
    async with database.write() as write:
        await write.execute(insert(NOTES).values(id=1, content="a"))
        raise LookupError


async def test_write_leaves_nothing_when_its_body_fails(database: Database) -> None:
    with pytest.raises(LookupError):
        await write_and_fail(database)
    assert await contents(database) == []


async def test_write_leaves_nothing_when_it_is_cancelled(database: Database) -> None:
    written = asyncio.Event()

    async def write_and_hang() -> None:
        async with database.write() as write:
            await write.execute(insert(NOTES).values(id=1, content="a"))
            written.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(write_and_hang())
    await written.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await contents(database) == []


async def test_each_query_of_a_reader_sees_what_was_committed_before_it(database: Database) -> None:
    async with database.read() as read:
        assert (await read.execute(select(NOTES.c.content))).all() == []
        await database.change(insert(NOTES).values(id=1, content="a"))
        assert (await read.execute(select(NOTES.c.content))).scalars().all() == ["a"]


async def test_a_change_by_itself_is_committed_or_leaves_nothing(database: Database) -> None:
    await database.change(insert(NOTES).values(id=1, content="a"))
    with pytest.raises(IntegrityError):
        await database.change(insert(NOTES).values([{"id": 2, "content": "b"}, {"id": 3, "content": "a"}]))
    changed = await database.change(update(NOTES).where(NOTES.c.id == bindparam("of_id")), {"of_id": 1, "content": "c"})
    assert changed.rowcount == 1
    assert await contents(database) == ["c"]


async def test_broken_constraint_is_named_and_its_values_are_not_told(database: Database) -> None:
    async with database.write() as write:
        await write.execute(insert(NOTES).values(id=1, content="ada@example.com"))
    with pytest.raises(IntegrityError) as caught:
        async with database.write() as write:
            await write.execute(insert(NOTES).values(id=2, content="ada@example.com"))
    assert constraint_of(caught.value) == "uq_notes_content"
    assert "ada@example.com" not in str(caught.value)


async def test_deadlocked_transactions_both_succeed_in_the_end(database: Database) -> None:
    async with database.write() as write:
        await write.execute(insert(NOTES), [{"id": 1, "content": "a"}, {"id": 2, "content": "b"}])
    meeting = asyncio.Barrier(2)

    async def swap(first: int, second: int) -> int:
        tries = 0

        async def work(write: ReadWrite) -> int:
            nonlocal tries
            tries += 1
            await write.execute(update(NOTES).where(NOTES.c.id == first).values(content=f"{first}-{tries}"))
            if tries == 1:
                await meeting.wait()  # both hold one row and want the other's
            await write.execute(update(NOTES).where(NOTES.c.id == second).values(content=f"{second}-{first}"))
            return tries

        return await database.transact(work)

    tries = await asyncio.gather(swap(1, 2), swap(2, 1))
    assert sorted(tries) == [1, 2]


async def test_transaction_that_always_conflicts_is_given_up(database: Database) -> None:
    tries = 0

    async def work(_write: ReadWrite) -> None:
        nonlocal tries
        tries += 1
        raise Conflict

    with pytest.raises(Unavailable):
        await database.transact(work, attempts_max=3, jitter=lambda: 0.0)
    assert tries == 3


async def test_text_that_postgresql_cannot_hold_is_the_callers_mistake(database: Database) -> None:
    with pytest.raises(InvalidArgument):
        async with database.read() as read:
            await read.execute(select(literal("a\0b")))


async def test_slow_statement_is_ended_by_the_database(database_url: str) -> None:
    async with open_database(settings(database_url, statement_timeout_s=0.1), application="test") as database:
        with pytest.raises(DeadlineExceeded):
            async with database.read() as read:
                await read.execute(select(func.pg_sleep(60)))
        await database.ping()


async def test_lost_connection_is_unavailable_and_the_pool_recovers(database: Database) -> None:
    with pytest.raises(Unavailable):
        async with database.read() as read:
            await read.execute(select(func.pg_terminate_backend(func.pg_backend_pid())))
    await database.ping()


@pytest.mark.parametrize("wrong", ["password", "database", "port"])
async def test_database_that_cannot_be_reached_is_unavailable_without_its_address(
    database_url: str, wrong: str
) -> None:
    url = normalized_url(database_url)
    changed = {
        "password": url.set(password="hunter2"),
        "database": url.set(database="nowhere"),
        "port": url.set(port=1),
    }[wrong]
    async with open_database(
        settings(changed.render_as_string(hide_password=False)), application="test"
    ) as unreachable:
        with pytest.raises(Unavailable) as caught:
            await unreachable.ping()
    assert caught.value.message == "the database cannot be reached now"
    assert caught.value.__cause__ is not None


async def test_full_pool_is_overloaded(database_url: str) -> None:
    async with open_database(settings(database_url, pool_size=1), application="test", pool_wait_s=0.05) as database:
        async with database.read() as _held:
            with pytest.raises(Overloaded):
                await database.ping()
        await database.ping()


async def test_mesh_errors_pass_through_a_transaction_unchanged(database: Database) -> None:
    for kind in KINDS:
        with pytest.raises(kind) as caught:
            async with database.write():
                raise kind("mine")
        assert isinstance(caught.value, MeshError)
        assert caught.value.message == "mine"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_urls_of_postgres_are_normalized(scheme: str) -> None:
    url = normalized_url(f"{scheme}://user:p%40ss@db:5432/parley")
    assert (url.drivername, url.password, url.database) == ("postgresql+asyncpg", "p@ss", "parley")


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite:///x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a PostgreSQL URL"):
        normalized_url(url)
