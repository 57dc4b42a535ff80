"""The backlog in memory."""

from services.conversation.model import TurnState
from services.conversation.store.backlog import Backlog
from services.conversation.store_memory.conversations import MemoryConversations


class MemoryBacklog(MemoryConversations):
    """See `BacklogStore`."""

    async def backlog(self) -> Backlog:
        """See `BacklogStore.backlog`."""
        now, turns = self.clock.now(), self.tables.turns
        active = [row for row in turns.values() if row.turn.state in (TurnState.QUEUED, TurnState.RUNNING)]
        waiting = [turns[ref.turn_id].publish_time for ref in self.tables.outbox if ref.turn_id in turns]
        return Backlog(
            outbox_oldest_s=max([0.0, *((now - since).total_seconds() for since in waiting)]),
            overdue_s=max([0.0, *((now - row.deadline).total_seconds() for row in active)]),
            queued=sum(row.turn.state is TurnState.QUEUED for row in active),
            running=sum(row.turn.state is TurnState.RUNNING for row in active),
        )
