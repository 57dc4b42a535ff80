"""Who is asked after each failure: each action, each limit of patience, the budget of repeats, and the last word."""

from datetime import date
from itertools import pairwise

import pytest

from services.inference.catalog import ModelCard, Prices
from services.inference.generating.course import RETRY_AFTER_S, Course, Next, Tactics
from services.inference.generating.retries import IMPATIENT, RESERVE, SHARE, Budgets, Patience
from services.inference.providers.failures import ACTIONS, TRANSIENT, Action, Failure, Kind
from services.inference.routing import Target
from services.inference.standing.standings import REFUSED_KEY_S
from services.mesh.clock import ManualClock
from services.mesh.errors import (
    ContextLengthExceeded,
    MeshError,
    ProviderMisconfigured,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
)
from tests.support.standing import admitted, key, standings, target

LONG_S = 600.0


def course(*targets: Target, patience: Patience | None = None, budgets: Budgets | None = None) -> Course:
    clock = ManualClock()
    tactics = Tactics(
        standings=standings(clock),
        budgets=budgets or Budgets(),
        patience=patience or Patience(),
        chance=lambda: 0.5,
    )
    return Course(targets, tactics)


def failure(kind: Kind, *, wait_s: float | None = None) -> Failure:
    return Failure(kind, ProviderUnavailable(kind.value, retry_after_s=wait_s))


def card(name: str, window: int) -> ModelCard:
    return ModelCard(
        name=name,
        display_name=name,
        context_tokens=window,
        output_tokens_max=10,
        prices=Prices(input_micros=1, output_micros=1),
        source="a test",
        date=date(2026, 1, 2),
    )


def sized(name: str, window: int | None) -> Target:
    plain = target(name=name)
    return Target(
        name=name,
        model="m",
        card=None if window is None else card(name, window),
        keys=plain.keys,
        limits=plain.limits,
    )


FIRST, SECOND = target(key("1"), key("2"), name="a/first"), target(name="a/second")


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_leads_where_its_action_says(kind: Kind) -> None:
    way = course(FIRST, SECOND)

    match ACTIONS[kind]:
        case Action.GIVE_UP:
            with pytest.raises(ProviderUnavailable):
                way.after(failure(kind), key_id="a/1", left_s=LONG_S)
        case Action.RETRY_HERE:
            assert way.after(failure(kind), key_id="a/1", left_s=LONG_S) == Next(FIRST, 0.1)
            assert way.after(failure(kind), key_id="a/1", left_s=LONG_S) == Next(SECOND)
        case Action.NEXT_KEY:
            assert way.after(failure(kind), key_id="a/1", left_s=LONG_S) == Next(FIRST)
            assert way.after(failure(kind), key_id="a/2", left_s=LONG_S) == Next(SECOND)
        case Action.NEXT_TARGET | Action.LARGER_CONTEXT:
            assert way.after(failure(kind), key_id="a/1", left_s=LONG_S) == Next(SECOND)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.RATE_LIMITED])
def test_last_target_is_tried_again_only_for_what_may_pass(kind: Kind) -> None:
    way = course(SECOND)

    if kind in TRANSIENT:
        assert [way.after(failure(kind), left_s=LONG_S).pause_s for _ in range(2)] == [0.1, 0.2]
    with pytest.raises(ProviderUnavailable):
        way.after(failure(kind), left_s=LONG_S)


@pytest.mark.parametrize(
    ("wait_s", "left_s", "pause_s"),
    [(None, LONG_S, 0.1), (0.0, LONG_S, 0.1), (2.0, LONG_S, 2.0), (2.1, LONG_S, None), (1.0, 0.9, None)],
)
def test_wait_that_a_provider_asks_for_is_kept_to_or_passed_on(
    wait_s: float | None, left_s: float, pause_s: float | None
) -> None:
    way = course(SECOND)

    if pause_s is not None:
        assert way.after(failure(Kind.OVERLOADED, wait_s=wait_s), left_s=left_s) == Next(SECOND, pause_s)
        return
    with pytest.raises(ProviderUnavailable) as error:
        way.after(failure(Kind.OVERLOADED, wait_s=wait_s), left_s=left_s)
    assert error.value.retry_after_s == wait_s


def test_answer_that_has_begun_goes_on_elsewhere() -> None:
    assert course(FIRST, SECOND).after(failure(Kind.CUT), left_s=LONG_S, is_begun=True) == Next(SECOND)
    assert course(SECOND).after(failure(Kind.CUT), left_s=LONG_S, is_begun=True) == Next(SECOND, 0.1)


def test_target_with_a_larger_window_comes_next() -> None:
    way = course(sized("a/1", 1_000), sized("a/2", 1_000), sized("a/3", 999), sized("a/4", 1_001))

    assert way.after(Failure(Kind.CONTEXT_LENGTH, ContextLengthExceeded()), left_s=LONG_S).target.name == "a/4"


def test_target_whose_window_is_not_known_may_be_larger() -> None:
    way = course(sized("a/1", 1_000), sized("a/2", None))

    assert way.after(Failure(Kind.CONTEXT_LENGTH, ContextLengthExceeded()), left_s=LONG_S).target.name == "a/2"


def test_prompt_that_no_window_holds_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        course(sized("a/1", 1_000), sized("a/2", 500)).after(
            Failure(Kind.CONTEXT_LENGTH, ContextLengthExceeded()), left_s=LONG_S
        )


def test_repeats_cost_no_more_than_their_share_of_calls() -> None:
    budgets, repeats, calls = Budgets(), 0, 2_000
    for _ in range(calls):
        budgets.earn("a")
        way = course(SECOND, budgets=budgets)
        while True:
            try:
                way.after(failure(Kind.SERVER_ERROR), left_s=LONG_S)
            except MeshError:
                break
            repeats += 1

    assert repeats <= SHARE * calls + RESERVE
    assert repeats >= SHARE * calls - 1


def test_repeats_of_one_provider_are_not_paid_by_another() -> None:
    budgets = Budgets()

    while budgets.spend("a"):
        pass

    assert budgets.spend("b")


def test_pauses_are_drawn_from_a_range_that_doubles_up_to_a_bound() -> None:
    patience = Patience(base_s=0.2, pause_s_max=2.0)

    longest = [patience.pause_s(repeat, lambda: 1.0) for repeat in range(6)]

    assert longest == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert all(later >= earlier for earlier, later in pairwise(longest))
    assert patience.pause_s(3, lambda: 0.0) == 0.0


def test_impatient_caller_asks_nobody_twice() -> None:
    assert course(FIRST, SECOND, patience=IMPATIENT).after(failure(Kind.CUT), left_s=LONG_S) == Next(SECOND)


async def test_target_that_is_left_alone_is_passed_over() -> None:
    clock = ManualClock()
    known = standings(clock)
    known.failed(await admitted(known, SECOND), failure(Kind.KEY_REFUSED), wait_s=None)
    way = Course([SECOND, FIRST], Tactics(standings=known, chance=lambda: 0.5))

    assert await way.admit(10, LONG_S) == Next(FIRST)


@pytest.mark.parametrize(
    ("kind", "wait_s", "error", "retry_after_s"),
    [
        (Kind.RATE_LIMITED, 40.0, RateLimited, 40.0),
        (Kind.KEY_REFUSED, None, ProviderMisconfigured, REFUSED_KEY_S),
    ],
)
async def test_only_target_that_is_left_alone_is_an_error_with_its_wait(
    kind: Kind, wait_s: float | None, error: type[MeshError], retry_after_s: float
) -> None:
    known = standings(ManualClock())
    known.failed(await admitted(known, SECOND), failure(kind), wait_s=wait_s)
    way = Course([SECOND], Tactics(standings=known, chance=lambda: 0.5))

    with pytest.raises(error) as raised:
        await way.admit(10, LONG_S)

    assert raised.value.retry_after_s == retry_after_s


async def test_short_rest_of_the_only_key_is_waited_for() -> None:
    known = standings(ManualClock())
    known.failed(await admitted(known, SECOND), failure(Kind.RATE_LIMITED), wait_s=1.5)
    way = Course([SECOND], Tactics(standings=known, chance=lambda: 0.5))

    assert await way.admit(10, LONG_S) == Next(SECOND, 1.5)


def test_last_word_tells_when_to_come_back() -> None:
    way = course(FIRST, SECOND, patience=IMPATIENT)
    way.after(failure(Kind.OVERLOADED), left_s=LONG_S)

    with pytest.raises(ProviderUnavailable) as error:
        way.after(failure(Kind.OVERLOADED), left_s=LONG_S)

    assert error.value.retry_after_s == RETRY_AFTER_S


@pytest.mark.parametrize("is_first", [True, False])
def test_a_bad_key_hides_nothing_that_another_target_said_of_the_prompt(*, is_first: bool) -> None:
    refused = Failure(Kind.REFUSED, ProviderRejected("it does not take this 'seed'"))
    unusable = Failure(Kind.KEY_REFUSED, ProviderMisconfigured("the provider refused the operator's key"))
    before, last = (unusable, refused) if is_first else (refused, unusable)
    way = course(SECOND, target(name="a/third"))
    assert way.after(before, key_id="a/k", left_s=LONG_S).target.name == "a/third"

    with pytest.raises(ProviderRejected, match="seed"):
        way.after(last, key_id="a/k", left_s=LONG_S)


def test_targets_whose_keys_are_all_bad_are_the_operators_fault() -> None:
    unusable = Failure(Kind.KEY_REFUSED, ProviderMisconfigured("the provider refused the operator's key"))
    way = course(FIRST, SECOND)
    for key_id in ("a/1", "a/2"):  # each key of the first target, then the second target
        assert isinstance(way.after(unusable, key_id=key_id, left_s=LONG_S), Next)

    with pytest.raises(ProviderMisconfigured):
        way.after(unusable, key_id="a/k", left_s=LONG_S)
