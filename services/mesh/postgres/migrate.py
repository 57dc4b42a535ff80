"""Schema migrations: one alembic environment for all services, each with its own schema and version table.

A service says `Migrations("auth", metadata, folder)`, where `folder/versions/` holds its revisions; there is no env.py
and no alembic.ini to copy.

The release before goes on working while its schema grows, so that a revision may neither take away what that one uses
nor hold up its statements: it waits for a lock for a moment only, and is tried again.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final
from zlib import crc32

from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from services.mesh import telemetry
from services.mesh.errors import Unavailable
from services.mesh.postgres.database import CONNECT_TIMEOUT_S, normalized_url, translated

VERSION_TABLE: Final = "alembic_version"
LOCK_TIMEOUT_S: Final = 2.0
"""Whoever waits for a table lock holds up everyone behind him, so that a revision gives up soon and comes back."""
ATTEMPTS_MAX: Final = 30
"""At a lock: so many transactions that run for long may be in the way, one after the other."""
PAUSE_S: Final = 2.0
"""Between them: those who were held up get through."""
STATEMENT_TIMEOUT_S: Final = 60.0
"""Nothing that locks a table may take long; what reads all of it is `concurrent`."""
CONCURRENT_S_MAX: Final = 6 * 3_600.0
WAIT_FOR_OTHERS_S: Final = 600.0
"""Parallel starts wait for whoever migrates now."""
_LOOK_EVERY_S: Final = 0.1
_LOCK_NAMESPACE: Final = 0x7061726C  # "parl"; the second half of the key is the service
_LOCK_NOT_AVAILABLE: Final = "55P03"

_log = telemetry.logger("mesh.migrate")


@dataclass(frozen=True, slots=True)
class Migrations:
    """The migrations of one service.

    Attributes:
        service: name of the service and of its schema.
        metadata: its tables as `tables.py` declares them, with that schema.
        folder: holds `versions/`.
    """

    service: str
    metadata: MetaData
    folder: Path


async def migrate(
    database_url: str, migrations: Migrations, *, attempts_max: int = ATTEMPTS_MAX, pause_s: float = PAUSE_S
) -> str:
    """Brings the service's schema to its newest revision; gives that revision, empty when there is none.

    Safe to run from many processes at once: an advisory lock lets one work and the others find nothing to do.
    Each revision commits by itself; one that cannot have a lock soon is tried again.

    Raises:
        Unavailable: PostgreSQL cannot be reached, or a lock was not to be had.
    """
    engine = create_async_engine(
        normalized_url(database_url),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": CONCURRENT_S_MAX,
            "server_settings": {
                "application_name": f"migrate {migrations.service}",
                "timezone": "UTC",
                "statement_timeout": _milliseconds(STATEMENT_TIMEOUT_S),
                "lock_timeout": _milliseconds(LOCK_TIMEOUT_S),
            },
        },
    )
    try:
        with translated():
            async with engine.connect() as connection:
                await _take_turn(connection, migrations.service)
                revision = await _upgraded(connection, migrations, attempts_max=attempts_max, pause_s=pause_s)
    finally:
        await engine.dispose()  # the advisory lock ends with the connection
    _log.info("schema_migrated", schema=migrations.service, revision=revision)
    return revision


@contextmanager
def concurrent() -> Iterator[None]:
    """For revisions: what builds or drops an index of a table that is in use, which nobody has to wait for.

    It stands outside of any transaction and may take hours. What it began and could not end is dropped before the next
    try, so it says IF NOT EXISTS.
    """
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"SET statement_timeout = {_milliseconds(CONCURRENT_S_MAX)}")
        try:
            yield
        finally:
            op.execute(f"SET lock_timeout = {_milliseconds(LOCK_TIMEOUT_S)}")
            op.execute(f"SET statement_timeout = {_milliseconds(STATEMENT_TIMEOUT_S)}")


async def drift(database_url: str, migrations: Migrations) -> Sequence[Any]:
    """How the migrated schema differs from `tables.py`, in alembic's words; empty when they agree. For tests.

    Any because alembic's differences are tuples of many shapes.
    """
    engine = create_async_engine(normalized_url(database_url), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_drift, migrations)
    finally:
        await engine.dispose()


async def _take_turn(connection: AsyncConnection, service: str) -> None:
    """Holds the service's lock until the connection ends.

    It is asked for again and again, as a statement that waited would keep a snapshot, for which in turn an index that
    is built concurrently waits.
    """
    lock = text("SELECT pg_try_advisory_lock(:namespace, :service)")
    key = {"namespace": _LOCK_NAMESPACE, "service": crc32(service.encode()) & 0x7FFFFFFF}
    give_up_at = monotonic() + WAIT_FOR_OTHERS_S
    while True:
        is_mine = (await connection.execute(lock, key)).scalar_one()
        await connection.commit()
        if is_mine:
            return
        if monotonic() > give_up_at:
            raise Unavailable("another process has been migrating the schema for too long")
        await asyncio.sleep(_LOOK_EVERY_S)


async def _upgraded(connection: AsyncConnection, migrations: Migrations, *, attempts_max: int, pause_s: float) -> str:
    for attempt in range(1, attempts_max + 1):
        try:
            return await connection.run_sync(_upgrade, migrations)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE or attempt == attempts_max:
                raise
        await connection.rollback()
        _log.warning("migration_waits_for_lock", schema=migrations.service, attempt=attempt)
        await asyncio.sleep(pause_s)
    raise AssertionError("there is at least one attempt")


def _upgrade(connection: Connection, migrations: Migrations) -> str:
    schema = connection.dialect.identifier_preparer.quote_schema(migrations.service)
    with connection.begin():
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
    _drop_broken_indexes(connection, migrations.service)
    config = Config()
    config.set_main_option("script_location", str(migrations.folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)

    def pending(revision: Any, _context: MigrationContext) -> Any:  # Any: alembic's own signature
        # What `alembic upgrade head` calls; the public command insists on an env.py file.
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - see above

    with EnvironmentContext(config, script, fn=pending) as environment:
        environment.configure(connection=connection, transaction_per_migration=True, **_options(migrations))
        environment.run_migrations()
    connection.commit()  # of the look at the revision, where nothing was to be done
    with connection.begin():
        return MigrationContext.configure(connection, opts=_options(migrations)).get_current_revision() or ""


def _drop_broken_indexes(connection: Connection, schema: str) -> None:
    """What a `concurrent` of an earlier try left: it costs every write and serves no read."""
    broken = text(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid "
        "JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND n.nspname = :schema"
    )
    with connection.begin():
        names = list(connection.execute(broken, {"schema": schema}).scalars())
        for name in names:
            connection.execute(text(f"DROP INDEX {name}"))
            _log.warning("broken_index_dropped", index=name)


def _drift(connection: Connection, migrations: Migrations) -> Sequence[Any]:  # Any: see `drift`
    options = _options(migrations) | {
        "include_schemas": True,
        "include_name": lambda name, kind, _parents: kind != "schema" or name == migrations.service,
        "compare_type": True,
        "compare_server_default": True,
    }
    context = MigrationContext.configure(connection, opts=options)
    differences: Sequence[Any] = compare_metadata(context, migrations.metadata)
    return differences


def _options(migrations: Migrations) -> dict[str, Any]:  # Any: alembic's options are of many types
    return {
        "target_metadata": migrations.metadata,
        "version_table": VERSION_TABLE,
        "version_table_schema": migrations.service,
    }


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1_000))
