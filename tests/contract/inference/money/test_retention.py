"""Old lines of the ledger go, what was summed of them stays."""

from datetime import date, timedelta
from typing import Final

from services.inference.money.model import Limits, UsageQuery
from services.inference.money.model import Period as By
from services.inference.retention import LINES_MAX, Retention
from services.inference.store import Store
from services.mesh.clock import ManualClock
from tests.support.money import NOON, ORGANIZATION, OTHER_ORGANIZATION, call, spent, standing_of

OLD: Final = NOON - timedelta(days=400, seconds=1)


async def usage(store: Store, organization_id: str = ORGANIZATION) -> list[tuple[date, int, int]]:
    query = UsageQuery(
        organization_id=organization_id, period=By.DAY, first=OLD.date() - timedelta(days=9), last=NOON.date()
    )
    rows = await store.usage(query, after=None, limit=100)
    return [(row.key.starts_on, row.calls, row.cost_nanos) for row in rows]


async def test_lines_go_in_batches_and_sums_stay(store: Store) -> None:
    young, other = call(), call(at=OLD, organization_id=OTHER_ORGANIZATION)
    old = [call(at=OLD - timedelta(seconds=second)) for second in range(3)]
    await store.settle([spent(one, 7) for one in (young, other, *old)], NOON)
    before = [await usage(store), await usage(store, OTHER_ORGANIZATION)]

    deleted = [await store.forget(OLD + timedelta(seconds=1), 3) for _ in range(3)]

    assert deleted == [3, 1, 0]
    assert [await usage(store), await usage(store, OTHER_ORGANIZATION)] == before
    assert before[0] == [(OLD.date(), 3, 21), (NOON.date(), 1, 7)]


async def test_a_line_is_kept_to_the_very_end_of_its_days(store: Store) -> None:
    clock = ManualClock(NOON)
    await store.settle([spent(call(at=NOON - timedelta(days=400)), 7), spent(call(at=OLD), 7)], NOON)

    await Retention(store, "ledger lines", days=400, at_once=LINES_MAX, clock=clock).forget()
    assert await store.forget(NOON, 10) == 1
    assert await store.forget(NOON, 10) == 0


async def test_what_was_spent_this_month_is_known_without_its_lines(store: Store) -> None:
    await store.settle([spent(call(), 7)], NOON)
    assert await store.forget(NOON + timedelta(seconds=1), 10) == 1

    await store.set_budget(ORGANIZATION, ORGANIZATION, Limits(cost_nanos_per_month=100), NOON)

    assert await standing_of(store) == (7, 0)
