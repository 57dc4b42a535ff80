"""Grafana's dashboards as its JSON wants them: panels in rows of two, each with unit, description and queries."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dev.observe.promql import narrowed

SCHEMA_VERSION: Final = 39
"""Of Grafana 11; newer ones migrate it when they load it."""
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_OF_INSTALLATION: Final = 'namespace=~"$namespace"'
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
        is_signed: it may fall below zero.
        is_quiet: it stays empty as long as nothing goes wrong, or where an option is not used.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    is_signed: bool = False
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
        "templating": {"list": [_source(), _installation()]},
        "links": [{"type": "dashboards", "title": "Parley", "tags": ["parley"], "asDropdown": True, "keepTime": True}],
        "panels": [_panel(number, panel) for number, panel in enumerate(board.panels)],
    }


def _source() -> Json:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _installation() -> Json:
    """Which one, where a Prometheus sees several; where it sees one that has no namespace, all of them are that one."""
    query = "label_values(parley_mesh_check_passed_ratio, namespace)"
    return {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "namespace"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel) -> Json:
    drawn = {"unit": panel.unit} if panel.is_signed else {"unit": panel.unit, "min": 0}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": drawn, "overrides": []},
        "options": {"legend": {"displayMode": "table", "calcs": ["lastNotNull", "max"]}, "tooltip": {"mode": "multi"}},
        "targets": _targets(panel.queries),
    }


def _targets(queries: Sequence[Query]) -> list[Json]:
    return [
        {
            "refId": chr(ord("A") + index),
            "datasource": SOURCE,
            "expr": narrowed(query.expr, _OF_INSTALLATION),
            "legendFormat": query.legend,
        }
        for index, query in enumerate(queries)
    ]
