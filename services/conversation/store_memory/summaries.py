"""Summaries in memory."""

from dataclasses import asdict
from datetime import timedelta

from services.conversation.model import Owner, Usage
from services.conversation.store.summaries import NewSummary, Standing, Summary
from services.conversation.store_memory.conversations import MemoryConversations
from services.mesh.errors import NotFound


class MemorySummaries(MemoryConversations):
    """See `SummaryStore`. Nothing here awaits, so every method is atomic."""

    async def standing(self, owner: Owner, conversation_id: str, *, leaf_id: str) -> Standing:
        """See `SummaryStore.standing`."""
        path = self.path(owner, conversation_id, leaf_id)
        on_it = {message.id for message in path}
        fitting = [summary for _, summary in self.tables.summaries.values() if summary.through_message_id in on_it]
        return Standing(len(path), max(fitting, key=lambda one: one.messages_covered, default=None))

    async def summary(self, owner: Owner, summary_id: str) -> Summary:
        """See `SummaryStore.summary`."""
        whose, summary = self.tables.summaries.get(summary_id, (None, None))
        if summary is None or whose != owner:
            raise NotFound.of("summary")
        return summary

    async def claim_summary(self, owner: Owner, conversation_id: str, *, token: str, lease_s: float) -> bool:
        """See `SummaryStore.claim_summary`."""
        if self.tables.conversations.get(conversation_id, (None,))[0] != owner:
            return False
        now = self.clock.now()
        _, until = self.tables.summary_claims.get(conversation_id, ("", now))
        if until > now:
            return False
        self.tables.summary_claims[conversation_id] = (token, now + timedelta(seconds=lease_s))
        return True

    async def keep_summary(self, owner: Owner, new: NewSummary, *, token: str) -> bool:
        """See `SummaryStore.keep_summary`."""
        if not self._holds(owner, new.conversation_id, token):
            return False
        del self.tables.summary_claims[new.conversation_id]
        kept = [summary for _, summary in self.tables.summaries.values()]
        if any(summary.through_message_id == new.through_message_id for summary in kept):
            return False
        fields = asdict(new) | {"usage": Usage(**asdict(new.usage))}
        self.tables.summaries[new.id] = (owner, Summary(**fields, create_time=self.now()))
        return True

    async def leave_summary(self, owner: Owner, conversation_id: str, *, token: str, pause_s: float) -> None:
        """See `SummaryStore.leave_summary`."""
        if self._holds(owner, conversation_id, token):
            self.tables.summary_claims[conversation_id] = ("", self.clock.now() + timedelta(seconds=pause_s))

    def _holds(self, owner: Owner, conversation_id: str, token: str) -> bool:
        if self.tables.conversations.get(conversation_id, (None,))[0] != owner:
            return False
        return self.tables.summary_claims.get(conversation_id, ("", None))[0] == token
