"""The rows of shards on their way from one instance to another: all of them once, then what changes, then none.

Nothing here knows in which state a shard is; `move` does. Rows travel in PostgreSQL's binary format, unread.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, MetaData, Table, Text, UniqueConstraint

from services.mesh.errors import MeshError
from services.mesh.postgres.shards.schema import (
    MOVES,
    ORGANIZATION,
    Connection,
    key_of,
    schema_of,
    sharded_tables,
    sql_columns,
    sql_shard_of,
    sql_type,
)

# ruff: noqa: S608 - statements are made of the names of our own tables and columns

PIECES_MAX: Final = 16
"""Of a copy, that wait for the slower side; 64 KB each."""
DELETE_MAX: Final = 5_000
"""Rows in one transaction when an instance is emptied: their locks are those that others wait for."""

Keys = Mapping[str, str]
"""Primary keys by table, as a JSON array of objects."""


class CopyError(MeshError):
    """The two instances do not hold the same rows. Nothing was lost: the source has them still."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What was noted while a shard was copied."""

    numbers: Sequence[int]
    keys: Keys


class Copy:
    """The rows of some shards of one service.

    Args:
        service: its schema.
        metadata: its tables.
        source: a connection to the instance that has the shards.
        target: a connection to the one that is to have them.
        shards: their numbers.
    """

    def __init__(
        self, service: str, metadata: MetaData, *, source: Connection, target: Connection, shards: Sequence[int]
    ) -> None:
        self.source = source
        self.target = target
        self.shards = list(shards)
        self._log = f"{schema_of(service)}.changes"
        self._tables = sharded_tables(metadata)
        named = {key.column.table for table in self._tables for key in table.foreign_keys}
        self._parents = [table for table in self._tables if table in named]
        self._leaves = [table for table in self._tables if table not in named]

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """The source as of one instant."""
        async with self.source.transaction(isolation="repeatable_read", readonly=True):
            yield

    @asynccontextmanager
    async def moving(self, connection: Connection) -> AsyncIterator[None]:
        """A transaction that may write rows of shards that are not there."""
        async with connection.transaction():
            await connection.execute(f"SET LOCAL {MOVES} = 'on'")
            yield

    async def all_rows(self) -> None:
        """Copies every row of the source's snapshot; has to be within `moving`."""
        for table in self._tables:
            organizations = await self._organizations(self.source, table)
            if organizations:
                query = f"SELECT {sql_columns(table)} FROM {table.fullname} WHERE {ORGANIZATION} = ANY ($1::text[])"
                await self._pipe(query, organizations, table.name, table, schema=table.schema)

    async def empty(self, connection: Connection) -> int:
        """Deletes every row, some at a time; gives how many there were."""
        total = 0
        for table in reversed(self._tables):
            organizations = await self._organizations(connection, table)
            while organizations:
                async with self.moving(connection):
                    status = await connection.execute(
                        f"DELETE FROM {table.fullname} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table.fullname} "
                        f"WHERE {ORGANIZATION} = ANY ($1::text[]) LIMIT {DELETE_MAX}))",
                        organizations,
                    )
                deleted = int(status.split()[-1])
                total += deleted
                if deleted < DELETE_MAX:
                    break
        return total

    async def changes(self) -> Changes:
        """What is noted in the source's snapshot."""
        rows = await self.source.fetch(
            f"SELECT number, relation, key FROM {self._log} WHERE shard = ANY ($1) ORDER BY number", self.shards
        )
        keys: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows:
            keys[row["relation"]].add(row["key"])  # the driver gives JSON as its text
        return Changes([row["number"] for row in rows], {name: f"[{','.join(each)}]" for name, each in keys.items()})

    async def forget(self, changes: Changes) -> None:
        """Drops what was noted, once the target has it."""
        await self.source.execute(f"DELETE FROM {self._log} WHERE number = ANY ($1)", changes.numbers)

    async def forget_all(self) -> None:
        """Drops whatever was noted."""
        await self.source.execute(f"DELETE FROM {self._log} WHERE shard = ANY ($1)", self.shards)

    async def follow(self, changes: Changes) -> None:
        """Brings the rows that changed to the state of the source's snapshot; has to be within `moving`."""
        for table in reversed(self._leaves):
            await self._delete(table, changes.keys.get(table.name))
        parents = [table for table in self._parents if table.name in changes.keys]
        for table in parents:
            await self._stage(table, changes.keys[table.name])
        for table in reversed(parents):
            await self._delete(table, changes.keys[table.name], but=_staged(table))
        for table in parents:
            await self._renew(table)
        for table in self._leaves:
            if keys := changes.keys.get(table.name):
                await self._pipe(self._present(table, keys), keys, table.name, table, schema=table.schema)

    async def verify(self, keys: Keys | None = None) -> int:
        """Counts all rows of both sides, and compares all of them or those that have these keys; gives the count.

        Raises:
            CopyError: they differ.
        """
        total = 0
        for table in self._tables:
            here, there = await asyncio.gather(self._sum(self.source, table, keys), self._sum(self.target, table, keys))
            if here != there:
                raise CopyError(f"{table.fullname} differs: {here[0]} rows and {there[0]}, sums {here[1:]} {there[1:]}")
            total += here[0]
        return total

    async def _sum(self, connection: Connection, table: Table, keys: Keys | None) -> tuple[int, int]:
        organizations = await self._organizations(connection, table)
        of_shards = f"FROM {table.fullname} AS t WHERE {ORGANIZATION} = ANY ($1::text[])"
        checksum = f"coalesce(sum(hashtextextended(ROW({sql_columns(table, 't')})::text, 0)::numeric), 0)"
        if keys is None:
            row = await connection.fetchrow(f"SELECT count(*), {checksum} {of_shards}", organizations)
            return row[0], int(row[1])
        count = await connection.fetchval(f"SELECT count(*) {of_shards}", organizations)
        wanted = keys.get(table.name, "[]")
        some = f"SELECT {checksum} FROM {table.fullname} AS t WHERE {_has_key(table)}"
        return count, int(await connection.fetchval(some, wanted))

    async def _organizations(self, connection: Connection, table: Table) -> list[str]:
        """Organizations that have rows, from one to the next by the index that begins with them."""
        name = table.fullname
        rows = await connection.fetch(
            f"WITH RECURSIVE one(id) AS (SELECT min({ORGANIZATION}) FROM {name} UNION ALL "
            f"SELECT (SELECT min({ORGANIZATION}) FROM {name} WHERE {ORGANIZATION} > one.id) FROM one "
            f"WHERE one.id IS NOT NULL) "
            f"SELECT id FROM one WHERE id IS NOT NULL AND {sql_shard_of('id')} = ANY ($1::int[])",
            self.shards,
        )
        return [row["id"] for row in rows]

    def _present(self, table: Table, keys: str) -> str:
        del keys  # they are the argument
        return f"SELECT {sql_columns(table, 't')} FROM {table.fullname} AS t WHERE {_has_key(table)}"

    async def _delete(self, table: Table, keys: str | None, *, but: str | None = None) -> None:
        if keys is None:
            return
        spared = f" AND ({_key(table, 't')}) NOT IN (SELECT {_key(table)} FROM {but})" if but else ""
        await self.target.execute(f"DELETE FROM {table.fullname} AS t WHERE {_has_key(table)}{spared}", keys)

    async def _stage(self, table: Table, keys: str) -> None:
        name = _staged(table)
        await self.target.execute(f"CREATE TEMPORARY TABLE {name} (LIKE {table.fullname}) ON COMMIT DROP")
        await self._pipe(self._present(table, keys), keys, name, table, schema=None)

    async def _renew(self, table: Table) -> None:
        """Puts staged rows in their places. They may swap what has to be unique, so it is taken from them first."""
        staged, key = _staged(table), {column.name for column in key_of(table)}
        freed = ", ".join(f""""{name}" = concat_ws(' ', 'moving', {_key(table, "t")})""" for name in _unique(table))
        if freed:
            await self.target.execute(
                f"UPDATE {table.fullname} AS t SET {freed} "
                f"WHERE ({_key(table, 't')}) IN (SELECT {_key(table)} FROM {staged})"
            )
        values = ", ".join(f'"{each.name}" = excluded."{each.name}"' for each in table.columns if each.name not in key)
        await self.target.execute(
            f"INSERT INTO {table.fullname} ({sql_columns(table)}) OVERRIDING SYSTEM VALUE "
            f"SELECT {sql_columns(table)} FROM {staged} ON CONFLICT ({_key(table)}) DO UPDATE SET {values}"
        )

    async def _pipe(self, query: str, argument: object, into: str, table: Table, *, schema: str | None) -> None:
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES_MAX)

        async def read() -> None:
            await self.source.copy_from_query(query, argument, output=pieces.put, format="binary")
            await pieces.put(None)

        async def arriving() -> AsyncIterator[bytes]:
            while (piece := await pieces.get()) is not None:
                yield piece

        async with asyncio.TaskGroup() as group:
            group.create_task(read(), name="shard copy")
            columns = [column.name for column in table.columns]
            await self.target.copy_to_table(
                into, schema_name=schema, columns=columns, source=arriving(), format="binary"
            )


def _staged(table: Table) -> str:
    return f"staged_{table.name}"


def _key(table: Table, alias: str = "") -> str:
    prefix = f"{alias}." if alias else ""
    return ", ".join(f'{prefix}"{column.name}"' for column in key_of(table))


def _has_key(table: Table) -> str:
    """Condition for rows of the alias t whose keys are in the first argument."""
    given = ", ".join(f"(given.key ->> '{column.name}')::{sql_type(column)}" for column in key_of(table))
    return f"({_key(table, 't')}) IN (SELECT {given} FROM jsonb_array_elements($1::text::jsonb) AS given(key))"


def _unique(table: Table) -> list[str]:
    """One column of each unique constraint that a row may take over from another one."""
    groups: list[Sequence[Column[Any]]] = [  # Any: columns of any type
        *(list(each.columns) for each in table.constraints if isinstance(each, UniqueConstraint)),
        *(list(each.columns) for each in table.indexes if each.unique),
    ]
    found: dict[str, None] = {}  # a set that keeps its order
    for columns in groups:
        free = [each for each in columns if isinstance(each.type, Text) and not _is_fixed(table, each)]
        if free:
            found[free[-1].name] = None
    return list(found)


def _is_fixed(table: Table, column: Column[Any]) -> bool:  # Any: as above
    return column.name == ORGANIZATION or column in key_of(table) or bool(column.foreign_keys)
