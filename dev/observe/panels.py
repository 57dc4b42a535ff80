"""Grafana's dashboards as its JSON wants them: panels in rows of two, each with unit, description and queries."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

SCHEMA_VERSION: Final = 39
"""Of Grafana 11; newer ones migrate it when they load it."""
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
WIDTH: Final = 12
HEIGHT: Final = 8

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and how its lines are named."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One drawing.

    Attributes:
        unit: Grafana's id of a unit, such as `s`, `ops`, `percentunit`, `short`, `bytes`.
        queries: what it draws.
        is_quiet: it stays empty as long as nothing goes wrong, or where an option is not used.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    is_quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard; its file is `<name>.json`."""

    name: str
    title: str
    description: str
    panels: tuple[Panel, ...]


def one(expr: str, legend: str) -> tuple[Query, ...]:
    """A single query."""
    return (Query(expr, legend),)


def rates(metric: str, by: str, *, selector: str = "") -> tuple[Query, ...]:
    """Events per second by one label."""
    return one(f"sum by ({by}) (rate({metric}{selector}[$__rate_interval]))", "{{" + by + "}}")


def quantiles(histogram: str, *, selector: str = "", by: str = "") -> tuple[Query, ...]:
    """The median, and what one in twenty and one in a hundred exceed; by a label, the second one only."""
    groups = ", ".join(filter(None, [by, "le"]))
    rate = f"sum by ({groups}) (rate({histogram}_bucket{selector}[$__rate_interval]))"
    if by:
        return one(f"histogram_quantile(0.95, {rate})", "{{" + by + "}} p95")
    return tuple(Query(f"histogram_quantile({share / 100:g}, {rate})", f"p{share}") for share in (50, 95, 99))


def text_of(board: Board) -> str:
    """The dashboard's file."""
    return json.dumps(_dashboard(board), indent=1, ensure_ascii=False) + "\n"


def _dashboard(board: Board) -> Json:
    return {
        "uid": f"parley-{board.name}",
        "title": f"Parley / {board.title}",
        "description": board.description,
        "tags": ["parley"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source()]},
        "links": [{"type": "dashboards", "title": "Parley", "tags": ["parley"], "asDropdown": True, "keepTime": True}],
        "panels": [_panel(number, panel) for number, panel in enumerate(board.panels)],
    }


def _source() -> Json:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _panel(number: int, panel: Panel) -> Json:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "table", "calcs": ["lastNotNull", "max"]}, "tooltip": {"mode": "multi"}},
        "targets": _targets(panel.queries),
    }


def _targets(queries: Sequence[Query]) -> list[Json]:
    return [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend}
        for index, query in enumerate(queries)
    ]
