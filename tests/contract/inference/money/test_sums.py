"""Whatever happens to calls, in whatever order: budgets, usage and ledger say the same, and no budget is passed."""

from datetime import date, datetime, timedelta
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.inference.money.model import (
    Consumed,
    Granted,
    Hold,
    Limits,
    Period,
    Posting,
    UsageQuery,
)
from services.inference.store import Store
from services.mesh.ids import new_id
from tests.support.money import LEASE, NOON, TODAY, call, standing

LIMIT: Final = 1_000
USERS: Final = ("usr_1", "usr_2")

# What becomes of a call: its estimate, whose it is, its day, and what is said of it, in order.
CALLS: Final = st.tuples(
    st.integers(1, 400),
    st.sampled_from(USERS),
    st.integers(0, 1),
    st.lists(st.sampled_from(["settle", "release", "lapse", "settle twice", "settle estimated"]), max_size=3),
)

# What counts: a lapse only while the reservation is there, and the last word on a lapse. Nothing else changes a state.
_AFTER: Final = {
    ("held", "settle"): "settled",
    ("held", "release"): "released",
    ("held", "lapse"): "lapsed",
    ("lapsed", "settle"): "settled",
    ("lapsed", "release"): "settled",
    ("released", "settle"): "settled",
}


@pytest.mark.timeout(300)
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(calls=st.lists(CALLS, min_size=1, max_size=12), shares=st.lists(st.integers(0, 100), min_size=12, max_size=12))
async def test_sums_agree_and_no_budget_is_passed(
    store: Store, calls: list[tuple[int, str, int, list[str]]], shares: list[int]
) -> None:
    organization = new_id("org")  # each example has a clean sheet
    for subject in (organization, *USERS):
        await store.set_budget(organization, subject, Limits(cost_nanos_per_day=LIMIT), NOON)
    open_holds: dict[str, Hold] = {}
    expected: dict[tuple[str, date], int] = {}
    for (cost, user, day, steps), share in zip(calls, shares, strict=False):
        wanted = Hold(
            call=call(id=new_id("call"), organization_id=organization, user_id=user, at=NOON + timedelta(days=day)),
            input_tokens=1,
            output_tokens=1,
            cost_nanos=cost,
            expires_at=NOON + LEASE,
        )
        granted = isinstance((await store.reserve([wanted]))[0], Granted)
        if not granted:
            continue
        open_holds[wanted.call.id] = wanted
        paid = await _follow(store, wanted, steps, cost * share // 100)
        if paid is not None:
            del open_holds[wanted.call.id]
            key = (user, wanted.call.at.date())
            expected[key] = expected.get(key, 0) + paid
        await _compare(store, organization, expected, open_holds)


async def _follow(store: Store, wanted: Hold, steps: list[str], cost_nanos: int) -> int | None:
    """Does what is said of a call; gives what it finally cost, None while its reservation is open."""
    paid: int | None = None
    state = "held"
    for step in steps:
        posting, cost = _posting(wanted, step, cost_nanos)
        await store.settle([posting] * (2 if step == "settle twice" else 1), NOON)
        following = _AFTER.get((state, "lapse" if posting.is_lapse else "release" if step == "release" else "settle"))
        if following is not None:
            state, paid = following, cost
    return paid


def _posting(wanted: Hold, step: str, cost_nanos: int) -> tuple[Posting, int]:
    if step == "release":
        return Posting(call=wanted.call, consumed=None), 0
    if step == "lapse":
        consumed = Consumed(input_tokens=1, output_tokens=1, cost_nanos=wanted.cost_nanos, is_estimated=True)
        return Posting(call=wanted.call, consumed=consumed, is_lapse=True), wanted.cost_nanos
    consumed = Consumed(input_tokens=1, cost_nanos=cost_nanos, is_estimated=step == "settle estimated")
    return Posting(call=wanted.call, consumed=consumed), cost_nanos


async def _compare(
    store: Store, organization: str, expected: dict[tuple[str, date], int], open_holds: dict[str, Hold]
) -> None:
    for day in (TODAY, TODAY + timedelta(days=1)):
        at = datetime(day.year, day.month, day.day, 12, tzinfo=NOON.tzinfo)
        held = [one for one in open_holds.values() if one.call.at.date() == day]
        for subject in (organization, *USERS):
            budget = await store.get_budget(organization, subject, at)
            spent, reserved = standing(budget)
            paying = USERS if subject == organization else (subject,)
            assert spent == sum(expected.get((user, day), 0) for user in paying)
            assert reserved == sum(one.cost_nanos for one in held if one.call.user_id in paying)
            assert spent + reserved <= LIMIT
    query = UsageQuery(organization_id=organization, period=Period.DAY, first=TODAY, last=TODAY + timedelta(days=1))
    rows = await store.usage(query, after=None, limit=10)
    by_day = {row.key.starts_on: row.cost_nanos for row in rows if row.cost_nanos}
    days = {day for _, day in expected}
    assert by_day == {day: total for day in days if (total := sum(v for (_, d), v in expected.items() if d == day))}
