"""What the product knows of itself and the chart has to agree with: settings of each command, and gRPC services."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from google.protobuf import descriptor_pb2

from dev.tools.protos import DESCRIPTORS, GENERATED
from edge.settings import EdgeSettings
from services.auth import settings as auth
from services.conversation import settings as conversation
from services.inference import settings as inference
from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.settings import DatabaseSettings, MeshSettings, variable_of
from services.retrieval import settings as retrieval

SETTINGS: Final[Mapping[tuple[str, str], type[MeshSettings]]] = MappingProxyType(
    {
        ("edge", "serve"): EdgeSettings,
        ("services.auth", "serve"): auth.Settings,
        ("services.auth", "migrate"): DatabaseSettings,
        ("services.conversation", "serve"): conversation.ApiSettings,
        ("services.conversation", "worker"): conversation.WorkerSettings,
        ("services.conversation", "migrate"): ShardSettings,
        ("services.retrieval", "serve"): retrieval.Settings,
        ("services.retrieval", "worker"): retrieval.Settings,
        ("services.retrieval", "migrate"): ShardSettings,
        ("services.inference", "serve"): inference.ServeSettings,
        ("services.inference", "migrate"): ShardSettings,
    }
)
"""What each command of each deployable is told, by `python -m <package> <command>`."""

DEPLOYABLES: Final[Mapping[str, type[MeshSettings]]] = MappingProxyType(
    {
        "edge": EdgeSettings,
        "auth": auth.Settings,
        "conversation": conversation.WorkerSettings,
        "retrieval": retrieval.Settings,
        "inference": inference.ServeSettings,
    }
)
"""The widest settings of each deployable: what any of its processes reads."""

_OF_THE_CHART: Final = frozenset(
    {
        "PARLEY_DATABASE_SHARDS",
        "PARLEY_DATABASE_REPLICAS",
        "PARLEY_QUEUE",
        "PARLEY_KAFKA_BOOTSTRAP",
        "PARLEY_KAFKA_PREFIX",
        "PARLEY_AUTH_WORKLOADS",
    }
    | {"PARLEY_INFERENCE_PROVIDERS_FILE"}
    | {"PARLEY_MESH_TLS_FOLDER", "PARLEY_MESH_TLS_BUNDLE", "PARLEY_MESH_TLS_PEERS"}
)
"""Settings that the chart derives from values of other names."""


def variables(kind: type[MeshSettings]) -> frozenset[str]:
    """Every environment variable that settings of the kind read."""
    return frozenset(variable_of(kind, name) for name in kind.model_fields)


def required_variables(kind: type[MeshSettings]) -> frozenset[str]:
    """Those without which a process does not start."""
    return frozenset(variable_of(kind, name) for name, field in kind.model_fields.items() if field.is_required())


def open_settings(kind: type[MeshSettings]) -> Mapping[str, Mapping[str, Any]]:
    """JSON schema of each variable that an operator may write into values: no secret, nothing that the chart derives.

    Any: a JSON schema holds anything.
    """
    properties = kind.model_json_schema()["properties"]
    found: dict[str, Mapping[str, Any]] = {}
    for name, field in kind.model_fields.items():
        variable = variable_of(kind, name)
        described = properties[field.validation_alias if isinstance(field.validation_alias, str) else name]
        if _is_secret(described) or variable in _OF_THE_CHART or variable.endswith(("_LISTEN", "_TARGET")):
            continue
        # Defaults may depend on the machine that writes the schema, and the product's own stand in its settings.
        found[variable] = {key: value for key, value in described.items() if key not in {"default", "title"}}
    return dict(sorted(found.items()))


def grpc_services() -> Mapping[str, list[str]]:
    """Full names of the gRPC services of each deployable."""
    files = descriptor_pb2.FileDescriptorSet.FromString((GENERATED / DESCRIPTORS).read_bytes())
    found: dict[str, list[str]] = {}
    for package, service in sorted(_services(files)):
        deployable = package.split(".")[1]
        if deployable in DEPLOYABLES:
            found.setdefault(deployable, []).append(f"{package}.{service}")
    return found


def _services(files: descriptor_pb2.FileDescriptorSet) -> Iterator[tuple[str, str]]:
    for file in files.file:
        if file.package.startswith("parley."):
            for service in file.service:
                yield file.package, service.name


def _is_secret(described: Mapping[str, Any]) -> bool:  # Any: see `open_settings`
    parts = [described, described.get("additionalProperties"), *described.get("anyOf", [])]
    return any(isinstance(part, Mapping) and part.get("writeOnly", False) for part in parts)
