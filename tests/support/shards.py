"""Two databases as two instances of a small sharded schema, for tests of shards."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from services.mesh.postgres.migrate import Migrations
from services.mesh.postgres.shards.instances import Shards, open_places
from services.mesh.postgres.shards.move import Move
from services.mesh.postgres.shards.numbers import MAIN
from services.mesh.postgres.shards.schema import administering
from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.postgres.shards.setup import migrate_instances

SERVICE: Final = "testing"
METADATA: Final = MetaData(schema=SERVICE)
OTHER: Final = "b"

FOLDERS: Final = Table(
    "folders",
    METADATA,
    Column("organization_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    PrimaryKeyConstraint("organization_id", "id"),
    UniqueConstraint("organization_id", "name", name="folders_name"),
)
NOTES: Final = Table(
    "notes",
    METADATA,
    Column("key", BigInteger, Identity(always=True), primary_key=True),
    Column("organization_id", Text, nullable=False),
    Column("folder_id", Text, nullable=False),
    Column("content", Text, nullable=False),
    ForeignKeyConstraint(
        ["organization_id", "folder_id"],
        [FOLDERS.c.organization_id, FOLDERS.c.id],
        name="notes_folder",
        ondelete="CASCADE",
    ),
    Index("notes_of_folder", "organization_id", "folder_id", "content", unique=True),
)
_REVISION: Final = '''
"""Tables of the tests."""
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
    CREATE TABLE testing.folders (organization_id text NOT NULL, id text NOT NULL, name text NOT NULL,
      PRIMARY KEY (organization_id, id), CONSTRAINT folders_name UNIQUE (organization_id, name));
    """)
    op.execute("""
    CREATE TABLE testing.notes (key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id text NOT NULL,
      folder_id text NOT NULL, content text NOT NULL,
      CONSTRAINT notes_folder FOREIGN KEY (organization_id, folder_id)
        REFERENCES testing.folders (organization_id, id) ON DELETE CASCADE);
    """)
    op.execute("CREATE UNIQUE INDEX notes_of_folder ON testing.notes (organization_id, folder_id, content);")
'''


def migrations_in(folder: Path) -> Migrations:
    """The small schema, its one revision written below the folder."""
    versions = folder / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    (versions / "0001.py").write_text(_REVISION, "utf-8")
    return Migrations(SERVICE, METADATA, folder)


def shard_settings(urls: Sequence[str]) -> ShardSettings:
    """The first URL is `main`'s, the second one `b`'s."""
    return ShardSettings(
        database_url=SecretStr(urls[0]),
        database_shards={name: SecretStr(url) for name, url in zip([OTHER], urls[1:], strict=False)},
    )


@asynccontextmanager
async def opened_shards(settings: ShardSettings, *, service: str = SERVICE) -> AsyncIterator[Shards]:
    """The instances as a process sees them."""
    async with open_places(settings, application="test", service=service, pool_wait_s=60.0) as places:
        assert isinstance(places, Shards)
        yield places


async def prepared(settings: ShardSettings, migrations: Migrations) -> None:
    """Migrates every instance."""
    await migrate_instances(settings.instances(), migrations)


@asynccontextmanager
async def mover(
    settings: ShardSettings,
    migrations: Migrations,
    *,
    source: str = MAIN,
    target: str = OTHER,
    dies_at: str | None = None,
) -> AsyncIterator[Move]:
    """A move that leaves readers hardly any time, and ends with `InterruptedError` when it says the given words."""

    def say(words: str) -> None:
        if dies_at is not None and dies_at in words:
            raise InterruptedError(words)

    urls: Mapping[str, str] = settings.instances()
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(administering(urls[name], service=migrations.service))
            for name in (source, target)
        ]
        yield Move(
            migrations.service,
            migrations.metadata,
            source=connections[0],
            target=connections[1],
            say=say,
            readers_s=0.1,
        )
