"""What administrators do: give subjects budgets, lift them, and look at how they stand."""

from services.inference.money.limits import KnownLimits
from services.inference.money.model import BUDGETS_MAX, Alert, Budget, Limits
from services.inference.store import AlertPosition, BudgetStore, TooManyBudgetsError
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import FieldViolation, NotFound, QuotaExhausted, invalid_field
from services.mesh.ids import is_id


class Budgets:
    """Budgets of the caller's organization.

    Args:
        store: keeps them.
        limits: told of every change.
        clock: says which day and month are the present ones.
    """

    def __init__(self, store: BudgetStore, limits: KnownLimits, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock

    async def set(self, organization_id: str, subject_id: str, limits: Limits) -> Budget:
        """Makes or replaces a budget.

        Raises:
            InvalidArgument: the subject is no organization, user or API key.
            NotFound: the subject is another organization.
            QuotaExhausted: there are too many budgets.
        """
        if is_id("org", subject_id):
            if subject_id != organization_id:
                raise NotFound.of("organization")
        elif not is_id("usr", subject_id) and not is_id("key", subject_id):
            raise invalid_field("subject", "must be the id of the organization, a user or an API key")
        try:
            budget = await self._store.set_budget(organization_id, subject_id, limits, self._clock.now())
        except TooManyBudgetsError:
            raise QuotaExhausted(
                f"an organization has at most {BUDGETS_MAX} budgets; delete one first",
                fields=[FieldViolation("budgets", f"{BUDGETS_MAX} budgets")],
            ) from None
        await self._limits.changed(organization_id)
        return budget

    async def get(self, organization_id: str, subject_id: str) -> Budget:
        """A budget and how it stands.

        Raises:
            NotFound: the subject has none.
        """
        budget = await self._store.get_budget(organization_id, subject_id, self._clock.now())
        if budget is None:
            raise NotFound.of("budget")
        return budget

    async def page(self, organization_id: str, *, after: str, limit: int) -> list[Budget]:
        """Budgets by subject id, from the first one behind `after`."""
        return await self._store.list_budgets(organization_id, self._clock.now(), after=after, limit=limit)

    async def delete(self, organization_id: str, subject_id: str) -> None:
        """Lifts the limits of a subject.

        Raises:
            NotFound: it has none.
        """
        if not await self._store.delete_budget(organization_id, subject_id):
            raise NotFound.of("budget")
        await self._limits.changed(organization_id)

    async def alerts(self, organization_id: str, *, before: AlertPosition | None, limit: int) -> list[Alert]:
        """Alerts, newest first."""
        return await self._store.list_alerts(organization_id, before=before, limit=limit)
