"""Schemas for kubeconform: of three minors of Kubernetes, and of the custom resources that the chart makes."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from zipfile import ZipFile

import yaml

from tests.deploy.renders import ROOT

TOOLS: Final = ROOT / ".build" / "deploy"
MINORS: Final = ("1.31", "1.34", "1.37")
"""The lowest that the chart takes, one in between, and the newest."""
_CUSTOM: Final = (
    ("prometheus-operator", "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"),
    ("prometheus-operator", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
    ("gateway-api", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    ("gateway-api", "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml"),
    ("keda", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    ("cert-manager", "deploy/crds/cert-manager.io_certificates.yaml"),
    ("cert-manager", "deploy/crds/cert-manager.io_issuers.yaml"),
    ("cert-manager", "deploy/crds/cert-manager.io_clusterissuers.yaml"),
    ("cloudnative-pg", "config/crd/bases/postgresql.cnpg.io_clusters.yaml"),
    ("cloudnative-pg", "config/crd/bases/postgresql.cnpg.io_scheduledbackups.yaml"),
)
"""Custom resources that the chart makes, and those of docs/examples: module, and file of its source."""
_KINDS: Final = frozenset(
    {("", "v1", kind) for kind in ("ConfigMap", "Pod", "Service", "ServiceAccount")}
    | {("apps", "v1", "Deployment"), ("batch", "v1", "Job"), ("autoscaling", "v2", "HorizontalPodAutoscaler")}
    | {("networking.k8s.io", "v1", "Ingress"), ("networking.k8s.io", "v1", "NetworkPolicy")}
    | {("policy", "v1", "PodDisruptionBudget")}
)
"""Of Kubernetes itself, by group, version and kind."""
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_REF: Final = "#/$defs/"

Json: TypeAlias = Any  # a JSON schema holds anything


@dataclass(frozen=True, slots=True)
class Schemas:
    """Folder of schemas as kubeconform reads them."""

    folder: Path

    def command(self, minor: str, manifests: Path) -> list[str]:
        """The command line that judges a file by one minor."""
        return [
            str(TOOLS / "bin" / "kubeconform"),
            "-strict",
            *("-output", "json", "-summary"),
            *("-schema-location", str(self.folder / minor / "{{.ResourceKind}}_{{.ResourceAPIVersion}}.json")),
            *("-schema-location", str(self.folder / "custom" / "{{.ResourceKind}}_{{.ResourceAPIVersion}}.json")),
            str(manifests),
        ]


def made_schemas(folder: Path) -> Schemas:
    """Write all schemas into the folder."""
    for minor in MINORS:
        definitions = _definitions(minor)
        for kind, schema in _kinds(definitions):
            _write(folder / minor / kind, schema)
    for definition in custom_resources():
        for kind, schema in _versions(definition):
            _write(folder / "custom" / kind, schema)
    return Schemas(folder)


def custom_resources() -> list[Json]:
    """Definitions of the custom resources, as a cluster takes them."""
    sources = json.loads((TOOLS / "modules.json").read_text(encoding="utf-8"))
    files = [Path(sources[module]) / path for module, path in _CUSTOM]
    return [yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) for path in files]


def _definitions(minor: str) -> Mapping[str, Json]:
    """All types of a minor, strict: what they do not name, they do not take."""
    with ZipFile(next(TOOLS.glob("kubernetes_validate-*.whl"))) as wheel:
        name = f"kubernetes_validate/kubernetes-json-schema/v{minor}.0-local-strict/_definitions.json"
        found: Mapping[str, Json] = json.loads(wheel.read(name))["$defs"]
    return found


def _kinds(definitions: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """Schemas of the kinds that the chart makes, by the names of their files."""
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            if (kind["group"], kind["version"], kind["kind"]) in _KINDS:
                used = {each: definitions[each] for each in sorted(_used(definitions, name))}
                schema = {"$schema": _DIALECT, "$ref": f"{_REF}{name}", "$defs": used}
                yield f"{kind['kind'].lower()}_{kind['version']}.json", schema


def _used(definitions: Mapping[str, Json], name: str) -> set[str]:
    """The type, and all that it is made of."""
    found, waiting = set[str](), [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += re.findall(r"\"#/\$defs/([^\"]+)\"", json.dumps(definitions[each]))
    return found


def _versions(definition: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    kind = definition["spec"]["names"]["kind"].lower()
    for version in definition["spec"]["versions"]:
        schema = _strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}  # which every kind has in common
        yield f"{kind}_{version['name']}.json", schema


def _strict(schema: Json) -> Json:
    """The schema, with unknown names refused wherever names are listed."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) for name, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    is_open = "additionalProperties" in made or made.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(made.get("properties"), dict) and "type" in made and not is_open:
        made["additionalProperties"] = False
    return made


def _write(path: Path, schema: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(schema), encoding="utf-8")
