"""The store in memory, for tests; it passes the suite that PostgreSQL passes."""

from services.conversation.store_memory.backlog import MemoryBacklog
from services.conversation.store_memory.conversations import MemoryConversations
from services.conversation.store_memory.many import MemoryMany
from services.conversation.store_memory.summaries import MemorySummaries


class MemoryStore(MemoryMany, MemoryBacklog, MemorySummaries, MemoryConversations):
    """See `services.conversation.store.Store`."""


__all__ = ["MemoryStore"]
