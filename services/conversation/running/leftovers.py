"""What deleted conversations left in Valkey, which is forgotten even where Valkey was away when they were deleted.

Histories and journals are dropped at once. But Valkey may have been away, or a worker was just putting a history there
or adding to a journal: what a delete may have left is remembered with it, and dropped once more a little later.
"""

from typing import Final

from services.conversation.history.branches import HistoryCache
from services.conversation.journal.port import Journal
from services.conversation.store.leftovers import LeftoverStore
from services.mesh import telemetry

SETTLED_S: Final = 60.0
"""After a delete: whoever worked on the conversation has noticed by then, and adds nothing to what is dropped."""
BATCH_MAX: Final = 100

_log = telemetry.logger("conversation.leftovers")


class Sweeper:
    """Drops what is left. Any number of replicas may run it.

    Args:
        store: tells what was deleted.
        cache: of histories.
        journal: of turns.
    """

    def __init__(self, store: LeftoverStore, cache: HistoryCache, journal: Journal) -> None:
        self._store = store
        self._cache = cache
        self._journal = journal

    async def sweep(self) -> None:
        """One round. Raises MeshError when the store is away."""
        async with self._store.leftovers(older_s=SETTLED_S, limit=BATCH_MAX) as found:
            for left in found:
                await self._cache.drop(left.owner, left.conversation_id)
                await self._journal.forget(left.turn_ids)
        if found:
            _log.info("leftovers_dropped", conversations=len(found))
