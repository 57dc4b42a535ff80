"""Usage by day and month, and the sums of the ledger."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from services.inference.money.model import Dimension, Period, Usage, UsageKey, UsageQuery
from services.inference.money.purse import Purpose
from services.inference.store import Store
from tests.support.money import (
    API_KEY,
    NOON,
    ORGANIZATION,
    OTHER_ORGANIZATION,
    OTHER_USER,
    TODAY,
    USER,
    call,
    hold,
    spent,
    unused,
)

ALL = frozenset(Dimension)


async def usage(
    store: Store, *group_by: Dimension, period: Period = Period.DAY, limit: int = 100, **filters: Any
) -> list[Usage]:
    """Any: fields of the query by name."""
    wanted: dict[str, Any] = {"first": date(2026, 10, 1), "last": date(2026, 12, 31), **filters}
    query = UsageQuery(organization_id=ORGANIZATION, period=period, group_by=frozenset(group_by), **wanted)
    return await pages(store, query, limit)


async def pages(store: Store, query: UsageQuery, limit: int) -> list[Usage]:
    rows: list[Usage] = []
    while True:
        page = await store.usage(query, after=rows[-1].key if rows else None, limit=limit)
        rows += page
        if len(page) < limit:
            return rows


def costs(rows: Sequence[Usage]) -> list[tuple[date, int]]:
    return [(row.key.starts_on, row.cost_nanos) for row in rows]


async def test_row_sums_all_that_calls_consumed(store: Store) -> None:
    await store.settle([spent(call(), 70), spent(call(), None), spent(call(), 5, is_estimated=True)], NOON)
    assert await usage(store) == [
        Usage(
            key=UsageKey(starts_on=TODAY),
            calls=3,
            input_tokens=9,
            cached_input_tokens=3,
            output_tokens=12,
            reasoning_tokens=6,
            cost_nanos=75,
            unpriced_calls=1,
            estimated_calls=1,
        )
    ]


async def test_call_that_was_released_is_no_usage(store: Store) -> None:
    await store.settle([unused(hold())], NOON)
    assert await usage(store) == []


async def test_usage_of_another_organization_is_not_seen(store: Store) -> None:
    await store.settle([spent(call(organization_id=OTHER_ORGANIZATION))], NOON)
    assert await usage(store) == []


async def test_days_and_months_are_those_on_which_calls_began(store: Store) -> None:
    await store.settle([spent(call(at=NOON.replace(month=10, day=31)), 1)], NOON)
    await store.settle([spent(call(at=NOON.replace(day=1)), 2), spent(call(), 4)], NOON)
    assert costs(await usage(store)) == [(date(2026, 10, 31), 1), (date(2026, 11, 1), 2), (TODAY, 4)]
    assert costs(await usage(store, period=Period.MONTH)) == [(date(2026, 10, 1), 1), (date(2026, 11, 1), 6)]


async def test_only_the_days_that_are_asked_for_count(store: Store) -> None:
    for days in (-1, 0, 1):
        await store.settle([spent(call(at=NOON + timedelta(days=days)), 1)], NOON)
    assert costs(await usage(store, first=TODAY, last=TODAY)) == [(TODAY, 1)]


async def test_rows_are_told_apart_by_what_is_asked_for(store: Store) -> None:
    await store.settle(
        [
            spent(call(), 1),
            spent(call(user_id=OTHER_USER), 2),
            spent(call(api_key_id=""), 4),
            spent(call(model="openai/n"), 8),
            spent(call(purpose=Purpose.SUMMARY), 16),
        ],
        NOON,
    )
    by = {
        dimension: {getattr(row.key, field): row.cost_nanos for row in await usage(store, dimension)}
        for dimension, field in (
            (Dimension.USER, "user_id"),
            (Dimension.API_KEY, "api_key_id"),
            (Dimension.MODEL, "model"),
            (Dimension.PURPOSE, "purpose"),
        )
    }
    assert by == {
        Dimension.USER: {USER: 29, OTHER_USER: 2},
        Dimension.API_KEY: {API_KEY: 27, "": 4},
        Dimension.MODEL: {"openai/m": 23, "openai/n": 8},
        Dimension.PURPOSE: {"answer": 15, "summary": 16},
    }


async def test_only_the_calls_that_are_asked_for_count(store: Store) -> None:
    await store.settle([spent(call(), 1), spent(call(user_id=OTHER_USER), 2)], NOON)
    await store.settle([spent(call(model="openai/n"), 4), spent(call(purpose=Purpose.REWRITE), 8)], NOON)
    assert costs(await usage(store, user_id=OTHER_USER)) == [(TODAY, 2)]
    assert costs(await usage(store, model="openai/n")) == [(TODAY, 4)]
    assert costs(await usage(store, purpose=Purpose.REWRITE)) == [(TODAY, 8)]
    assert await usage(store, api_key_id="key_other") == []


async def test_pages_hold_each_row_once_in_one_order(store: Store) -> None:
    for number in range(7):
        at = NOON + timedelta(days=number % 3)
        await store.settle([spent(call(at=at, user_id=f"usr_{number % 2}", model=f"openai/{number}"), 1)], NOON)
    whole = await usage(store, *ALL)
    assert len(whole) == 7
    for limit in (1, 2, 3):
        assert await usage(store, *ALL, limit=limit) == whole
    for period in Period:
        one_by_one = await usage(store, Dimension.USER, period=period, limit=1)
        assert one_by_one == await usage(store, Dimension.USER, period=period)
