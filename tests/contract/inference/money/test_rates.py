"""Buckets of a minute, shared or local. None of these waits for a bucket to fill."""

from collections.abc import AsyncIterator

import pytest

from services.inference.money.rates import Charge, LocalRates, Measure, Rates, SharedRates
from services.mesh.errors import RateLimited
from services.mesh.valkey import open_valkey
from tests.support.money import ORGANIZATION, OTHER_ORGANIZATION, USER, valkey_settings
from tests.support.valkey import url_of


@pytest.fixture(params=["local", "valkey", "cluster"])
async def rates(request: pytest.FixtureRequest) -> AsyncIterator[Rates]:
    if request.param == "local":
        yield LocalRates()
        return
    async with open_valkey(valkey_settings(url_of(request)), application="tests") as client:
        yield SharedRates(client)


def charge(
    amount: int = 1,
    *,
    per_minute: int = 3,
    subject_id: str = ORGANIZATION,
    measure: Measure = Measure.REQUESTS,
    organization_id: str = ORGANIZATION,
) -> Charge:
    return Charge(
        organization_id=organization_id,
        subject_id=subject_id,
        measure=measure,
        per_minute=per_minute,
        amount=amount,
    )


async def refused(rates: Rates, *charges: Charge) -> RateLimited:
    with pytest.raises(RateLimited) as refusal:
        await rates.take(charges)
    return refusal.value


async def test_minute_is_taken_at_once_and_no_more(rates: Rates) -> None:
    for _ in range(3):
        await rates.take([charge()])
    refusal = await refused(rates, charge())
    assert refusal.retry_after_s is not None
    assert 0 < refusal.retry_after_s <= 20
    assert refusal.metadata == {
        "subject_id": ORGANIZATION,
        "limit": "requests_per_minute",
        "requests_per_minute": "3",
    }


async def test_all_buckets_are_charged_or_none(rates: Rates) -> None:
    wide = charge(per_minute=2, subject_id=USER)
    await rates.take([wide, charge(3)])
    await refused(rates, wide, charge())
    await rates.take([wide])


async def test_buckets_of_subjects_measures_and_organizations_are_apart(rates: Rates) -> None:
    await rates.take([charge(3)])
    await rates.take([charge(3, subject_id=USER), charge(3, measure=Measure.TOKENS)])
    await rates.take([charge(3, organization_id=OTHER_ORGANIZATION)])


async def test_more_than_a_minute_allows_is_taken_from_a_full_bucket_alone(rates: Rates) -> None:
    await rates.take([charge(1_000)])
    await refused(rates, charge())


async def test_nothing_is_allowed_where_the_limit_is_nothing(rates: Rates) -> None:
    await refused(rates, charge(per_minute=0))
    await rates.correct([charge(per_minute=0)])


async def test_what_is_given_back_can_be_taken_again(rates: Rates) -> None:
    await rates.take([charge(3)])
    await rates.correct([charge(-2)])
    await rates.take([charge(2)])
    await refused(rates, charge())


async def test_what_is_taken_afterwards_is_missing_from_the_bucket(rates: Rates) -> None:
    await rates.take([charge(1)])
    await rates.correct([charge(2)])
    await refused(rates, charge())


async def test_corrections_of_one_bucket_count_together(rates: Rates) -> None:
    await rates.take([charge(3)])
    await rates.correct([charge(-2), charge(1), charge(-1)])
    await rates.take([charge(2)])
    await refused(rates, charge())


async def test_debt_is_paid_before_anything_is_allowed(rates: Rates) -> None:
    await rates.correct([charge(30)])
    refusal = await refused(rates, charge())
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s > 60


async def test_bucket_gives_back_no_more_than_it_holds(rates: Rates) -> None:
    await rates.correct([charge(-100)])
    await rates.take([charge(3)])
    await refused(rates, charge())


def test_buckets_of_an_organization_share_a_slot_of_a_cluster() -> None:
    keys = [charge(subject_id=USER).key, charge(measure=Measure.TOKENS).key]
    assert all(f"{{{ORGANIZATION}}}" in key for key in keys)


async def test_replicas_share_a_bucket(valkey_url: str) -> None:
    settings = valkey_settings(valkey_url)
    async with open_valkey(settings, application="one") as one, open_valkey(settings, application="two") as two:
        await SharedRates(one).take([charge(3)])
        await refused(SharedRates(two), charge())


async def test_each_replica_allows_the_rate_while_valkey_is_away() -> None:
    settings = valkey_settings("redis://127.0.0.1:1")
    async with open_valkey(settings, application="tests") as client:
        rates = SharedRates(client)
        await rates.take([charge(3)])
        await rates.correct([charge()])
        await refused(rates, charge())
