"""Holds the values and their schema to the product, and to telling what each value is."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from services.mesh.settings import DatabaseSettings, MeshSettings
from tests.deploy.known import DEPLOYABLES, SETTINGS, open_settings
from tests.deploy.renders import ROOT, SETS, containers, golden, pods
from tests.deploy.schema import CHART, REMEDY, SCHEMA

COMPONENTS: Final = CHART / "templates" / "_components.tpl"
PAGE: Final = ROOT / "docs" / "kubernetes.md"


def objects(schema: Any, path: str = "$") -> Iterator[tuple[str, Any]]:  # Any: a JSON schema holds anything
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema["properties"], dict):
            yield path, schema
        for name, value in schema.items():
            yield from objects(value, f"{path}.{name}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from objects(value, f"{path}[{index}]")


SCHEMA_OBJECTS: Final = list(objects(json.loads(SCHEMA.read_text(encoding="utf-8"))))


def test_every_setting_that_values_may_hold_is_one_of_the_product() -> None:
    offered = {
        name: each["properties"].keys()
        for name, each in json.loads(SCHEMA.read_text(encoding="utf-8"))["definitions"].items()
        if name.startswith("settings-")
    }
    assert offered.keys() == {f"settings-{name}" for name in ("common", *DEPLOYABLES)}
    kinds: dict[str, type[MeshSettings]] = {"common": MeshSettings, **DEPLOYABLES}
    for name, kind in kinds.items():
        assert offered[f"settings-{name}"] <= open_settings(kind).keys(), REMEDY


def test_connections_beside_the_pool_are_those_that_the_product_opens() -> None:
    table = re.search(r'define "parley.components" -}}\n(.*?)\n{{- end', COMPONENTS.read_text("utf-8"), re.DOTALL)
    assert table is not None
    for row in yaml.safe_load(table.group(1)).values():
        kind = SETTINGS[row["package"], row["command"]]
        beside = kind.database_lanes if issubclass(kind, DatabaseSettings) else 0
        assert row.get("connections", 0) == beside, row["package"]


def test_no_object_takes_names_that_it_does_not_know() -> None:
    assert [path for path, each in SCHEMA_OBJECTS if each.get("additionalProperties") is not False] == []


def test_every_value_is_described() -> None:
    assert [
        f"{path}.{name}"
        for path, each in SCHEMA_OBJECTS
        for name, value in each["properties"].items()
        if not value.get("description")
    ] == []


def test_no_secret_can_be_written_into_values() -> None:
    offered = {name for kind in DEPLOYABLES.values() for name in open_settings(kind)}
    secret = ("_URL", "_KEY", "SECRET", "PASSWORD_HASH", "KAFKA_OPTIONS")
    assert {name for name in offered if name.endswith(secret)} == {
        "ANTHROPIC_BASE_URL",
        "OPENAI_BASE_URL",
        "PARLEY_EDGE_PUBLIC_URL",
    }


@pytest.mark.parametrize("values", SETS)
def test_every_secret_that_is_read_is_documented(values: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    references = {
        (variable["valueFrom"]["secretKeyRef"]["name"], variable["name"])
        for _, pod in pods(golden(values))
        for container in containers(pod)
        for variable in container["env"]
        if "valueFrom" in variable
    }
    assert {(name, variable) for name, variable in references if f"`{variable}`" not in page} == set()
