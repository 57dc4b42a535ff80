"""Every objective's alerts under promtool: they fire when its budget burns, and not when it is spent as planned."""

import pytest

from dev.observe.objectives import BURNS, Objective, read
from tests.deploy.alerts.support import RULES, Series, checked, example, firing, needs_promtool

OBJECTIVES, _ = read()
FAST, SLOW = BURNS
EVENTS = 1_000
"""Per minute."""

pytestmark = needs_promtool


def events(objective: Objective, bad_share: float) -> Series:
    """Two and a half hours in which this share of events is bad."""
    bad, good = EVENTS * bad_share, EVENTS * (1 - bad_share)
    if objective.latency:
        name, brace, rest = example(objective.latency).partition("{")
        labels = rest.removesuffix("}") if brace else ""
        inner = ",".join(filter(None, [labels, f'le="{objective.within_s}"']))
        return {f"{name}_count{{{labels}}}": _growing(EVENTS), f"{name}_bucket{{{inner}}}": _growing(good)}
    return {example(objective.bad[0]): _growing(bad), example(objective.total[0]): _growing(_rest(objective, bad))}


def _rest(objective: Objective, bad: float) -> float:
    """The other events: what is bad may be counted among all, or apart from them."""
    is_counted = objective.bad[0].partition("{")[0] == objective.total[0].partition("{")[0]
    return EVENTS - bad if is_counted else EVENTS


def _growing(per_minute: float) -> str:
    return f"0+{per_minute:.6f}x150"


def test_rules_are_sound() -> None:
    status, output = checked(RULES)
    assert status == 0, output


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
def test_page_when_the_budget_of_days_burns_within_hours(objective: Objective) -> None:
    series = events(objective, min(1.0, 20 * objective.budget))
    assert firing(objective.alert(FAST), series, at="2h")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
def test_ticket_and_no_page_when_it_burns_within_days(objective: Objective) -> None:
    series = events(objective, 4 * objective.budget)
    assert firing(objective.alert(SLOW), series, at="2h")
    assert not firing(objective.alert(FAST), series, at="2h")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
def test_nothing_when_it_is_spent_as_planned(objective: Objective) -> None:
    series = events(objective, objective.budget / 2)
    assert not firing(objective.alert(SLOW), series, at="2h")


def test_nothing_when_nothing_happens() -> None:
    assert not firing(OBJECTIVES[0].alert(SLOW), {"up{}": "1x150"}, at="2h")
