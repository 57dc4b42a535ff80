"""Schema migrations: one alembic environment for all services, each with its own schema and version table.

A service says `Migrations("auth", metadata, folder)`, where `folder/versions/` holds its revisions; there is no env.py
and no alembic.ini to copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.mesh import telemetry
from services.mesh.database import CONNECT_TIMEOUT_S, normalized_url, translated

VERSION_TABLE: Final = "alembic_version"
LOCK_TIMEOUT_S: Final = 10
"""A migration that waits for a table lock blocks everyone behind it; better that it fails and is started again."""
STATEMENT_TIMEOUT_S: Final = 600
WAIT_FOR_OTHERS_S: Final = 600
"""Parallel starts wait for whoever migrates now."""
_LOCK_NAMESPACE: Final = 0x7061726C  # "parl"; the second half of the key is the service

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


async def migrate(database_url: str, migrations: Migrations) -> str:
    """Brings the service's schema to its newest revision; gives that revision, empty when there is none.

    Safe to run from many processes at once: an advisory lock lets one work and the others find nothing to do.
    All pending revisions commit together or not at all.

    Raises:
        Unavailable: PostgreSQL cannot be reached, or a lock was not to be had.
    """
    engine = create_async_engine(
        normalized_url(database_url),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": STATEMENT_TIMEOUT_S + WAIT_FOR_OTHERS_S,
            "server_settings": {"application_name": f"migrate {migrations.service}", "timezone": "UTC"},
        },
    )
    try:
        with translated():
            async with engine.begin() as connection:
                revision = await connection.run_sync(_upgrade, migrations)
    finally:
        await engine.dispose()
    _log.info("schema_migrated", schema=migrations.service, revision=revision)
    return revision


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


def _upgrade(connection: Connection, migrations: Migrations) -> str:
    connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
    connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_FOR_OTHERS_S}s'"))
    # Held until the transaction ends, however it ends.
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:namespace, :service)"),
        {"namespace": _LOCK_NAMESPACE, "service": crc32(migrations.service.encode()) & 0x7FFFFFFF},
    )
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
    schema = connection.dialect.identifier_preparer.quote_schema(migrations.service)
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
    config = Config()
    config.set_main_option("script_location", str(migrations.folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)

    def pending(revision: Any, _context: MigrationContext) -> Any:  # Any: alembic's own signature
        # What `alembic upgrade head` calls; the public command insists on an env.py file.
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - see above

    with EnvironmentContext(config, script, fn=pending) as environment:
        environment.configure(connection=connection, **_options(migrations))
        environment.run_migrations()
    return MigrationContext.configure(connection, opts=_options(migrations)).get_current_revision() or ""


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
