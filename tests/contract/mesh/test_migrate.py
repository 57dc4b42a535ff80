import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Column, Integer, MetaData, Table, text

from services.mesh.database import open_database
from services.mesh.errors import Unavailable
from services.mesh.migrate import Migrations, drift, migrate
from services.mesh.settings import DatabaseSettings

REVISION = '''
"""{name}"""
import sqlalchemy as sa
from alembic import op

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
    async with (
        open_database(DatabaseSettings(database_url=SecretStr(url)), application="test") as database,
        database.write() as write,
    ):
        return [tuple(row) for row in await write.execute(text(statement))]


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


async def test_failed_revision_leaves_nothing_behind(database_url: str, tmp_path: Path) -> None:
    revision(tmp_path, "0001", CREATE, after=None)
    revision(tmp_path, "0002", BREAK, after="0001")
    with pytest.raises(Exception, match="division by zero"):
        await migrate(database_url, migrations(tmp_path))
    assert await rows(database_url, "SELECT nspname FROM pg_namespace WHERE nspname = 'testing'") == []


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
