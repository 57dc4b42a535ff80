"""Reads helm/parley/slo.toml and makes Prometheus rules of it: error ratios, burn-rate alerts, and the other alerts."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dev.home import ROOT

SOURCE: Final = ROOT / "helm" / "parley" / "slo.toml"
RUNBOOKS: Final = "docs/runbooks"
PERIOD: Final = "28d"
RATIO: Final = "parley:slo_error_ratio:rate"
OBJECTIVE: Final = "parley:slo_objective:ratio"

_SHORT: Final = ("5m", "30m", "1h", "2h", "6h")
_LONG: Final = ("1d", "3d", PERIOD)
_LONG_EVERY: Final = "5m"
"""Rates over days change slowly, and cost Prometheus most."""


@dataclass(frozen=True, slots=True)
class Burn:
    """An alert on a budget that is spent too fast: both windows over the factor, so that it ends soon after its cause.

    Source: The Site Reliability Workbook, chapter 5, table 5-8.
    """

    name: str
    severity: str
    pairs: tuple[tuple[float, str, str], ...]


BURNS: Final = (
    Burn("Fast", "page", ((14.4, "1h", "5m"), (6.0, "6h", "30m"))),
    Burn("Slow", "ticket", ((3.0, "1d", "2h"), (1.0, "3d", "6h"))),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One promise; see the head of slo.toml."""

    name: str
    title: str
    objective: float
    dashboard: str
    description: str
    bad: tuple[str, ...] = ()
    total: tuple[str, ...] = ()
    latency: str = ""
    within_s: float = 0.0
    runbook: str = ""

    @property
    def budget(self) -> float:
        """Share of events that may be bad."""
        return round(1 - self.objective / 100, 6)

    @property
    def page(self) -> str:
        """Its runbook."""
        return f"{RUNBOOKS}/{self.runbook or self.name}.md"

    def alert(self, burn: Burn) -> str:
        """Name of its alert."""
        words = "".join(word.capitalize() for word in self.name.split("-"))
        return f"Parley{words}BudgetBurn{burn.name}"

    def ratio(self, window: str) -> str:
        """Share of bad events in the window."""
        if self.latency:
            total = _rate(_suffixed(self.latency, "_count"), window)
            good = _rate(_suffixed(self.latency, "_bucket", f'le="{self.within_s}"'), window)
            return f"1 - {good} / {total}"
        bad = " + ".join(f"({_rate(each, window)} or vector(0))" for each in self.bad)
        total = " + ".join(f"({_rate(each, window)} or vector(0))" for each in self.total)
        return f"({bad}) / ({total})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert that no objective covers; `wait` is for how long its condition has to hold."""

    name: str
    severity: str
    wait: str
    dashboard: str
    expr: str
    summary: str

    @property
    def page(self) -> str:
        """Its runbook."""
        words = re.findall(r"[A-Z][a-z]+", self.name.removeprefix("Parley"))
        return f"{RUNBOOKS}/{'-'.join(words).lower()}.md"


Rule = dict[str, object]


def read(source: Path = SOURCE) -> tuple[list[Objective], list[Alert]]:
    """What the file holds."""
    content = tomllib.loads(source.read_text(encoding="utf-8"))
    return [_objective(each) for each in content["slo"]], [_alert(each) for each in content["alert"]]


def ratio_groups(objectives: Sequence[Objective]) -> list[tuple[str, str, list[Rule]]]:
    """Groups of rules as name, interval and rules: what is recorded of each objective."""
    short = [_record(each, window) for each in objectives for window in _SHORT]
    long = [_record(each, window) for each in objectives for window in _LONG]
    goals: list[Rule] = [
        {"record": OBJECTIVE, "expr": f"vector({each.objective / 100:.6g})", "labels": {"slo": each.name}}
        for each in objectives
    ]
    return [("parley-slo-ratios", "", [*goals, *short]), ("parley-slo-ratios-long", _LONG_EVERY, long)]


def burn_groups(objectives: Sequence[Objective]) -> list[tuple[str, str, list[Rule]]]:
    """As `ratio_groups`: the alerts on what is recorded."""
    return [("parley-slo-alerts", "", [_burning(each, burn) for each in objectives for burn in BURNS])]


def alert_groups(alerts: Sequence[Alert]) -> list[tuple[str, str, list[Rule]]]:
    """As `ratio_groups`: the other alerts."""
    rules: list[Rule] = [
        {
            "alert": each.name,
            "expr": each.expr,
            **({} if each.wait == "0m" else {"for": each.wait}),
            "labels": {"severity": each.severity},
            "annotations": _annotations(each.summary, each.page, each.dashboard),
        }
        for each in alerts
    ]
    return [("parley-alerts", "", rules)]


def _burning(objective: Objective, burn: Burn) -> Rule:
    selector = f'{{slo="{objective.name}"}}'
    parts = []
    for factor, long, short in burn.pairs:
        bound = f"{factor * objective.budget:.6g}"
        parts.append(f"({RATIO}{long}{selector} > {bound} and {RATIO}{short}{selector} > {bound})")
    summary = f"{objective.title}: the error budget of {PERIOD} is being spent too fast"
    return {
        "alert": objective.alert(burn),
        "expr": " or ".join(parts),
        "labels": {"severity": burn.severity, "slo": objective.name},
        "annotations": _annotations(summary, objective.page, objective.dashboard),
    }


def _annotations(summary: str, page: str, dashboard: str) -> dict[str, str]:
    return {"summary": summary, "runbook": page, "dashboard": f"/d/parley-{dashboard}"}


def _record(objective: Objective, window: str) -> Rule:
    return {"record": f"{RATIO}{window}", "expr": objective.ratio(window), "labels": {"slo": objective.name}}


def _rate(selector: str, window: str) -> str:
    return f"sum(rate({selector}[{window}]))"


def _suffixed(selector: str, suffix: str, matcher: str = "") -> str:
    name, brace, rest = selector.partition("{")
    matchers = ",".join(filter(None, [rest.removesuffix("}") if brace else "", matcher]))
    return f"{name}{suffix}{{{matchers}}}" if matchers else f"{name}{suffix}"


def _objective(values: dict[str, Any]) -> Objective:  # Any: TOML
    known = {**values, "bad": tuple(values.get("bad", ())), "total": tuple(values.get("total", ()))}
    return Objective(**known)


def _alert(values: dict[str, Any]) -> Alert:  # Any: TOML
    return Alert(**{("wait" if name == "for" else name): value for name, value in values.items()})


def yaml_of(groups: Sequence[tuple[str, str, Sequence[Rule]]]) -> str:
    """The groups as Prometheus reads them. Written by hand: of YAML it needs three forms, and no library."""
    return "\n".join(_lines(groups)) + "\n"


def _lines(groups: Sequence[tuple[str, str, Sequence[Rule]]]) -> Iterator[str]:
    yield "# Written by `make monitoring` from slo.toml; docs/observability.md explains it."
    yield "groups:"
    for name, every, rules in groups:
        yield f"  - name: {name}"
        if every:
            yield f"    interval: {every}"
        yield "    rules:"
        for rule in rules:
            yield from _rule(rule)


def _rule(rule: Rule) -> Iterator[str]:
    lead = "      - "
    for key, value in rule.items():
        if key == "labels" and isinstance(value, dict):
            yield f"{lead}labels: {{" + ", ".join(f"{name}: {_quoted(str(text))}" for name, text in value.items()) + "}"
        elif isinstance(value, dict):
            yield f"{lead}{key}:"
            yield from (f"          {name}: {_quoted(str(text))}" for name, text in value.items())
        else:
            yield f"{lead}{key}: {_quoted(str(value)) if key == 'expr' else value}"
        lead = "        "


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
