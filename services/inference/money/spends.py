"""What an organization spends on each model: a view beside how the models stand."""

from dataclasses import dataclass
from datetime import date
from typing import Final

from services.inference.money.model import Dimension, Period, Usage, UsageQuery
from services.inference.store import LedgerStore
from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import MeshError

MODELS_MAX: Final = 1_000
"""Models that are told, by name; the catalog itself holds no more."""

_log = telemetry.logger("inference.spends")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpend:
    """What one model costs an organization; `calls` and `unpriced_calls` are of this month."""

    model: str
    today_nanos: int
    month_nanos: int
    calls: int
    unpriced_calls: int


class Spends:
    """Spends by model.

    Args:
        store: the sums of the ledger.
        clock: says which day and month are the present ones.
    """

    def __init__(self, store: LedgerStore, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._clock = clock

    async def of(self, organization_id: str) -> list[ModelSpend]:
        """What the organization spends, by model; nothing while the database is away.

        How providers stand is asked for when things break, and must not hang on the ledger.
        """
        today = self._clock.now().date()
        try:
            month = await self._by_model(organization_id, Period.MONTH.starts_on(today), today)
            day = {row.key.model: row.cost_nanos for row in await self._by_model(organization_id, today, today)}
        except MeshError as error:
            _log.warning("spends_unknown", reason=error.reason)
            return []
        return [
            ModelSpend(
                model=row.key.model,
                today_nanos=day.get(row.key.model, 0),
                month_nanos=row.cost_nanos,
                calls=row.calls,
                unpriced_calls=row.unpriced_calls,
            )
            for row in month
        ]

    async def _by_model(self, organization_id: str, first: date, last: date) -> list[Usage]:
        query = UsageQuery(
            organization_id=organization_id,
            period=Period.MONTH,
            first=first,
            last=last,
            group_by=frozenset({Dimension.MODEL}),
        )
        return await self._store.usage(query, after=None, limit=MODELS_MAX)
