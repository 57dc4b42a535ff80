"""The store on PostgreSQL. Every change is one transaction or one statement; the fence is checked by the database."""

from services.conversation.store_postgres.backlog import BacklogQueries
from services.conversation.store_postgres.conversations import ConversationQueries
from services.conversation.store_postgres.feedback import FeedbackQueries
from services.conversation.store_postgres.handling import Handling
from services.conversation.store_postgres.intake import Intake
from services.conversation.store_postgres.leftovers import LeftoverQueries
from services.conversation.store_postgres.many import ManyQueries
from services.conversation.store_postgres.summaries import SummaryQueries
from services.conversation.store_postgres.turns import TurnQueries
from services.mesh.postgres.places import Places


class PostgresStore(
    BacklogQueries, ConversationQueries, FeedbackQueries, LeftoverQueries, SummaryQueries, TurnQueries, ManyQueries
):
    """See `services.conversation.store.Store`.

    Args:
        places: where data is.
        intake: accepts questions together, where many are asked.
        handling: takes and ends turns together, where many are answered.
    """

    def __init__(self, places: Places, *, intake: Intake | None = None, handling: Handling | None = None) -> None:
        super().__init__(places)
        self._intake = intake
        self._handling = handling


__all__ = ["PostgresStore"]
