"""The store on PostgreSQL."""

from services.mesh.postgres.places import Places
from services.retrieval.store_postgres.documents import PostgresDocuments
from services.retrieval.store_postgres.index import PostgresIndex
from services.retrieval.store_postgres.knowledge import PostgresKnowledgeBases
from services.retrieval.store_postgres.queue import PostgresQueue


class PostgresStore(PostgresKnowledgeBases, PostgresDocuments, PostgresQueue, PostgresIndex):
    """See `services.retrieval.store.Store`.

    Locks are taken in one order: knowledge base, then document.
    """

    def __init__(self, places: Places) -> None:
        super().__init__(places)

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._places.ping()
