"""The store in memory, for tests; it passes the suite that PostgreSQL passes."""

from services.conversation.store_memory.backlog import MemoryBacklog
from services.conversation.store_memory.conversations import MemoryConversations
from services.conversation.store_memory.summaries import MemorySummaries
from services.conversation.store_memory.work import MemoryWork


class MemoryStore(MemoryWork, MemoryBacklog, MemorySummaries, MemoryConversations):
    """See `services.conversation.store.Store`."""


__all__ = ["MemoryStore"]
