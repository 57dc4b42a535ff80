"""The parts of the chart that follow from the product: settings that values may hold, and the gRPC services."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from services.mesh.settings import MeshSettings
from tests.deploy.known import DEPLOYABLES, grpc_services, open_settings

CHART: Final = Path(__file__).parents[2] / "helm" / "parley"
SCHEMA: Final = CHART / "values.schema.json"
GRPC_SERVICES: Final = CHART / "files" / "grpc-services.json"

REMEDY: Final = "run `make chart`, and commit what it changes"
_WORKERS: Final = ("conversation-worker", "retrieval-worker")
"""Components whose load is a queue."""


def schema_text() -> str:
    """The schema of the committed file, with its derived definitions as they are to be."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    written = {name: value for name, value in schema["definitions"].items() if not _is_derived(name)}
    schema["definitions"] = written | _derived()
    return _text(schema)


def grpc_services_text() -> str:
    """What files/grpc-services.json is to hold."""
    return _text(grpc_services())


def _is_derived(name: str) -> bool:
    return name.startswith(("settings-", "component-"))


def _derived() -> dict[str, object]:
    found: dict[str, object] = {"settings-common": _object(open_settings(MeshSettings))}
    for deployable, kind in DEPLOYABLES.items():
        found[f"settings-{deployable}"] = _object(open_settings(kind))
    for component in (*DEPLOYABLES, *_WORKERS):
        found[f"component-{component}"] = _component(component)
    return found


def _component(component: str) -> dict[str, object]:
    deployable = component.removesuffix("-worker")
    scaling = "queueScaling" if component in _WORKERS else "autoscaling"
    replicas = {"type": "integer", "minimum": 0, "description": "Number of pods, where nothing scales them."}
    properties = {
        "replicas": replicas,
        "resources": _ref("resources", "What a pod asks for and may take."),
        "settings": _ref(f"settings-{deployable}", f"Settings of this component beside those of {deployable}."),
        scaling: _ref(scaling, "What decides on the number of pods."),
        "nodeSelector": _ref("labels", "Labels of nodes that its pods may run on, in place of pod.nodeSelector."),
        "tolerations": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Taints that its pods bear, in place of pod.tolerations.",
        },
        "affinity": {"type": "object", "description": "Affinity of its pods, as Kubernetes has it."},
        "priorityClassName": {"type": "string", "description": "Priority class, in place of pod.priorityClassName."},
    }
    return _object(properties) | {"required": ["replicas", "resources", scaling]}


def _ref(definition: str, description: str) -> dict[str, object]:
    return {"$ref": f"#/definitions/{definition}", "description": description}


def _object(properties: Mapping[str, Any]) -> dict[str, object]:  # Any: a JSON schema holds anything
    return {"type": "object", "additionalProperties": False, "properties": dict(properties)}


def _text(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
