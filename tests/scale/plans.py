"""The plans that PostgreSQL really ran: the server explains every statement of a database to whoever sent it.

Nothing is copied from the stores, and nothing is explained that was not run: parameters, cached plans, triggers and the
statements inside functions of the schema are the real ones.
"""

import asyncio
import json
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy import event

from services.mesh.postgres.database import Database

_MARK: Final = "plan:\n"
_SETTINGS: Final = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
    "client_min_messages": "notice",
}
_OF_DRIVER: Final = "typeinfo_tree"
"""In what the driver asks a new connection of types that it meets for the first time."""
_SETTLE_TURNS: Final = 3
"""Of the event loop, until what the driver heard has been told."""

Plan = dict[str, Any]
"""Any: PostgreSQL's own JSON."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Explained:
    """One statement as it ran."""

    statement: str
    plan: Plan

    def nodes(self) -> Iterator[Plan]:
        """Every node of the plan, the outermost first."""
        return _nodes(self.plan)


@dataclass(slots=True)
class Explanations:
    """What the connections of a database were told."""

    heard: list[Explained] = field(default_factory=list)

    def listen(self, database: Database) -> None:
        """Hear of every statement on connections that are opened from now on."""
        event.listen(database.engine.sync_engine, "connect", self._attach)

    async def of(self, work: Awaitable[T]) -> tuple[T, list[Explained]]:
        """The result, and what was run for it."""
        self.heard.clear()
        result = await work
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)
        return result, list(self.heard)

    def _attach(self, connection: Any, _record: object) -> None:  # Any: SQLAlchemy's adapter of the driver
        connection.driver_connection.add_log_listener(self._hear)

    def _hear(self, _connection: object, message: Any) -> None:  # Any: the driver has no types
        _, mark, written = str(message.message).partition(_MARK)
        explained = json.loads(written) if mark else {}
        if _OF_DRIVER not in explained.get("Query Text", _OF_DRIVER):
            self.heard.append(Explained(explained["Query Text"], explained["Plan"]))


async def explain_everything(superuser_url: str, *, generic: bool) -> None:
    """Makes the server explain every statement of connections that are opened from now on.

    Args:
        superuser_url: of the database.
        generic: whether plans may know what they are asked for: prepared statements lose that after some time.
    """
    connection: Any = await asyncpg.connect(superuser_url)  # Any: the driver has no types
    try:
        name = await connection.fetchval("SELECT current_database()")
        mode = "force_generic_plan" if generic else "force_custom_plan"
        for setting, value in (_SETTINGS | {"plan_cache_mode": mode}).items():
            await connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    finally:
        await connection.close()


def _nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)
