"""Reserving and settling: no budget is passed, and nothing is counted twice or lost."""

from datetime import UTC, datetime, timedelta

import pytest

from services.inference.money.model import Consumed, Decision, Granted, Hold, Limits, Period, Posting, Refused
from services.inference.store import Store
from tests.support.money import (
    API_KEY,
    LEASE,
    NOON,
    ORGANIZATION,
    OTHER_ORGANIZATION,
    OTHER_USER,
    TODAY,
    USER,
    call,
    hold,
    spent,
    standing_of,
    unused,
)


async def limit(store: Store, day: int | None, month: int | None = None, *, subject_id: str = ORGANIZATION) -> None:
    limits = Limits(cost_nanos_per_day=day, cost_nanos_per_month=month)
    await store.set_budget(ORGANIZATION, subject_id, limits, NOON)


async def reserve(store: Store, wanted: Hold) -> Decision:
    return (await store.reserve([wanted]))[0]


async def test_call_without_a_budget_is_granted_and_holds_nothing(store: Store) -> None:
    assert await reserve(store, hold()) == Granted(room_nanos=None)
    assert await store.expired(NOON + LEASE, 10) == []


@pytest.mark.parametrize(("cost_nanos", "is_granted"), [(999, True), (1_000, True), (1_001, False)])
async def test_budget_is_full_at_its_limit(store: Store, cost_nanos: int, *, is_granted: bool) -> None:
    await limit(store, 1_000)
    assert isinstance(await reserve(store, hold(cost_nanos)), Granted) is is_granted


async def test_holds_of_one_batch_do_not_pass_the_budget_together(store: Store) -> None:
    await limit(store, 1_000)
    decisions = await store.reserve([hold(300) for _ in range(5)])
    assert [isinstance(decision, Granted) for decision in decisions] == [True, True, True, False, False]
    assert await standing_of(store) == (0, 900)


async def test_smaller_call_is_granted_after_a_larger_one_was_refused(store: Store) -> None:
    await limit(store, 1_000)
    decisions = await store.reserve([hold(800), hold(300), hold(200)])
    assert [isinstance(decision, Granted) for decision in decisions] == [True, False, True]


async def test_refusal_tells_which_budget_is_full(store: Store) -> None:
    await limit(store, 1_000)
    await store.reserve([hold(600)])
    await store.settle([spent(call(), 150)], NOON)
    assert await reserve(store, hold(300)) == Refused(
        subject_id=ORGANIZATION, period=Period.DAY, limit_nanos=1_000, spent_nanos=150, reserved_nanos=600
    )


async def test_refusal_names_the_budget_that_is_full_for_longest(store: Store) -> None:
    await limit(store, 10, 100)
    refused = await reserve(store, hold(200))
    assert isinstance(refused, Refused)
    assert refused.period is Period.MONTH


async def test_grant_tells_the_room_of_the_tightest_budget(store: Store) -> None:
    await limit(store, 1_000, 5_000)
    await limit(store, None, 400, subject_id=USER)
    assert await reserve(store, hold(100)) == Granted(room_nanos=300)


@pytest.mark.parametrize("subject_id", [ORGANIZATION, USER, API_KEY])
async def test_each_kind_of_subject_has_a_budget(store: Store, subject_id: str) -> None:
    await limit(store, 100, subject_id=subject_id)
    assert isinstance(await reserve(store, hold(60)), Granted)
    assert isinstance(await reserve(store, hold(60)), Refused)


async def test_refused_call_holds_nothing_in_any_budget(store: Store) -> None:
    await limit(store, 1_000)
    await limit(store, 50, subject_id=USER)
    await reserve(store, hold(60))
    assert await standing_of(store) == (0, 0)
    assert await standing_of(store, USER) == (0, 0)


async def test_budget_of_another_user_or_organization_does_not_bind(store: Store) -> None:
    await limit(store, 10, subject_id=OTHER_USER)
    await store.set_budget(OTHER_ORGANIZATION, USER, Limits(cost_nanos_per_day=10), NOON)
    assert await reserve(store, hold(100)) == Granted(room_nanos=None)


async def test_settling_counts_what_was_consumed_in_place_of_what_was_reserved(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    await store.settle([spent(held, 120)], NOON)
    assert await standing_of(store) == (120, 0)
    assert await standing_of(store, period=Period.MONTH) == (120, 0)


async def test_call_that_consumed_more_than_reserved_counts_in_full(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    await store.settle([spent(held, 1_200)], NOON)
    assert await standing_of(store) == (1_200, 0)
    assert isinstance(await reserve(store, hold(1)), Refused)


async def test_released_reservation_leaves_no_trace(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    await store.settle([unused(held)], NOON)
    assert await standing_of(store) == (0, 0)
    assert await store.expired(NOON + LEASE, 10) == []


async def test_settling_again_changes_nothing(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    for _ in range(2):
        await store.settle([spent(held, 120), spent(held, 120)], NOON)
    assert await standing_of(store) == (120, 0)


async def test_release_after_settling_changes_nothing(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    await store.settle([spent(held, 120)], NOON)
    await store.settle([unused(held)], NOON)
    assert await standing_of(store) == (120, 0)


async def test_call_that_began_before_midnight_is_paid_by_that_day(store: Store) -> None:
    await limit(store, 1_000, 1_000)
    late = hold(300, at=datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
    await store.reserve([late])
    await store.settle([spent(late, 120)], datetime(2026, 12, 1, 0, 1, tzinfo=UTC))
    december = datetime(2026, 12, 1, tzinfo=UTC).date()
    assert await standing_of(store, day=late.call.at.date()) == (120, 0)
    assert await standing_of(store, day=december) == (0, 0)
    assert await standing_of(store, period=Period.MONTH, day=december) == (0, 0)
    assert await standing_of(store, period=Period.MONTH, day=TODAY) == (120, 0)


async def test_month_counts_what_its_days_spent(store: Store) -> None:
    await limit(store, 1_000, 1_500)
    for day in (21, 22):
        held = hold(800, at=NOON.replace(day=day))
        assert isinstance(await reserve(store, held), Granted) is (day == 21)
        await store.settle([spent(held, 800)], NOON)


async def test_reservation_that_nobody_settles_lapses_and_counts_in_full(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    assert await store.expired(NOON + LEASE - timedelta(seconds=1), 10) == []
    assert await store.expired(NOON + LEASE, 10) == [held]
    await store.settle([lapse(held)], NOON + LEASE)
    assert await standing_of(store) == (300, 0)
    assert await store.expired(NOON + LEASE, 10) == []


async def test_lapse_that_two_replicas_find_counts_once(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    for _ in range(2):
        await store.settle([lapse(held)], NOON + LEASE)
    assert await standing_of(store) == (300, 0)


async def test_lapse_found_before_the_call_was_settled_does_not_count(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    await store.settle([spent(held, 120)], NOON)
    await store.settle([lapse(held)], NOON + LEASE)
    assert await standing_of(store) == (120, 0)


@pytest.mark.parametrize(("late", "expected"), [(120, 120), (None, 0)])
async def test_word_that_comes_after_the_lapse_puts_it_right(store: Store, late: int | None, expected: int) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    await store.settle([lapse(held)], NOON + LEASE)
    for _ in range(2):
        await store.settle([spent(held, late) if late is not None else unused(held)], NOON + LEASE)
    assert await standing_of(store) == (expected, 0)


async def test_new_budget_counts_what_was_spent_and_reserved_before(store: Store) -> None:
    await limit(store, 10_000, subject_id=API_KEY)
    running = hold(70)
    await store.reserve([running])
    await store.settle([spent(call(), 30), spent(call(at=NOON.replace(day=3)), 200)], NOON)
    await store.settle([spent(call(user_id=OTHER_USER), 5)], NOON)
    budget = await store.set_budget(ORGANIZATION, USER, Limits(cost_nanos_per_month=1_000), NOON)
    by_period = {one.period: (one.spent_nanos, one.reserved_nanos) for one in budget.standings}
    assert by_period == {Period.DAY: (30, 70), Period.MONTH: (230, 70)}
    assert await standing_of(store, USER) == (30, 70)
    await store.settle([spent(running, 60)], NOON)
    assert await standing_of(store, USER) == (90, 0)


async def test_budget_that_is_replaced_goes_on_with_what_is_spent(store: Store) -> None:
    await limit(store, 1_000)
    await store.settle([spent(call(), 30)], NOON)
    await limit(store, 20)
    assert await standing_of(store) == (30, 0)
    assert isinstance(await reserve(store, hold(1)), Refused)


async def test_budget_that_was_deleted_and_made_again_counts_what_came_between(store: Store) -> None:
    await limit(store, 1_000)
    held = hold(300)
    await store.reserve([held])
    assert await store.delete_budget(ORGANIZATION, ORGANIZATION)
    assert not await store.delete_budget(ORGANIZATION, ORGANIZATION)
    await store.settle([spent(call(), 30)], NOON)
    assert await reserve(store, hold(2_000)) == Granted(room_nanos=None)
    await limit(store, 1_000)
    assert await standing_of(store) == (30, 300)
    await store.settle([spent(held, 100)], NOON)
    assert await standing_of(store) == (130, 0)


def lapse(held: Hold) -> Posting:
    consumed = Consumed(
        input_tokens=held.input_tokens,
        output_tokens=held.output_tokens,
        cost_nanos=held.cost_nanos,
        is_estimated=True,
    )
    return Posting(call=held.call, consumed=consumed, is_lapse=True)
