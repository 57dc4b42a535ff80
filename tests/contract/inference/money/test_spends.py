"""What an organization spends on each model, today and this month."""

from datetime import timedelta

from services.inference.money.model import Usage, UsageKey, UsageQuery
from services.inference.money.spends import ModelSpend, Spends
from services.inference.store import Store
from services.inference.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from tests.support.money import NOON, ORGANIZATION, OTHER_ORGANIZATION, call, spent


async def test_spends_are_those_of_the_organization_by_model(store: Store) -> None:
    yesterday, last_month = NOON - timedelta(days=1), NOON - timedelta(days=31)
    lines = [
        spent(call(model="a/one"), 7),
        spent(call(model="a/one", at=yesterday), 20),
        spent(call(model="a/one", at=last_month), 300),
        spent(call(model="b/two", at=yesterday), None),
        spent(call(model="a/one", organization_id=OTHER_ORGANIZATION), 4_000),
    ]
    await store.settle(lines, NOON)

    assert await Spends(store, clock=ManualClock(NOON)).of(ORGANIZATION) == [
        ModelSpend(model="a/one", today_nanos=7, month_nanos=27, calls=2, unpriced_calls=0),
        ModelSpend(model="b/two", today_nanos=0, month_nanos=0, calls=1, unpriced_calls=1),
    ]


class Away(MemoryStore):
    async def usage(self, query: UsageQuery, *, after: UsageKey | None, limit: int) -> list[Usage]:
        raise Unavailable


async def test_nothing_is_told_while_the_database_is_away() -> None:
    assert await Spends(Away(), clock=ManualClock(NOON)).of(ORGANIZATION) == []
