"""The committed OpenAPI document is what the contracts say, and describes every route."""

from pathlib import Path
from typing import Any

import orjson

from edge.transcoding.contracts import bindings
from edge.transcoding.openapi import document
from edge.transcoding.routes import Template
from tests.support.edge import running_edge

SNAPSHOT = Path(__file__).parents[3] / "edge" / "openapi.json"
UNDOCUMENTED = {"/", "/docs", "/favicon.ico", "/healthz", "/openapi.json", "/readyz"}


def parsed() -> dict[str, Any]:  # Any: JSON
    whole: dict[str, Any] = orjson.loads(document())
    return whole


def test_snapshot_is_current() -> None:
    assert SNAPSHOT.read_bytes() == document(), (
        "edge/openapi.json is not what the contracts say; write it anew with "
        "`python -m edge openapi > edge/openapi.json` and look at the difference"
    )


def test_every_binding_is_described_with_the_comment_of_its_method() -> None:
    paths = parsed()["paths"]

    for binding in bindings():
        operation = paths[Template.parse(binding.template).path][binding.verb.lower()]
        assert binding.contract.method.name in operation["description"]
        assert "default" in operation["responses"]


async def test_every_route_of_the_api_is_described() -> None:
    paths = parsed()["paths"]

    async with running_edge() as under_test:
        for target in under_test.edge.routes:
            path = target.template.path
            if path not in UNDOCUMENTED and not path.startswith("/web/"):
                assert {verb.lower() for verb in target.endpoints} == set(paths[path])


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for verbs in parsed()["paths"].values() for operation in verbs.values()]

    assert len(ids) == len(set(ids))


def test_every_reference_points_at_a_schema() -> None:
    whole = parsed()

    references = set(_references(whole))

    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= set(
        whole["components"]["schemas"]
    )


def test_public_methods_need_no_credential_and_others_do() -> None:
    whole = parsed()
    paths = whole["paths"]

    assert paths["/api/v1/auth/login"]["post"]["security"] == []
    assert "security" not in paths["/api/v1/conversations"]["get"]
    assert whole["security"]


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [str(value["$ref"])] if "$ref" in value else []
        return own + [found for item in value.values() for found in _references(item)]
    if isinstance(value, list):
        return [found for item in value for found in _references(item)]
    return []
