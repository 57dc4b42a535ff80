"""What every instance of a sharded installation keeps about shards, in the schema `<service>_shards`.

Each instance says for itself which shards it has and in which state, and refuses whatever would change rows of another
one: a trigger on every table takes the shard's lock, shared, and looks. So no process can write in the wrong place,
however old its map is, and whoever takes the lock alone knows that nobody writes. The map of an installation is what
its instances say, together.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from zlib import crc32

import asyncpg
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects import postgresql

from services.mesh import telemetry
from services.mesh.postgres.database import CONNECT_TIMEOUT_S, LOCK_TIMEOUT_S, normalized_url, translated
from services.mesh.postgres.errors import SHARD_ELSEWHERE
from services.mesh.postgres.shards.numbers import MAIN, SHARDS_COUNT, first_key

ORGANIZATION: Final = "organization_id"
ALL_SHARDS: Final = SHARDS_COUNT
"""Lock of what goes through all organizations of an instance; numbers below it are those of the shards."""
MOVES: Final = "parley.moves_shard"
"""Setting of a transaction that moves rows, which the trigger lets pass."""
_TRIGGER: Final = "shard_guard"

# Any: the driver has no types.
Connection = Any

_log = telemetry.logger("mesh.shards")


class ShardState(StrEnum):
    """What an instance is to a shard."""

    OPEN = "open"
    """It has it."""
    COPYING = "copying"
    """It has it, and notes what changes, because it is about to leave."""
    LEAVING = "leaving"
    """It has it, and nobody may change it any more."""
    LEFT = "left"
    """It had it; the rows are still there, for nobody."""
    GONE = "gone"
    """It had it, and has no row of it."""
    ARRIVING = "arriving"
    """It has some rows of it, or none."""
    FOLLOWING = "following"
    """It has the rows as they once were, and is told of changes."""
    ARRIVED = "arrived"
    """It has all rows, and nobody may change them yet."""


CHANGEABLE: Final = frozenset({ShardState.OPEN, ShardState.COPYING})
READABLE: Final = frozenset({*CHANGEABLE, ShardState.LEAVING, ShardState.ARRIVED})


@dataclass(frozen=True, slots=True)
class Standing:
    """What an instance says of one shard; the higher epoch is the later word."""

    state: ShardState
    epoch: int


def sql_shard_of(organization_id: str) -> str:
    """As `shard_of`, of an SQL expression."""
    return f"(get_byte(sha256(convert_to({organization_id}, 'UTF8')), 0) % {SHARDS_COUNT})"


def schema_of(service: str) -> str:
    """Name of the schema beside that of the service."""
    return f"{service}_shards"


def lock_namespace(service: str) -> int:
    """First half of the keys of the shards' advisory locks."""
    return crc32(schema_of(service).encode()) & 0x7FFFFFFF


def sharded_tables(metadata: MetaData) -> list[Table]:
    """Tables whose rows belong to an organization, those that others refer to first."""
    return [table for table in metadata.sorted_tables if ORGANIZATION in table.columns]


def key_of(table: Table) -> list[Column[Any]]:  # Any: columns of any type
    """The primary key of a table."""
    return list(table.primary_key.columns)


@asynccontextmanager
async def administering(url: str, *, service: str) -> AsyncIterator[Connection]:
    """A connection of an operator's command: no statement is too long, but locks are not waited for long."""
    dsn = normalized_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with translated():
        connection = await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={
                "application_name": f"shards {service}",
                "timezone": "UTC",
                "lock_timeout": str(int(LOCK_TIMEOUT_S * 1_000)),
            },
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)


async def prepare(connection: Connection, service: str, metadata: MetaData, *, instance: str) -> None:
    """Makes or completes what an instance keeps about shards; does nothing where it is complete."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", lock_namespace(service), ALL_SHARDS + 1)
        await connection.execute(_objects(service))
        for table in sharded_tables(metadata):
            await _guard(connection, service, table)
            await _number_from(connection, table, first_key(instance))


async def assign(connections: Mapping[str, Connection], service: str, metadata: MetaData) -> None:
    """Gives every shard a place when an installation becomes a sharded one, and never again.

    An installation that has data goes on with everything where it is; an empty one is spread evenly.
    """
    main, schema = connections[MAIN], schema_of(service)
    async with main.transaction():
        await main.execute("SELECT pg_advisory_xact_lock($1, $2)", lock_namespace(service), ALL_SHARDS + 1)
        if await main.fetchval(f"SELECT EXISTS (SELECT FROM {schema}.shards)"):  # noqa: S608 - our own names
            return
        names = [MAIN] if await _holds_any(main, metadata) else [MAIN, *(name for name in connections if name != MAIN)]
        # The first instance last: as long as it has no rows this was not done, and afterwards it always has some.
        for place, name in reversed(list(enumerate(names))):
            await connections[name].executemany(
                f"INSERT INTO {schema}.shards (shard, state, epoch) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING",  # noqa: S608 - as above
                [(shard, str(ShardState.OPEN)) for shard in range(place, SHARDS_COUNT, len(names))],
            )
    _log.info("shards_assigned", service=service, instances=len(names))


async def _holds_any(connection: Connection, metadata: MetaData) -> bool:
    for table in sharded_tables(metadata):
        if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table.fullname})"):  # noqa: S608 - our own names
            return True
    return False


async def _guard(connection: Connection, service: str, table: Table) -> None:
    """Puts the trigger on a table, unless it is there: to do so again would wait for all who write."""
    words = [column.name for column in key_of(table)]
    present = await connection.fetchval(
        "SELECT tgargs FROM pg_trigger WHERE tgrelid = $1::text::regclass AND tgname = $2", table.fullname, _TRIGGER
    )
    if present == b"".join(word.encode() + b"\0" for word in words):
        return
    arguments = ", ".join(f"'{word}'" for word in words)
    await connection.execute(
        f"CREATE OR REPLACE TRIGGER {_TRIGGER} BEFORE INSERT OR UPDATE OR DELETE ON {table.fullname} "
        f"FOR EACH ROW EXECUTE FUNCTION {schema_of(service)}.guard({arguments})"
    )


async def _number_from(connection: Connection, table: Table, first: int) -> None:
    for column in table.columns:
        if column.identity is None:
            continue
        sequence = await connection.fetchval("SELECT pg_get_serial_sequence($1, $2)", table.fullname, column.name)
        if await connection.fetchval(f"SELECT last_value FROM {sequence}") < first:  # noqa: S608 - our own names
            await connection.execute("SELECT setval($1::text::regclass, $2, false)", sequence, first)


def sql_type(column: Column[Any]) -> str:  # Any: of any type
    """Name of a column's type."""
    return column.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]  # the dialect has no types


def sql_columns(table: Table, alias: str = "") -> str:
    """All columns in the order of `tables.py`, which is not always that of the database."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(f'{prefix}"{column.name}"' for column in table.columns)


def _objects(service: str) -> str:
    schema, namespace = schema_of(service), lock_namespace(service)
    changeable = ", ".join(f"'{state}'" for state in sorted(CHANGEABLE))
    return f"""
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.shards (
  shard int PRIMARY KEY CHECK (shard >= 0 AND shard < {SHARDS_COUNT}),
  state text NOT NULL,
  epoch bigint NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS {schema}.changes (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  shard int NOT NULL,
  relation text NOT NULL,
  key jsonb NOT NULL);
CREATE INDEX IF NOT EXISTS changes_of_shard ON {schema}.changes (shard, number);

CREATE OR REPLACE FUNCTION {schema}.enter(numbers int[]) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  -- Whoever holds more than one is kept out as a whole by who takes many alone, so that they never wait in a circle.
  IF cardinality(numbers) > 1 THEN
    PERFORM pg_advisory_xact_lock_shared({namespace}, {ALL_SHARDS});
  END IF;
  PERFORM pg_advisory_xact_lock_shared({namespace}, number) FROM unnest(numbers) AS number;
  RETURN (SELECT count(*) FROM {schema}.shards WHERE shard = ANY (numbers) AND state IN ({changeable}))
         = cardinality(numbers);
END $$;

CREATE OR REPLACE FUNCTION {schema}.guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  changed jsonb;
  number int;
  standing text;
BEGIN
  IF current_setting('{MOVES}', true) = 'on' THEN
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
  END IF;
  IF TG_OP = 'DELETE' THEN
    number := {sql_shard_of(f"OLD.{ORGANIZATION}")};
  ELSE
    number := {sql_shard_of(f"NEW.{ORGANIZATION}")};
  END IF;
  PERFORM pg_advisory_xact_lock_shared({namespace}, number);
  -- After the lock, so that it sees what whoever had it alone has committed.
  SELECT state INTO standing FROM {schema}.shards WHERE shard = number;
  IF standing IS NULL OR standing NOT IN ({changeable}) THEN
    RAISE EXCEPTION 'shard % is not here', number USING ERRCODE = '{SHARD_ELSEWHERE}';
  END IF;
  IF standing = '{ShardState.COPYING}' THEN
    IF TG_OP = 'DELETE' THEN changed := to_jsonb(OLD); ELSE changed := to_jsonb(NEW); END IF;
    INSERT INTO {schema}.changes (shard, relation, key)
    SELECT number, TG_TABLE_NAME, jsonb_object_agg(name, changed -> name) FROM unnest(TG_ARGV) AS name;
  END IF;
  IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
  RETURN NEW;
END $$;
"""  # noqa: S608 - our own names
