"""Shows what waits in PostgreSQL, as the queue's gauges show what waits in the queue: the truth that alerts look at."""

from typing import Final

from services.conversation.store.backlog import BacklogStore
from services.mesh.telemetry import gauge

_OUTBOX: Final = gauge(
    "parley_conversation_outbox_oldest_age_seconds", "Since the oldest turn that no relay has moved was accepted."
)
_OVERDUE: Final = gauge(
    "parley_conversation_turns_overdue_seconds", "How far the latest of the turns that have not ended is past its time."
)
_ACTIVE: Final = gauge("parley_conversation_turns_active_count", "Turns that have not ended, by state.", ["state"])


class BacklogGauges:
    """Measures one store; every process of conversation shows the same figures.

    While the store is away the last figures stand, and the database's own alert tells why.
    """

    def __init__(self, store: BacklogStore) -> None:
        self._store = store

    async def measure(self) -> None:
        """One look. Raises MeshError."""
        found = await self._store.backlog()
        _OUTBOX.set(found.outbox_oldest_s)
        _OVERDUE.set(found.overdue_s)
        _ACTIVE.labels("queued").set(found.queued)
        _ACTIVE.labels("running").set(found.running)
