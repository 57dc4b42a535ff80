"""The purse: what is refused, what is held, and what is written when an attempt is over."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, Final

import pytest

from services.inference.catalog import Prices
from services.inference.model import Usage
from services.inference.money.books import Books
from services.inference.money.metered import HELD_RETRY_S, MeteredPurse
from services.inference.money.model import Decision, Hold, Limits, Line, Period
from services.inference.money.purse import FREE, NOBODY, Purpose
from services.inference.money.rates import Charge, LocalRates
from services.inference.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import ModelUnpriced, QuotaExhausted, RateLimited, Unavailable
from tests.support.money import API_KEY, ESTIMATE, ORGANIZATION, PAYER, USER, standing_of
from tests.support.waiting import until

DAY: Final = datetime(2026, 1, 1, tzinfo=UTC).date()


class DirectLimits:
    """Implements `limits.KnownLimits` without a memory."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def of(self, organization_id: str) -> Mapping[str, Limits]:
        return await self._store.limits(organization_id)

    async def changed(self, organization_id: str) -> None:
        return None


class WatchedRates(LocalRates):
    """Tells when all corrections that the test waits for are made."""

    corrections = 0

    async def correct(self, charges: Sequence[Charge]) -> None:
        await super().correct(charges)
        self.corrections += len(charges)

    @property
    def is_corrected(self) -> bool:
        return self.corrections == 2


class SlowStore(MemoryStore):
    """Reserves when it is told to, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()
        self.is_away = False
        self.batches: list[int] = []

    async def reserve(self, holds: Sequence[Hold]) -> list[Decision]:
        self.batches.append(len(holds))
        await self.go.wait()
        if self.is_away:
            raise Unavailable
        return await super().reserve(holds)


@dataclass
class Bench:
    purse: MeteredPurse
    store: SlowStore
    books: Books
    rates: WatchedRates
    clock: ManualClock
    allows_unpriced: bool = False

    async def limit(self, subject_id: str = ORGANIZATION, **limits: Any) -> None:
        """Any: limits by name."""
        await self.store.set_budget(ORGANIZATION, subject_id, Limits(**limits), self.clock.now())

    async def lines(self) -> list[Line]:
        await self.books.drain()
        return list(self.store.lines.values())

    async def standing(self) -> tuple[int, int]:
        await self.books.drain()
        return await standing_of(self.store, day=DAY)


@asynccontextmanager
async def opened(*, pace_s: float = 0.0) -> AsyncIterator[Bench]:
    clock, store = ManualClock(), SlowStore()
    rates = WatchedRates(clock)
    books = Books(store, rates, clock=clock, pace_s=pace_s)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(books.run())
        purse = MeteredPurse(
            books, DirectLimits(store), slack_s=30, allows_unpriced=lambda: made.allows_unpriced, clock=clock
        )
        made = Bench(purse, store, books, rates, clock)
        async with purse:
            yield made
        running.cancel()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with opened() as made:
        yield made


def usage(output_tokens: int = 20, **fields: Any) -> Usage:
    """Any: fields by name."""
    return Usage(input_tokens=10, output_tokens=output_tokens, **fields)


async def test_call_without_a_budget_is_in_the_ledger(bench: Bench) -> None:
    reservation = await bench.purse.reserve(replace(PAYER, purpose=Purpose.REWRITE), ESTIMATE)
    reservation.commit(usage(cached_input_tokens=4, reasoning_tokens=5))
    (line,) = await bench.lines()
    assert (line.call.organization_id, line.call.user_id, line.call.api_key_id) == (ORGANIZATION, USER, API_KEY)
    assert (line.call.model, line.call.purpose, line.call.at) == ("openai/m", "rewrite", bench.clock.now())
    assert line.consumed.cost_nanos == 50_000
    assert (line.consumed.cached_input_tokens, line.consumed.reasoning_tokens) == (4, 5)
    assert bench.store.batches == []


async def test_credential_that_is_no_api_key_is_not_booked_as_one(bench: Bench) -> None:
    reservation = await bench.purse.reserve(replace(PAYER, credential_id="workload:conversation"), ESTIMATE)
    reservation.commit(usage())
    assert [line.call.api_key_id for line in await bench.lines()] == [""]


async def test_first_settlement_counts_and_later_ones_do_nothing(bench: Bench) -> None:
    reservation = await bench.purse.reserve(PAYER, ESTIMATE)
    reservation.commit(usage())
    reservation.commit(usage(500))
    reservation.release()
    assert [line.consumed.output_tokens for line in await bench.lines()] == [20]


async def test_released_reservation_is_not_in_the_ledger(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=1_000_000)
    reservation = await bench.purse.reserve(PAYER, ESTIMATE)
    assert await bench.standing() == (0, 50_000)
    reservation.release()
    assert await bench.standing() == (0, 0)
    assert await bench.lines() == []


async def test_call_is_refused_when_the_budget_has_no_room(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=99_999)
    (await bench.purse.reserve(PAYER, ESTIMATE)).commit(usage())
    await bench.books.drain()
    with pytest.raises(QuotaExhausted) as refused:
        await bench.purse.reserve(PAYER, ESTIMATE)
    error = refused.value
    assert error.metadata == {
        "subject_id": ORGANIZATION,
        "period": "day",
        "limit_nanos": "99999",
        "spent_nanos": "50000",
        "reserved_nanos": "0",
        "wanted_nanos": "50000",
        "reset_time": "2026-01-02T00:00:00+00:00",
    }
    assert error.retry_after_s == 86_400
    assert error.fields[0].field == ORGANIZATION
    assert "0.00005 of 0.000099999 US dollars of this day are spent" in error.message


async def test_call_that_running_calls_leave_no_room_for_may_come_back_soon(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=99_999)
    await bench.purse.reserve(PAYER, ESTIMATE)
    with pytest.raises(QuotaExhausted) as refused:
        await bench.purse.reserve(PAYER, ESTIMATE)
    assert refused.value.retry_after_s == HELD_RETRY_S


async def test_call_is_not_refused_for_what_calls_hold_that_are_over() -> None:
    async with opened(pace_s=3_600) as bench:
        await bench.limit(cost_nanos_per_day=100_000)
        (await bench.purse.reserve(PAYER, ESTIMATE)).commit(usage(1))
        await bench.lines()
        over = await bench.purse.reserve(PAYER, ESTIMATE)  # 12,000 are spent, and 50,000 held
        over.commit(usage(1))
        await bench.purse.reserve(PAYER, ESTIMATE)
        assert await bench.standing() == (24_000, 50_000)


async def test_call_is_refused_for_what_running_calls_hold_though_others_are_over() -> None:
    async with opened(pace_s=3_600) as bench:
        await bench.limit(cost_nanos_per_day=100_000)
        running = await bench.purse.reserve(PAYER, ESTIMATE)
        (await bench.purse.reserve(PAYER, ESTIMATE)).commit(usage(1))
        with pytest.raises(QuotaExhausted):
            await bench.purse.reserve(PAYER, ESTIMATE)
        assert await bench.standing() == (12_000, 50_000)
        running.release()


async def test_full_month_is_refused_until_the_next(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_month=10)
    with pytest.raises(QuotaExhausted) as refused:
        await bench.purse.reserve(PAYER, ESTIMATE)
    assert refused.value.retry_after_s == 31 * 86_400
    assert refused.value.metadata["reset_time"] == "2026-02-01T00:00:00+00:00"


async def test_model_without_a_price_is_refused_under_a_budget_of_money(bench: Bench) -> None:
    await bench.limit(USER, requests_per_minute=1, cost_nanos_per_day=10**9)
    unpriced = replace(ESTIMATE, card=None)
    with pytest.raises(ModelUnpriced, match="unpriced") as refused:
        await bench.purse.reserve(PAYER, unpriced)

    assert refused.value.metadata == {"model": unpriced.model, "subject_id": USER}
    await bench.purse.reserve(PAYER, ESTIMATE)  # and has taken nothing of the minute


async def test_model_without_a_price_is_no_matter_for_limits_of_a_minute(bench: Bench) -> None:
    await bench.limit(requests_per_minute=1)
    (await bench.purse.reserve(PAYER, replace(ESTIMATE, card=None))).release()


async def test_model_without_a_price_passes_where_the_operator_lets_it(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=0)
    bench.allows_unpriced = True
    reservation = await bench.purse.reserve(PAYER, replace(ESTIMATE, card=None))
    reservation.commit(usage())
    assert [line.consumed.cost_nanos for line in await bench.lines()] == [None]


async def test_answer_is_bounded_by_what_the_budget_still_pays_for(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=70_000)
    reservation = await bench.purse.reserve(PAYER, ESTIMATE)
    assert reservation.output_tokens_max == 20 + 10


async def test_answer_is_not_bounded_where_there_is_room_for_the_longest(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=10_000_000)
    assert (await bench.purse.reserve(PAYER, ESTIMATE)).output_tokens_max is None


async def test_requests_per_minute_are_refused_beyond_the_limit(bench: Bench) -> None:
    await bench.limit(USER, requests_per_minute=2)
    for _ in range(2):
        await bench.purse.reserve(PAYER, ESTIMATE)
    with pytest.raises(RateLimited) as refused:
        await bench.purse.reserve(PAYER, ESTIMATE)
    assert refused.value.retry_after_s == pytest.approx(30)
    assert refused.value.metadata["limit"] == "requests_per_minute"
    bench.clock.advance(30)
    await bench.purse.reserve(PAYER, ESTIMATE)


async def test_further_attempt_is_no_further_request(bench: Bench) -> None:
    await bench.limit(requests_per_minute=1)
    for is_repeat in (False, True, True):
        await bench.purse.reserve(PAYER, replace(ESTIMATE, is_repeat=is_repeat))


async def test_tokens_per_minute_are_taken_by_estimate_and_put_right(bench: Bench) -> None:
    await bench.limit(tokens_per_minute=60)
    first = await bench.purse.reserve(PAYER, ESTIMATE)
    second = await bench.purse.reserve(PAYER, ESTIMATE)
    with pytest.raises(RateLimited):
        await bench.purse.reserve(PAYER, ESTIMATE)
    first.release()
    second.commit(usage())
    await bench.lines()
    await until(lambda: bench.rates.is_corrected, within_s=60)
    await bench.purse.reserve(PAYER, ESTIMATE)
    with pytest.raises(RateLimited):
        await bench.purse.reserve(PAYER, ESTIMATE)


async def test_call_that_money_refuses_takes_nothing_of_the_minute(bench: Bench) -> None:
    await bench.limit(requests_per_minute=1, cost_nanos_per_day=10)
    for _ in range(3):
        with pytest.raises(QuotaExhausted):
            await bench.purse.reserve(PAYER, ESTIMATE)


async def test_call_is_refused_when_there_is_a_budget_and_no_database(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=1_000_000)
    bench.store.is_away = True
    with pytest.raises(Unavailable):
        await bench.purse.reserve(PAYER, ESTIMATE)


async def test_caller_that_leaves_while_it_waits_holds_nothing(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=1_000_000)
    bench.store.go.clear()
    waiting = asyncio.create_task(bench.purse.reserve(PAYER, ESTIMATE))
    await until(lambda: bool(bench.store.batches), within_s=60)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.store.go.set()
    another = await bench.purse.reserve(PAYER, ESTIMATE)
    assert await bench.standing() == (0, 50_000)
    another.release()
    assert await bench.standing() == (0, 0)


async def test_calls_that_come_together_are_decided_together(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=10_000_000)
    bench.store.go.clear()
    calls = [asyncio.create_task(bench.purse.reserve(PAYER, ESTIMATE)) for _ in range(9)]
    await until(lambda: bool(bench.store.batches), within_s=60)
    bench.store.go.set()
    await asyncio.gather(*calls)
    assert len(bench.store.batches) <= 2
    assert sum(bench.store.batches) == 9


async def test_reservation_lapses_after_the_time_of_its_call_and_counts_in_full(bench: Bench) -> None:
    await bench.limit(cost_nanos_per_day=1_000_000)
    await bench.purse.reserve(PAYER, ESTIMATE)
    bench.clock.advance(31)
    await bench.books.lapse()
    assert await bench.standing() == (0, 50_000)
    bench.clock.advance(1)
    await bench.books.lapse()
    assert await bench.standing() == (50_000, 0)
    assert [line.is_lapsed for line in await bench.lines()] == [True]


async def test_nobody_counts_in_a_free_purse() -> None:
    reservation = await FREE.reserve(NOBODY, ESTIMATE)
    reservation.commit(usage())
    reservation.release()
    assert reservation.output_tokens_max is None


def test_cost_in_nanos_is_exact_where_micros_are_rounded() -> None:
    cheap = Prices(input_micros=20_000, output_micros=0)
    small = Usage(input_tokens=7, output_tokens=0)
    assert cheap.cost_nanos(small) == 140
    assert cheap.cost_micros(small) == 0


@pytest.mark.parametrize(
    ("day", "ends"),
    [
        (date(2026, 2, 28), date(2026, 3, 1)),
        (date(2026, 12, 31), date(2027, 1, 1)),
        (date(2028, 2, 29), date(2028, 3, 1)),
    ],
)
def test_day_and_month_end_where_the_next_ones_begin(day: date, ends: date) -> None:
    for period in Period:
        assert period.ends_at(period.starts_on(day)).date() == ends
