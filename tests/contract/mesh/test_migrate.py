import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Column, Integer, MetaData, Table, text
from sqlalchemy.exc import IntegrityError

from services.mesh.errors import Unavailable
from services.mesh.postgres.database import Database, open_database
from services.mesh.postgres.migrate import Migrations, drift, migrate
from services.mesh.settings import DatabaseSettings
from tests.support.retrieval import until

REVISION = '''
"""{name}"""
import sqlalchemy as sa
from alembic import op

from services.mesh.postgres.migrate import concurrent

revision = "{revision}"
down_revision = {down_revision!r}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    pass
'''
CREATE = 'op.create_table("notes", sa.Column("id", sa.Integer(), primary_key=True), schema="testing")'
WIDEN = 'op.add_column("notes", sa.Column("content", sa.Text()), schema="testing")'
BREAK = 'op.execute("SELECT 1 / 0")'
INDEX = """
    with concurrent():
        op.create_index(
            "notes_by_id", "notes", ["id"], schema="testing", postgresql_concurrently=True, if_not_exists=True
        )"""
DOUBLED = "INSERT INTO testing.notes (id, place) VALUES (1, 1), (2, 1)"
UNIQUE_INDEX = INDEX.replace('["id"]', '["place"], unique=True')
INDEXES = """
SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relname LIKE 'notes_by%'
"""


def revision(folder: Path, name: str, upgrade: str, *, after: str | None) -> None:
    versions = folder / "versions"
    versions.mkdir(exist_ok=True)
    content = REVISION.format(name=name, revision=name, down_revision=after, upgrade=upgrade)
    (versions / f"{name}.py").write_text(content, "utf-8")


def migrations(folder: Path, *columns: str) -> Migrations:
    metadata = MetaData()
    Table("notes", metadata, Column("id", Integer, primary_key=True), *map(Column, columns), schema="testing")
    return Migrations("testing", metadata, folder)


async def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    async with opened(url) as database, database.write() as write:
        return [tuple(row) for row in await write.execute(text(statement))]


async def run(url: str, *statements: str) -> None:
    async with opened(url) as database, database.write() as write:
        for statement in statements:
            await write.execute(text(statement))


def opened(url: str) -> AbstractAsyncContextManager[Database]:
    return open_database(DatabaseSettings(database_url=SecretStr(url)), application="test")


async def waits_for_lock(url: str) -> bool:
    return bool(await rows(url, "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'testing.notes'::regclass"))


async def test_schema_comes_to_its_newest_revision_and_stays_there(database_url: str, tmp_path: Path) -> None:
    revision(tmp_path, "0001", CREATE, after=None)
    assert await migrate(database_url, migrations(tmp_path)) == "0001"
    revision(tmp_path, "0002", WIDEN, after="0001")
    assert await migrate(database_url, migrations(tmp_path)) == "0002"
    assert await migrate(database_url, migrations(tmp_path)) == "0002"
    assert await rows(database_url, "SELECT version_num FROM testing.alembic_version") == [("0002",)]
    assert await rows(database_url, "SELECT id, content FROM testing.notes") == []


async def test_service_without_revisions_gets_its_empty_schema(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    assert await migrate(database_url, migrations(tmp_path)) == ""


async def test_parallel_starts_migrate_once(database_url: str, tmp_path: Path) -> None:
    revision(tmp_path, "0001", CREATE, after=None)
    revision(tmp_path, "0002", WIDEN, after="0001")
    assert await asyncio.gather(*(migrate(database_url, migrations(tmp_path)) for _ in range(4))) == ["0002"] * 4


async def test_failed_revision_leaves_those_before_it_and_nothing_of_its_own(database_url: str, tmp_path: Path) -> None:
    revision(tmp_path, "0001", CREATE, after=None)
    revision(tmp_path, "0002", f"{WIDEN}; {BREAK}", after="0001")
    with pytest.raises(Exception, match="division by zero"):
        await migrate(database_url, migrations(tmp_path))
    assert await rows(database_url, "SELECT version_num FROM testing.alembic_version") == [("0001",)]
    assert await rows(database_url, "SELECT * FROM testing.notes WHERE id < 0") == []


async def test_revision_waits_for_a_lock_again_and_again(database_url: str, tmp_path: Path) -> None:
    revision(tmp_path, "0001", CREATE, after=None)
    await migrate(database_url, migrations(tmp_path))
    revision(tmp_path, "0002", WIDEN, after="0001")
    async with opened(database_url) as database:
        async with database.write() as reader:
            await reader.execute(text("SELECT * FROM testing.notes"))
            with pytest.raises(Unavailable):
                await migrate(database_url, migrations(tmp_path), attempts_max=1)
            # Whoever came after it was held up by its wish for the lock, and is not any more.
            assert await rows(database_url, "SELECT * FROM testing.notes") == []
            later = asyncio.create_task(migrate(database_url, migrations(tmp_path), pause_s=0.01))
            await until(lambda: waits_for_lock(database_url), within_s=60.0)
        assert await later == "0002"


async def test_index_is_built_outside_of_any_transaction(database_url: str, tmp_path: Path) -> None:
    revision(tmp_path, "0001", CREATE, after=None)
    revision(tmp_path, "0002", INDEX, after="0001")
    assert await migrate(database_url, migrations(tmp_path)) == "0002"
    assert await rows(database_url, INDEXES) == [("notes_by_id", True)]


async def test_index_that_could_not_be_finished_is_built_anew(database_url: str, tmp_path: Path) -> None:
    revision(tmp_path, "0001", CREATE, after=None)
    await migrate(database_url, migrations(tmp_path))
    await run(database_url, "ALTER TABLE testing.notes ADD COLUMN place int", DOUBLED)
    revision(tmp_path, "0002", UNIQUE_INDEX, after="0001")
    with pytest.raises(IntegrityError):
        await migrate(database_url, migrations(tmp_path))
    assert await rows(database_url, INDEXES) == [("notes_by_id", False)]

    await run(database_url, "DELETE FROM testing.notes WHERE id = 2")
    assert await migrate(database_url, migrations(tmp_path)) == "0002"

    assert await rows(database_url, INDEXES) == [("notes_by_id", True)]


async def test_drift_between_tables_and_schema_is_seen(database_url: str, tmp_path: Path) -> None:
    revision(tmp_path, "0001", CREATE, after=None)
    await migrate(database_url, migrations(tmp_path))
    assert await drift(database_url, migrations(tmp_path)) == []
    assert [difference[0] for difference in await drift(database_url, migrations(tmp_path, "content"))] == [
        "add_column"
    ]


async def test_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    with pytest.raises(Unavailable):
        await migrate("postgresql://parley:x@127.0.0.1:1/parley", migrations(tmp_path))
