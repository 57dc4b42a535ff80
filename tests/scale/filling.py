"""Fills a database with a platform's years: few large organizations, few people who write most, few very long trees.

The server makes all rows itself, by the SQL beside this module. Ids sort by time, as ours do. Foreign keys are not
checked on the way in, which takes a superuser; what is made keeps to them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

SCHEMAS: Final = ("conversation", "retrieval", "inference")
"""In the order in which they are filled: the functions of the first one serve the others."""
LARGE_ROWS: Final = 1_000
"""A table of more rows than this is never to be read from end to end."""
LAST_AT_WORK: Final = 400
"""So many conversations, the last ones, have a turn that has not ended; an eighth of them has one behind it."""
SHORT_LIVED: Final = frozenset({"inference.reservations"})
"""Rows of these last for minutes, so that there are never many, and to read a third of them by an index is no gain."""
_FILL_S_MAX: Final = 600.0
_LARGE: Final = """
SELECT n.nspname || '.' || c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = ANY ($1) AND c.reltuples > $2
"""


@dataclass(frozen=True, slots=True)
class Filled:
    """What was filled.

    Attributes:
        url: of the database, for the services' role.
        large: tables that may not be read from end to end, as `schema.table`.
    """

    url: str
    large: frozenset[str]


async def fill(url: str, superuser_url: str, *, messages: int) -> Filled:
    """Fills the migrated schemas, and tells the planner of it.

    A turn has to be there already: its options are those of all turns.
    """
    connection: Any = await asyncpg.connect(superuser_url, command_timeout=_FILL_S_MAX)  # Any: the driver has no types
    try:
        await connection.execute("SET session_replication_role = replica; SET work_mem = '128MB'")
        for schema in SCHEMAS:
            statements = (Path(__file__).parent / f"{schema}.sql").read_text("utf-8")
            await connection.execute(
                statements.replace(":messages", str(messages)).replace(":at_work", str(LAST_AT_WORK))
            )
        await connection.execute("VACUUM (ANALYZE)")
        large = await connection.fetch(_LARGE, list(SCHEMAS), float(LARGE_ROWS))
    finally:
        await connection.close()
    return Filled(url, frozenset(row["name"] for row in large) - SHORT_LIVED)
