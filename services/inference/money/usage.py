"""What was consumed, for those who may know it."""

from datetime import date, timedelta
from typing import Final

from services.inference.money.model import Period, Usage, UsageKey, UsageQuery
from services.inference.store import LedgerStore
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import invalid_field

DAYS_MAX: Final = 400
"""A year and a month: what one wants to compare, and as much as one query may read."""


class UsageReports:
    """Usage as the ledger has it."""

    def __init__(self, store: LedgerStore, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._clock = clock

    def days(self, first: date | None, last: date | None) -> tuple[date, date]:
        """The days that are asked for: the present month until today unless told.

        Raises:
            InvalidArgument: they are in the wrong order, or too many.
        """
        today = self._clock.now().date()
        last = last or max(today, first or today)
        first = first or Period.MONTH.starts_on(last)
        if first > last:
            raise invalid_field("first_date", "must not be after last_date")
        if last - first >= timedelta(days=DAYS_MAX):
            raise invalid_field("first_date", f"must be at most {DAYS_MAX} days before last_date")
        return first, last

    async def page(self, query: UsageQuery, *, after: UsageKey | None, limit: int) -> list[Usage]:
        """Rows, oldest first, from the first one behind `after`."""
        return await self._store.usage(query, after=after, limit=limit)
