"""The store on PostgreSQL, a module per noun."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import func, select, text

from services.auth.store_postgres.accounts import PostgresAccounts
from services.auth.store_postgres.api_keys import PostgresApiKeys
from services.auth.store_postgres.audit import PostgresAudit
from services.auth.store_postgres.sessions import PostgresSessions
from services.auth.store_postgres.signing_keys import PostgresSigningKeys

BOOTSTRAP_LOCK: Final = 0x7061726C65790001
"""`parley`, 1: advisory locks share one space of numbers in a database."""

__all__ = ["PostgresStore"]


class PostgresStore(PostgresAccounts, PostgresSessions, PostgresApiKeys, PostgresSigningKeys, PostgresAudit):
    """Implements `store.Store`."""

    @asynccontextmanager
    async def bootstrap_lock(self) -> AsyncIterator[None]:
        """See `store.Store.bootstrap_lock`: an advisory lock of a transaction, so it ends with its connection."""
        async with self._database.write() as lock:
            # The holder hashes a password and writes a file meanwhile; the others wait for it.
            await lock.execute(text("SET LOCAL lock_timeout = '10s'"))
            await lock.execute(text("SET LOCAL idle_in_transaction_session_timeout = '60s'"))
            await lock.execute(select(func.pg_advisory_xact_lock(BOOTSTRAP_LOCK)))
            yield
