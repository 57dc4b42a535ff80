"""What the ledger needs of a database. Two implementations pass one suite: PostgreSQL, and memory for tests."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.inference.money.model import (
    Alert,
    Budget,
    Decision,
    Hold,
    Limits,
    Posting,
    Usage,
    UsageKey,
    UsageQuery,
)


class BudgetStore(Protocol):
    """Budgets of organizations, users and API keys."""

    async def set_budget(self, organization_id: str, subject_id: str, limits: Limits, at: datetime) -> Budget:
        """Makes or replaces a budget. What was spent before in the day and month of `at` counts.

        Raises:
            TooManyBudgetsError: the organization has `BUDGETS_MAX` others.
        """
        ...

    async def get_budget(self, organization_id: str, subject_id: str, at: datetime) -> Budget | None:
        """A budget with its standings in the day and month of `at`."""
        ...

    async def list_budgets(self, organization_id: str, at: datetime, *, after: str, limit: int) -> list[Budget]:
        """Budgets by subject id, from the first one behind `after`, with their standings."""
        ...

    async def delete_budget(self, organization_id: str, subject_id: str) -> bool:
        """Ends a budget; False when there is none."""
        ...

    async def limits(self, organization_id: str) -> dict[str, Limits]:
        """All limits of an organization by subject id."""
        ...

    async def list_alerts(self, organization_id: str, *, before: "AlertPosition | None", limit: int) -> list[Alert]:
        """Alerts, newest first."""
        ...


class LedgerStore(Protocol):
    """Reservations, the ledger and what is summed from it."""

    async def reserve(self, holds: Sequence[Hold]) -> list[Decision]:
        """Grants or refuses each hold, in order, in one round trip; none passes any budget, whoever else reserves.

        Raises:
            Unavailable: the answer did not come. The holds may stand.
        """
        ...

    async def settle(self, postings: Sequence[Posting], at: datetime) -> list[Alert]:
        """Ends calls: their reservations are gone, their lines are in the ledger, budgets and usage have moved.

        All or nothing, and the same again when it is repeated. A call that had lapsed gets a line that puts it right.
        Gives the alerts that are new.
        """
        ...

    async def expired(self, at: datetime, limit: int) -> list[Hold]:
        """Reservations that nobody settled in time."""
        ...

    async def usage(self, query: UsageQuery, *, after: UsageKey | None, limit: int) -> list[Usage]:
        """Rows of usage in the order of their keys, from the first one behind `after`."""
        ...

    async def forget(self, before: datetime, limit: int) -> int:
        """Deletes lines of calls that began before `before`, of all organizations; what was summed of them stays.

        Returns:
            How many; 0 also where another replica is at it.
        """
        ...


class Store(BudgetStore, LedgerStore, Protocol):
    """Everything."""


class TooManyBudgetsError(Exception):
    """The organization has as many budgets as it may."""


AlertPosition = tuple[datetime, str, str, int]
"""Place of an alert in the order of alerts: instant, subject, period, percent."""
