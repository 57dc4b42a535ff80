"""The store in memory, for tests and for reading: a module per noun. It passes the same suite as PostgreSQL's.

A method is atomic because it awaits nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.auth.store_memory.accounts import MemoryAccounts
from services.auth.store_memory.keys import MemoryApiKeys, MemorySigningKeys
from services.auth.store_memory.rows import Rows
from services.auth.store_memory.sessions import MemorySessions

__all__ = ["MemoryStore"]


class MemoryStore(MemoryAccounts, MemorySessions, MemoryApiKeys, MemorySigningKeys):
    """Implements `store.Store`."""

    def __init__(self) -> None:
        super().__init__(Rows())
        self._bootstrapping = asyncio.Lock()

    @asynccontextmanager
    async def bootstrap_lock(self) -> AsyncIterator[None]:
        """See `store.Store.bootstrap_lock`."""
        async with self._bootstrapping:
            yield
