"""The store on PostgreSQL. Every change is one transaction or one statement; the fence is checked by the database."""

from services.conversation.store_postgres.backlog import BacklogQueries
from services.conversation.store_postgres.conversations import ConversationQueries
from services.conversation.store_postgres.feedback import FeedbackQueries
from services.conversation.store_postgres.leftovers import LeftoverQueries
from services.conversation.store_postgres.many import ManyQueries
from services.conversation.store_postgres.summaries import SummaryQueries
from services.conversation.store_postgres.turns import TurnQueries


class PostgresStore(
    BacklogQueries, ConversationQueries, FeedbackQueries, LeftoverQueries, SummaryQueries, TurnQueries, ManyQueries
):
    """See `services.conversation.store.Store`."""


__all__ = ["PostgresStore"]
