"""What a message, a chunk and a ledger line take in PostgreSQL, indexes included, among very many."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from services.conversation.store_postgres import PostgresStore
from services.mesh.postgres.database import open_database
from tests.scale.filling import SCHEMAS, fill
from tests.support.conversation import database_settings, new_conversation, new_turn
from tests.support.postgres import Databases, running_postgres

_SIZES: Final = """
SELECT n.nspname || '.' || c.relname AS name, c.reltuples::bigint AS rows,
       pg_table_size(c.oid) AS bytes, pg_indexes_size(c.oid) AS index_bytes
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = ANY ($1) AND c.reltuples > 1000
ORDER BY pg_total_relation_size(c.oid) DESC
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A table.

    Attributes:
        rows: that it has.
        table_bytes: without indexes.
        index_bytes: of all indexes.
    """

    name: str
    rows: int
    table_bytes: int
    index_bytes: int


def stored(messages: int) -> Iterator[Stored]:
    """Fill a PostgreSQL with so many messages and what belongs to them, and weigh its tables."""
    with running_postgres() as server:
        databases = Databases(server)
        url = databases.create(*SCHEMAS)
        yield from asyncio.run(_weighed(url, databases.as_superuser(url), messages))


async def _weighed(url: str, superuser_url: str, messages: int) -> list[Stored]:
    async with open_database(database_settings(url), application="capacity") as database:
        store = PostgresStore(database)
        conversation = await store.create_conversation(new_conversation())
        await store.create_turn(new_turn(conversation.id))
    await fill(url, superuser_url, messages=messages)
    connection: Any = await asyncpg.connect(superuser_url)  # Any: the driver has no types
    try:
        found = await connection.fetch(_SIZES, list(SCHEMAS))
    finally:
        await connection.close()
    return [Stored(row["name"], row["rows"], row["bytes"], row["index_bytes"]) for row in found]
