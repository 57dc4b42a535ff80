"""A connection for statements that every call asks: the driver itself, without SQLAlchemy around it.

Measured (processor time of the asking process, one small function of the schema): 0.45 ms through an engine, most of it
for connection, transaction and result objects; 0.03 ms through a lane. `Database` is what everything else uses: it
checks what a statement may do, and a lane does not.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

CLOSE_S_MAX: Final = 1.0


class Lane:
    """One statement at a time, each a transaction of its own. Connects when it is first used, and anew after a failure.

    Args:
        engine: knows the server and all bounds; the connection is none of its pool.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._free = asyncio.Lock()
        self._driver: Any = None  # Any: the driver has no types

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Mapping[str, Any]]:
        """Rows of a statement, whose parameters are `$1`, `$2` and so on; Any: columns hold anything.

        Raises:
            Exception: the driver's own, as `database.translated` knows them.
        """
        async with self._free:
            driver = await self._connected()
            try:
                rows: Sequence[Mapping[str, Any]] = await driver.fetch(statement, *arguments)
            except asyncpg.PostgresError:  # an answer like another; a server that ends the connection is noticed above
                raise
            except BaseException:
                self._driver = None
                driver.terminate()
                raise
        return rows

    async def close(self) -> None:
        """Ends the connection; a later use makes another one."""
        driver, self._driver = self._driver, None
        if driver is not None:
            try:
                await driver.close(timeout=CLOSE_S_MAX)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                driver.terminate()

    async def _connected(self) -> Any:  # Any: see above
        if self._driver is None or self._driver.is_closed():
            pooled = await self._engine.raw_connection()
            self._driver = pooled.driver_connection
            pooled.detach()
        return self._driver
