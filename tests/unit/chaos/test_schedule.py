from collections import Counter

import pytest

from tests.chaos.links import LINKS
from tests.chaos.proxy import Trouble
from tests.chaos.schedule import KILLED, Blow, Illness, kills, schedule
from tests.support.provider_double import Fault

LEASE_S = 6.0


def test_seed_replays_a_schedule() -> None:
    assert schedule(7, seconds=300, lease_s=LEASE_S) == schedule(7, seconds=300, lease_s=LEASE_S)


def test_longer_run_of_a_seed_begins_as_the_shorter_one() -> None:
    short = schedule(7, seconds=30, lease_s=LEASE_S)

    assert schedule(7, seconds=300, lease_s=LEASE_S)[: len(short)] == short


def test_seeds_differ() -> None:
    assert schedule(7, seconds=60, lease_s=LEASE_S) != schedule(8, seconds=60, lease_s=LEASE_S)


def test_strikes_come_in_order_and_in_time() -> None:
    times = [strike.at_s for strike in schedule(7, seconds=60, lease_s=LEASE_S)]

    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 60


@pytest.mark.parametrize("seed", range(20))
def test_every_minute_holds_what_the_promises_turn_on(seed: int) -> None:
    strikes = schedule(seed, seconds=60, lease_s=LEASE_S)

    blows = Counter((strike.blow, strike.target) for strike in strikes)
    assert blows[Blow.KILL, "postgres"]
    assert blows[Blow.WIPE, "valkey"]
    assert any(strike.blow is Blow.PAUSE and strike.lasts_s > LEASE_S for strike in strikes)
    assert any(strike.how == Trouble.LOST_REPLY for strike in strikes)
    assert kills(strikes) >= 6


def test_long_run_strikes_every_process_and_link_in_every_way() -> None:
    strikes = schedule(7, seconds=10_000, lease_s=LEASE_S)

    assert {strike.target for strike in strikes if strike.blow is Blow.KILL} == set(KILLED)
    assert {strike.target for strike in strikes if strike.blow is Blow.PAUSE} == set(KILLED)
    assert {strike.target for strike in strikes if strike.blow is Blow.LINK} == {str(link) for link in LINKS}
    assert {strike.how for strike in strikes if strike.blow is Blow.LINK} == set(Trouble) - {Trouble.NONE}
    assert {strike.how for strike in strikes if strike.blow is Blow.PROVIDER} == set(Illness)


def test_double_knows_every_illness() -> None:
    assert {Fault(illness.value) for illness in Illness}


def test_strike_is_told_in_words() -> None:
    told = " ".join(str(strike) for strike in schedule(7, seconds=60, lease_s=LEASE_S))

    assert "kill -9 postgres" in told
    assert "lost reply for" in told


def test_kafka_is_killed_wiped_and_frozen_where_turns_wait_there() -> None:
    strikes = schedule(7, seconds=60, lease_s=LEASE_S, queue="kafka")

    assert {strike.blow for strike in strikes if strike.target == "kafka"} == {Blow.KILL, Blow.WIPE, Blow.PAUSE}


@pytest.mark.parametrize("seed", range(20))
def test_run_begins_with_a_worker_cut_off_past_its_lease_and_nothing_else(seed: int) -> None:
    first, second, *_ = schedule(seed, seconds=60, lease_s=LEASE_S)

    assert (first.blow, first.how) == (Blow.LINK, Trouble.BLACK_HOLE)
    assert first.lasts_s > LEASE_S
    assert second.at_s > first.at_s + first.lasts_s
