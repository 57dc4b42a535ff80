"""Circuits, cool-downs and limits per minute: who is asked, who is left alone, and for how long."""

from collections import Counter
from random import Random

import pytest
from structlog.testing import capture_logs

from services.inference.providers.allowances import Allowance
from services.inference.providers.failures import BLAMED, Failure, Kind
from services.inference.routing import Target
from services.inference.standing.outages import PROBATION_S, State
from services.inference.standing.standings import (
    CALLS_MIN,
    OPEN_S_MAX,
    OPEN_S_MIN,
    REFUSED_KEY_S,
    Admission,
    Blocked,
    Standings,
)
from services.inference.standing.window import WINDOW_S
from services.mesh.clock import ManualClock
from services.mesh.errors import ProviderUnavailable
from services.mesh.telemetry import REGISTRY
from tests.support.standing import admitted, blocked, key, standings, target


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def fail(known: Standings, asked: Target, kind: Kind, *, times: int = 1, wait_s: float | None = None) -> None:
    for _ in range(times):
        known.failed(await admitted(known, asked), Failure(kind, ProviderUnavailable()), wait_s=wait_s)


async def succeed(known: Standings, asked: Target, *, times: int = 1, is_slow: bool = False) -> None:
    for _ in range(times):
        known.succeeded(await admitted(known, asked), seconds=1.0, is_slow=is_slow)


def state(known: Standings) -> State:
    return next(known.state(circuit)[0] for circuit in known.circuits())


async def test_circuit_opens_at_its_share_of_failures_and_not_before(clock: ManualClock) -> None:
    known, asked = standings(clock), target()

    await fail(known, asked, Kind.SERVER_ERROR, times=CALLS_MIN - 1)
    assert state(known) is State.CLOSED
    await fail(known, asked, Kind.SERVER_ERROR)

    assert state(known) is State.OPEN
    assert (await blocked(known, asked)).kind is Kind.OVERLOADED


async def test_successes_keep_a_circuit_closed(clock: ManualClock) -> None:
    known, asked = standings(clock), target()

    for _ in range(20):
        await succeed(known, asked, times=2)
        await fail(known, asked, Kind.CUT)

    assert state(known) is State.CLOSED


async def test_failures_of_long_ago_do_not_count(clock: ManualClock) -> None:
    known, asked = standings(clock), target()

    await fail(known, asked, Kind.SERVER_ERROR, times=CALLS_MIN - 1)
    clock.advance(WINDOW_S)
    await fail(known, asked, Kind.SERVER_ERROR)

    assert state(known) is State.CLOSED


async def test_slow_calls_open_a_circuit(clock: ManualClock) -> None:
    known, asked = standings(clock), target()

    await succeed(known, asked, times=CALLS_MIN, is_slow=True)

    assert state(known) is State.OPEN


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in BLAMED])
async def test_what_is_not_the_targets_fault_leaves_its_circuit_closed(clock: ManualClock, kind: Kind) -> None:
    known, asked = standings(clock), target(*(key(str(number)) for number in range(3 * CALLS_MIN)))

    await fail(known, asked, kind, times=2 * CALLS_MIN)

    assert {known.state(circuit)[0] for circuit in known.circuits()} == {State.CLOSED}


async def test_half_open_circuit_lets_one_probe_through(clock: ManualClock) -> None:
    known, asked = standings(clock), target()
    await fail(known, asked, Kind.SERVER_ERROR, times=CALLS_MIN)
    clock.advance(OPEN_S_MIN)

    probe = await admitted(known, asked)

    assert probe.is_probe
    await blocked(known, asked)
    known.succeeded(probe, seconds=1.0, is_slow=False)
    assert state(known) is State.CLOSED
    assert not (await admitted(known, asked)).is_probe


async def test_probe_that_fails_opens_the_circuit_for_longer(clock: ManualClock) -> None:
    known, asked = standings(clock), target()
    await fail(known, asked, Kind.SERVER_ERROR, times=CALLS_MIN)
    waits = []
    for _ in range(6):
        waits.append((await blocked(known, asked)).wait_s)
        clock.advance(waits[-1])
        await fail(known, asked, Kind.STALLED)

    assert waits == [2.0, 4.0, 8.0, OPEN_S_MAX, OPEN_S_MAX, OPEN_S_MAX]


async def test_probe_that_tells_nothing_lets_the_next_one_through(clock: ManualClock) -> None:
    known, asked = standings(clock), target()
    await fail(known, asked, Kind.SERVER_ERROR, times=CALLS_MIN)
    clock.advance(OPEN_S_MIN)

    known.abandoned(await admitted(known, asked))
    await fail(known, asked, Kind.CONTENT_FILTERED)

    assert (await admitted(known, asked)).is_probe


async def test_probation_ends_by_itself(clock: ManualClock) -> None:
    known, asked = standings(clock), target()
    await fail(known, asked, Kind.SERVER_ERROR, times=CALLS_MIN)

    clock.advance(OPEN_S_MIN + PROBATION_S)

    assert state(known) is State.CLOSED


async def test_circuits_of_other_models_and_keys_stay_closed(clock: ManualClock) -> None:
    known, first, second = standings(clock), key("1"), key("2")
    await fail(known, target(first), Kind.SERVER_ERROR, times=CALLS_MIN)

    assert (await admitted(known, target(first, second))).key is second
    assert (await admitted(known, target(first, name="a/other"))).key is first


async def test_limited_key_rests_for_as_long_as_the_provider_asks_and_for_that_model_only(clock: ManualClock) -> None:
    known, asked = standings(clock), target()

    await fail(known, asked, Kind.RATE_LIMITED, wait_s=7.0)

    assert await blocked(known, asked) == Blocked(7.0, Kind.RATE_LIMITED)
    await admitted(known, target(asked.keys[0], name="a/other"))
    clock.advance(7.0)
    await admitted(known, asked)


@pytest.mark.parametrize("kind", [Kind.KEY_REFUSED, Kind.QUOTA_SPENT])
async def test_log_and_metric_tell_which_key_an_operator_has_to_mend(clock: ManualClock, kind: Kind) -> None:
    known, labels = standings(clock), {"provider": "a", "key": "a/worn", "kind": kind.value}
    before = REGISTRY.get_sample_value("parley_inference_key_coolings_total", labels) or 0.0
    with capture_logs() as lines:
        await fail(known, target(key("worn")), kind)

    (line,) = [line for line in lines if line["event"] == "key_unusable"]
    assert (line["key"], line["kind"], line["log_level"]) == ("a/worn", kind.value, "error")
    assert REGISTRY.get_sample_value("parley_inference_key_coolings_total", labels) == before + 1


@pytest.mark.parametrize("kind", [Kind.KEY_REFUSED, Kind.QUOTA_SPENT])
async def test_refused_key_rests_for_all_models(clock: ManualClock, kind: Kind) -> None:
    known, asked = standings(clock), target()

    await fail(known, asked, kind)

    assert (await blocked(known, target(asked.keys[0], name="a/other"))).wait_s == REFUSED_KEY_S
    clock.advance(REFUSED_KEY_S)
    await admitted(known, asked)


async def test_keys_are_drawn_by_weight(clock: ManualClock) -> None:
    known = Standings(clock=clock, chance=Random(3).random)
    asked = target(key("1", weight=3.0), key("2"))

    drawn = Counter([(await admitted(known, asked)).key.id for _ in range(4_000)])

    assert 0.72 < drawn["a/1"] / 4_000 < 0.78


async def test_key_that_failed_this_call_is_not_drawn_again(clock: ManualClock) -> None:
    known, asked = standings(clock), target(key("1"), key("2"))

    found = await known.admit(asked, 10, without={"a/1"})

    assert isinstance(found, Admission)
    assert found.key.id == "a/2"
    assert isinstance(await known.admit(asked, 10, without={"a/1", "a/2"}), Blocked)


@pytest.mark.parametrize(("requests", "tokens", "calls"), [(3, None, 3), (None, 30, 3), (None, 29, 2)])
async def test_key_is_asked_no_more_than_its_limits_allow(
    clock: ManualClock, requests: int | None, tokens: int | None, calls: int
) -> None:
    known, asked = standings(clock), target(key(requests=requests, tokens=tokens))

    for _ in range(calls):
        await admitted(known, asked)

    wait = await blocked(known, asked)
    assert wait.kind is Kind.RATE_LIMITED
    clock.advance(wait.wait_s)
    await admitted(known, asked)


async def test_call_that_is_larger_than_a_minute_allows_waits_for_a_full_minute(clock: ManualClock) -> None:
    known, asked = standings(clock), target(key(tokens=100))

    await admitted(known, asked, tokens=1_000)

    assert (await blocked(known, asked, tokens=1_000)).wait_s == pytest.approx(600.0)


async def test_changed_limit_holds_at_once(clock: ManualClock) -> None:
    known = standings(clock)
    await admitted(known, target(key(requests=1)))
    await blocked(known, target(key(requests=1)))

    await admitted(known, target(key(requests=2)))
    await admitted(known, target(key()))


async def test_vendors_word_on_what_is_left_is_kept_to_until_its_reset(clock: ManualClock) -> None:
    known, asked = standings(clock), target()
    known.allow(await admitted(known, asked), Allowance(requests_left=2, requests_reset_s=9.0))

    await admitted(known, asked)
    assert known.left("a/k", "requests") == 1
    await admitted(known, asked)

    assert await blocked(known, asked) == Blocked(9.0, Kind.RATE_LIMITED)
    clock.advance(9.0)
    assert known.left("a/k", "requests") is None
    # What was told before the reset is no longer true: the next answer tells anew.
    await admitted(known, asked)


async def test_tokens_that_the_vendor_has_left_bound_the_next_call(clock: ManualClock) -> None:
    known, asked = standings(clock), target()
    known.allow(await admitted(known, asked), Allowance(tokens_left=50, tokens_reset_s=9.0))

    assert (await blocked(known, asked, tokens=51)).wait_s == 9.0
    await admitted(known, asked, tokens=50)


async def test_averages_tell_what_people_look_at(clock: ManualClock) -> None:
    known, asked = standings(clock), target()
    first = await admitted(known, asked)
    assert first.circuit.averages.in_flight == 1
    known.began(first, 0.5)
    known.succeeded(first, seconds=2.0, is_slow=False)
    known.succeeded(first, seconds=99.0, is_slow=True)
    second = await admitted(known, asked)
    known.began(second, 1.5)
    known.succeeded(second, seconds=7.0, is_slow=False)
    await fail(known, asked, Kind.CUT)

    seen = first.circuit.averages

    assert (seen.latency_s, seen.first_text_s) == (3.0, 0.7)
    assert (seen.calls, seen.in_flight, seen.failures, seen.last_failure) == (3, 0, {"cut": 1}, "cut")
