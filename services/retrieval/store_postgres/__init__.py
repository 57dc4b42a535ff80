"""The store on PostgreSQL."""

from services.mesh.database import Database
from services.retrieval.store_postgres.documents import PostgresDocuments
from services.retrieval.store_postgres.index import PostgresIndex
from services.retrieval.store_postgres.knowledge import PostgresKnowledgeBases
from services.retrieval.store_postgres.queue import PostgresQueue


class PostgresStore(PostgresKnowledgeBases, PostgresDocuments, PostgresQueue, PostgresIndex):
    """See `services.retrieval.store.Store`.

    Locks are taken in one order: knowledge base, then document.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._database.ping()
