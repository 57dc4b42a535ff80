"""One file of objectives: what is made of it, and that a person who is woken finds what to do."""

import re
from pathlib import Path

import pytest

from dev.home import ROOT
from dev.observe.objectives import BURNS, Alert, Objective, burn_groups, read, yaml_of
from dev.observe.written import CHART, files

OBJECTIVES, ALERTS = read()
PAGES = sorted({each.page for each in OBJECTIVES} | {each.page for each in ALERTS})
NAMES = {board.stem for board in (CHART / "dashboards").glob("*.json")}


def objective(**values: object) -> Objective:
    given = {"name": "some-reads", "title": "T", "objective": 99.9, "dashboard": "edge", "description": "D", **values}
    return Objective(**given)  # type: ignore[arg-type] # each is of its field's type


def test_what_is_committed_is_what_the_sources_say() -> None:
    for path, text in files().items():
        assert path.read_text("utf-8") == text, f"{path.name}: run `make monitoring`"


def test_errors_are_a_share_of_all_events() -> None:
    ratio = objective(bad=("bad_total",), total=("all_total", 'closed_total{a="b"}')).ratio("5m")

    assert ratio == (
        "((sum(rate(bad_total[5m])) or vector(0))) / "
        '((sum(rate(all_total[5m])) or vector(0)) + (sum(rate(closed_total{a="b"}[5m])) or vector(0)))'
    )


def test_slow_events_are_those_above_a_bucket() -> None:
    ratio = objective(latency='x_seconds{route="r"}', within_s=0.3).ratio("1h")

    assert ratio == (
        '1 - sum(rate(x_seconds_bucket{route="r",le="0.3"}[1h])) / sum(rate(x_seconds_count{route="r"}[1h]))'
    )


def test_both_windows_have_to_burn() -> None:
    ((_, _, (fast, slow)),) = burn_groups([objective(bad=("b",), total=("t",))])

    assert fast["alert"] == "ParleySomeReadsBudgetBurnFast"
    assert fast["expr"] == (
        '(parley:slo_error_ratio:rate1h{slo="some-reads"} > 0.0144 and '
        'parley:slo_error_ratio:rate5m{slo="some-reads"} > 0.0144) or '
        '(parley:slo_error_ratio:rate6h{slo="some-reads"} > 0.006 and '
        'parley:slo_error_ratio:rate30m{slo="some-reads"} > 0.006)'
    )
    assert slow["labels"] == {"severity": "ticket", "slo": "some-reads"}


def test_quotes_of_an_expression_survive_yaml() -> None:
    text = yaml_of([("g", "5m", [{"alert": "A", "expr": "a{b='c'}", "labels": {"severity": "page"}}])])

    assert text.splitlines()[1:] == [
        "groups:",
        "  - name: g",
        "    interval: 5m",
        "    rules:",
        "      - alert: A",
        "        expr: 'a{b=''c''}'",
        "        labels: {severity: 'page'}",
    ]


@pytest.mark.parametrize("found", OBJECTIVES, ids=lambda found: found.name)
def test_objective_is_complete(found: Objective) -> None:
    assert 0 < found.budget < 0.1
    assert found.title
    assert found.description.endswith(".")
    assert bool(found.latency) != bool(found.bad and found.total)
    assert found.dashboard in NAMES
    # An alert that can only fire when more than everything is bad never does.
    assert max(factor for burn in BURNS for factor, *_ in burn.pairs) * found.budget < 1


@pytest.mark.parametrize("found", ALERTS, ids=lambda found: found.name)
def test_alert_is_complete(found: Alert) -> None:
    assert re.fullmatch(r"Parley([A-Z][a-z]+)+", found.name)
    assert found.severity in {"page", "ticket", "none"}
    assert found.dashboard in NAMES


def test_names_are_given_once() -> None:
    names = [each.name for each in ALERTS] + [each.alert(burn) for each in OBJECTIVES for burn in BURNS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("page", PAGES)
def test_whoever_is_woken_finds_what_to_do(page: str) -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert headings == ["What it means", "Look", "Mend", "Afterwards"]


@pytest.mark.parametrize("page", PAGES)
def test_runbook_names_its_alerts(page: str) -> None:
    names = {each.name for each in ALERTS if each.page == page}
    names |= {each.alert(burn) for each in OBJECTIVES if each.page == page for burn in BURNS}
    text = (ROOT / page).read_text("utf-8")
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_runbook_is_in_the_table_of_contents() -> None:
    overview = (ROOT / "docs" / "observability.md").read_text("utf-8")
    pages = [Path(page).name for page in PAGES]
    assert [page for page in pages if f"(runbooks/{page})" not in overview] == []
