"""Budgets as they are kept, and alerts."""

from datetime import timedelta

import pytest

from services.inference.money.model import BUDGETS_MAX, Limits, Period
from services.inference.store import Store, TooManyBudgetsError
from tests.support.money import NOON, ORGANIZATION, OTHER_ORGANIZATION, TODAY, USER, call, hold, spent

LIMITS = Limits(requests_per_minute=1, tokens_per_minute=2, cost_nanos_per_day=3, cost_nanos_per_month=4)


async def test_budget_is_what_was_set(store: Store) -> None:
    made = await store.set_budget(ORGANIZATION, USER, LIMITS, NOON)
    assert made.limits == LIMITS
    assert made.created_at == made.updated_at == NOON
    assert await store.get_budget(ORGANIZATION, USER, NOON) == made


async def test_budget_that_is_set_again_is_replaced_and_keeps_its_age(store: Store) -> None:
    await store.set_budget(ORGANIZATION, USER, LIMITS, NOON)
    changed = await store.set_budget(ORGANIZATION, USER, Limits(cost_nanos_per_day=9), NOON + timedelta(hours=1))
    assert changed.limits == Limits(cost_nanos_per_day=9)
    assert (changed.created_at, changed.updated_at) == (NOON, NOON + timedelta(hours=1))


async def test_budgets_of_another_organization_are_not_seen(store: Store) -> None:
    await store.set_budget(ORGANIZATION, USER, LIMITS, NOON)
    assert await store.get_budget(OTHER_ORGANIZATION, USER, NOON) is None
    assert await store.list_budgets(OTHER_ORGANIZATION, NOON, after="", limit=10) == []
    assert await store.limits(OTHER_ORGANIZATION) == {}
    assert not await store.delete_budget(OTHER_ORGANIZATION, USER)


async def test_budgets_are_listed_by_subject_in_pages(store: Store) -> None:
    for number in (3, 1, 2):
        await store.set_budget(ORGANIZATION, f"usr_{number}", LIMITS, NOON)
    first = await store.list_budgets(ORGANIZATION, NOON, after="", limit=2)
    rest = await store.list_budgets(ORGANIZATION, NOON, after=first[-1].subject_id, limit=2)
    assert [budget.subject_id for budget in (*first, *rest)] == ["usr_1", "usr_2", "usr_3"]
    assert {one.period for one in first[0].standings} == set(Period)


async def test_limits_are_those_of_all_subjects(store: Store) -> None:
    await store.set_budget(ORGANIZATION, USER, LIMITS, NOON)
    await store.set_budget(ORGANIZATION, ORGANIZATION, Limits(), NOON)
    assert await store.limits(ORGANIZATION) == {USER: LIMITS, ORGANIZATION: Limits()}


async def test_organization_has_so_many_budgets_and_no_more(store: Store) -> None:
    for number in range(BUDGETS_MAX):
        await store.set_budget(ORGANIZATION, f"usr_{number}", LIMITS, NOON)
    with pytest.raises(TooManyBudgetsError):
        await store.set_budget(ORGANIZATION, "usr_more", LIMITS, NOON)
    await store.set_budget(ORGANIZATION, "usr_7", Limits(), NOON)
    await store.set_budget(OTHER_ORGANIZATION, USER, LIMITS, NOON)


@pytest.mark.parametrize(("cost_nanos", "percents"), [(49, []), (50, [50]), (80, [50, 80]), (100, [50, 80, 100])])
async def test_alert_is_given_for_each_threshold_that_is_reached(
    store: Store, cost_nanos: int, percents: list[int]
) -> None:
    await store.set_budget(ORGANIZATION, USER, Limits(cost_nanos_per_day=100), NOON)
    alerts = await store.settle([spent(call(), cost_nanos)], NOON)
    assert sorted(alert.percent for alert in alerts) == percents
    assert {(alert.subject_id, alert.period, alert.starts_on) for alert in alerts} <= {(USER, Period.DAY, TODAY)}


async def test_alert_is_given_once_in_a_period_and_again_in_the_next(store: Store) -> None:
    await store.set_budget(ORGANIZATION, USER, Limits(cost_nanos_per_day=100), NOON)
    tomorrow = NOON + timedelta(days=1)
    given = [await store.settle([spent(call(at=at), 30)], at) for at in (NOON, NOON, NOON, tomorrow, tomorrow)]
    assert [[alert.percent for alert in alerts] for alerts in given] == [[], [50], [80], [], [50]]
    listed = await store.list_alerts(ORGANIZATION, before=None, limit=10)
    assert [(alert.starts_on, alert.percent, alert.spent_nanos) for alert in listed] == [
        (tomorrow.date(), 50, 60),
        (TODAY, 80, 90),
        (TODAY, 50, 60),
    ]


async def test_alerts_are_listed_in_pages(store: Store) -> None:
    await store.set_budget(ORGANIZATION, USER, Limits(cost_nanos_per_day=100), NOON)
    await store.settle([spent(call(), 100)], NOON)
    first = await store.list_alerts(ORGANIZATION, before=None, limit=2)
    last = first[-1]
    place = (last.at, last.subject_id, last.period.value, last.percent)
    rest = await store.list_alerts(ORGANIZATION, before=place, limit=2)
    assert [alert.percent for alert in (*first, *rest)] == [100, 80, 50]
    assert await store.list_alerts(OTHER_ORGANIZATION, before=None, limit=2) == []


async def test_nothing_spent_raises_no_alert_even_where_nothing_may_be(store: Store) -> None:
    await store.set_budget(ORGANIZATION, USER, Limits(cost_nanos_per_day=0), NOON)
    held = hold(0)
    await store.reserve([held])
    assert await store.settle([spent(held, 0)], NOON) == []
