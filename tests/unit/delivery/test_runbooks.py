"""Runbooks name settings, routes, log lines and targets that there are. What they tell to run is run elsewhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dev.tools.tidiness import ROOT
from services.mesh.settings import variable_of
from tests.deploy.known import SETTINGS
from tests.support.runbooks import Kind, Written, of

EVENT: Final = re.compile(r"[a-z]+(?:_[a-z]+)+")
VALUE: Final = re.compile(r"(?:components|monitoring)\.[\w.-]+")
_LABELS: Final = frozenset({"subject_id", "request_id", "trace_id"})
"""Fields of log lines, which are keyword arguments and no literals."""
_OF_POSTGRESQL: Final = frozenset({"max_connections", "pg_stat_activity"})


def sources() -> Iterator[Path]:
    for folder in ("services", "edge"):
        yield from (ROOT / folder).rglob("*.py")


CODE: Final = "\n".join(path.read_text(encoding="utf-8") for path in sources())
VARIABLES: Final = {variable_of(kind, name) for kind in SETTINGS.values() for name in kind.model_fields}
ROUTES: Final[dict[str, dict[str, Any]]] = json.loads((ROOT / "edge" / "openapi.json").read_text("utf-8"))["paths"]


def named(found: list[Written]) -> list[str]:
    return [f"{each.page}: {each.text}" for each in found]


@pytest.mark.parametrize("each", of(Kind.SETTING), ids=lambda each: f"{each.page}-{each.text}")
def test_every_setting_is_one_of_the_product(each: Written) -> None:
    pattern = re.escape(each.text).replace("…", "[A-Z]+")
    assert [name for name in VARIABLES if re.fullmatch(pattern, name)]


@pytest.mark.parametrize("each", of(Kind.REQUEST), ids=lambda each: f"{each.page}-{each.text}")
def test_every_request_has_a_route(each: Written) -> None:
    verb, _, path = each.text.partition(" ")
    routes = [route for route in ROUTES if re.fullmatch(re.sub(r"\{[^}]+\}", "ID", route).replace(":", "[:]"), path)]
    assert [route for route in routes if verb.lower() in ROUTES[route]]


def test_every_event_is_one_that_a_process_logs() -> None:
    words = [each for each in of(Kind.WORD) if EVENT.fullmatch(each.text)]
    known = _LABELS | _OF_POSTGRESQL
    assert named([each for each in words if each.text not in known and f'"{each.text}"' not in CODE]) == []


def test_every_value_is_one_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "helm" / "parley" / "values.yaml").read_text(encoding="utf-8"))
    for each in of(Kind.WORD):
        if VALUE.fullmatch(each.text):
            found = values
            for name in each.text.split("."):
                assert name in found, named([each])
                found = found[name]


def test_every_target_is_one_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for each in of(Kind.SHELL):
        if each.text.startswith("make "):
            assert set(each.text.split()[1:]) <= targets, named([each])


def test_every_metric_is_one_that_the_product_has() -> None:
    suffix = re.compile(r"_(?:bucket|count|sum|total)$")
    asked = {name for each in of(Kind.QUERY) for name in re.findall(r"\bparley_\w+", each.text)}
    assert {name for name in asked if f'"{name}"' not in CODE and f'"{suffix.sub("", name)}"' not in CODE} == set()
