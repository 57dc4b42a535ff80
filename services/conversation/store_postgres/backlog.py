"""The backlog in PostgreSQL: one statement of four looks into partial indexes, none of which reads an ended turn."""

from typing import Any, Final

from sqlalchemy import ColumnElement, Float, func, select, text

from services.conversation import tables
from services.conversation.model import TurnState
from services.conversation.store.backlog import Backlog
from services.conversation.store_postgres.turns import is_active
from services.mesh.postgres.places import Places, Whole

_turns: Final = tables.turns.c


def _age(oldest: Any) -> ColumnElement[float]:  # Any: an instant, or NULL
    return func.greatest(func.coalesce(func.extract("epoch", func.now() - oldest), 0.0), 0.0, type_=Float)


def _count(state: TurnState, is_here: ColumnElement[bool]) -> Any:  # Any: a scalar subquery of whatever type
    # Spelled as the partial indexes are: a plan that serves for every parameter would not know that one fits.
    is_state = text(f"state = '{state.value}'")
    return select(func.count()).select_from(tables.turns).where(is_state, is_here).scalar_subquery()


def _backlog(here: Whole) -> Any:  # Any: a statement that returns a row
    is_here = here.present(_turns.organization_id)
    oldest = select(func.min(tables.outbox.c.create_time)).where(here.present(tables.outbox.c.organization_id))
    return select(
        _age(oldest.scalar_subquery()),
        _age(select(func.min(_turns.deadline)).where(is_active(), is_here).scalar_subquery()),
        _count(TurnState.QUEUED, is_here),
        _count(TurnState.RUNNING, is_here),
    )


class BacklogQueries:
    """See `BacklogStore`."""

    def __init__(self, database: Places) -> None:
        self._database = database

    async def backlog(self) -> Backlog:
        """See `BacklogStore.backlog`."""
        rows = []
        for here in self._database.each():
            async with here.read() as read:
                rows.append((await read.execute(_backlog(here))).one())
        return Backlog(
            outbox_oldest_s=max(float(row[0]) for row in rows),
            overdue_s=max(float(row[1]) for row in rows),
            queued=sum(row[2] for row in rows),
            running=sum(row[3] for row in rows),
        )
