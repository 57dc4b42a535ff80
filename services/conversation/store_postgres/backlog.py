"""The backlog in PostgreSQL: one statement of four looks into partial indexes, none of which reads an ended turn."""

from typing import Any, Final

from sqlalchemy import ColumnElement, Float, func, select, text

from services.conversation import tables
from services.conversation.model import TurnState
from services.conversation.store.backlog import Backlog
from services.conversation.store_postgres.turns import is_active
from services.mesh.database import Database

_turns: Final = tables.turns.c


def _age(oldest: Any) -> ColumnElement[float]:  # Any: an instant, or NULL
    return func.greatest(func.coalesce(func.extract("epoch", func.now() - oldest), 0.0), 0.0, type_=Float)


def _count(state: TurnState) -> Any:  # Any: a scalar subquery of whatever type
    # Spelled as the partial indexes are: a plan that serves for every parameter would not know that one fits.
    is_state = text(f"state = '{state.value}'")
    return select(func.count()).select_from(tables.turns).where(is_state).scalar_subquery()


_BACKLOG: Final = select(
    _age(select(func.min(tables.outbox.c.create_time)).scalar_subquery()),
    _age(select(func.min(_turns.deadline)).where(is_active()).scalar_subquery()),
    _count(TurnState.QUEUED),
    _count(TurnState.RUNNING),
)


class BacklogQueries:
    """See `BacklogStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def backlog(self) -> Backlog:
        """See `BacklogStore.backlog`."""
        async with self._database.read() as read:
            outbox_s, overdue_s, queued, running = (await read.execute(_BACKLOG)).one()
        return Backlog(outbox_oldest_s=float(outbox_s), overdue_s=float(overdue_s), queued=queued, running=running)
