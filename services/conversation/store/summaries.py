"""Summaries of older history, as they are kept: where they come from, what they stand for, and who is making one.

A part of `services.conversation.store.Store`; the same promises hold.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.conversation.model import ConversationId, Owner, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSummary:
    """A summary to keep.

    Attributes:
        through_message_id: the last message that it stands for.
        messages_covered: how many messages it stands for: all of its branch up to that one.
        made_from: the summary that it was made from, with the messages since; empty for a first one.
        wording_revision: of the instructions by which it was written.
        tokens_before, tokens_after: about how long what it was made from is, and what was made of it.
        usage: of the call that wrote it.
    """

    id: str
    conversation_id: ConversationId
    through_message_id: str
    messages_covered: int
    made_from: str
    text: str
    model: str
    wording_revision: str
    tokens_before: int
    tokens_after: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(NewSummary):
    """A summary that is kept; it never changes."""

    create_time: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """How a branch stands: how many messages it has, and the summary that stands for most of them."""

    length: int
    summary: Summary | None = None

    @property
    def uncovered(self) -> int:
        """How many of the newest messages no summary stands for."""
        return self.length - (0 if self.summary is None else self.summary.messages_covered)


class SummaryStore(Protocol):
    """Summaries, and the claims of those who make them."""

    async def standing(self, owner: Owner, conversation_id: str, *, leaf_id: str) -> Standing:
        """The branch that ends in a message. Raises NotFound when there is no such message in the conversation."""
        ...

    async def summary(self, owner: Owner, summary_id: str) -> Summary:
        """Raises NotFound."""
        ...

    async def claim_summary(self, owner: Owner, conversation_id: str, *, token: str, lease_s: float) -> bool:
        """Takes the right to make the conversation's next summary, for so many seconds.

        Returns:
            False when somebody else has it, or when there is no such conversation.
        """
        ...

    async def keep_summary(self, owner: Owner, new: NewSummary, *, token: str) -> bool:
        """Keeps a summary and gives the claim up.

        Returns:
            False when the claim is another one's by now, the conversation is gone, or there is such a summary.
        """
        ...

    async def leave_summary(self, owner: Owner, conversation_id: str, *, token: str, pause_s: float) -> None:
        """Gives a claim up without a summary; nobody takes it for so many seconds."""
        ...
