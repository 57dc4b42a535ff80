"""What conversation keeps, as Protocols: PostgreSQL in production, memory in tests, one suite for both.

Every method that takes an Owner sees that owner's rows only; somebody else's id and a random id raise the same
NotFound. Work on turns (claim, fold, …) names its organization and is guarded by a fence instead: a worker that lost
its turn to a later one changes nothing.
"""

from typing import Protocol

from services.conversation.store.backlog import BacklogStore
from services.conversation.store.conversations import ConversationStore, FeedbackStore
from services.conversation.store.leftovers import LeftoverStore
from services.conversation.store.summaries import SummaryStore
from services.conversation.store.turns import TurnStore
from services.conversation.store.work import WorkStore


class Store(
    BacklogStore, ConversationStore, LeftoverStore, SummaryStore, FeedbackStore, TurnStore, WorkStore, Protocol
):
    """All of it."""
