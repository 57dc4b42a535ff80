"""What PostgreSQL holds in the end, read around proxies and services, as a file beside the history."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from services.conversation import tables

_TABLES: Final = (tables.turns, tables.messages, tables.outbox)

Row = dict[str, Any]  # Any: columns


@dataclass(frozen=True, slots=True)
class Stored:
    """The end state.

    Attributes:
        queued: messages that the queue holds.
    """

    turns: list[Row]
    messages: list[Row]
    outbox: list[Row]
    queued: int

    @classmethod
    def load(cls, path: Path) -> "Stored":
        """From a file that `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Into a file."""
        found = {name: getattr(self, name) for name in self.__slots__}
        path.write_text(json.dumps(found, default=_plain, ensure_ascii=False), encoding="utf-8")


async def read_stored(database_url: str, *, since: float, queued: int) -> Stored:
    """Reads what was created after an instant; times become seconds of the epoch."""
    engine = create_async_engine(make_url(database_url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            rows = {}
            for table in _TABLES:
                query = select(table).where(table.c.create_time >= datetime.fromtimestamp(since, UTC))
                rows[table.name] = [dict(row) for row in (await connection.execute(query)).mappings()]
    finally:
        await engine.dispose()
    return Stored(**rows, queued=queued)


def _plain(value: Any) -> Any:  # Any: what JSON does not know: instants
    return value.timestamp()
