"""`python -m tests.support.settings_page`: writes docs/settings.md from the settings of every process."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from edge.settings import EdgeSettings
from services.auth import settings as auth
from services.conversation import settings as conversation
from services.inference import settings as inference
from services.mesh import settings as mesh
from services.mesh.postgres.shards.settings import ShardSettings
from services.retrieval import settings as retrieval
from tests.deploy.known import SETTINGS

PAGE: Final = Path(__file__).parents[2] / "docs" / "settings.md"
REMEDY: Final = "run `make settings`, and commit what it changes"

_HEAD: Final = """\
# Settings

<!-- Written by `make settings` from the settings classes of every process. -->

A process is told what it has to know by its environment, and by nothing else. Each variable may be given as
`<NAME>_FILE` too: the path of a file that holds the value, as secrets are mounted. What is missing or malformed is told
at start, all of it at once, and the process does not start. `python -m services.<service> config` and
`python -m edge config` show what a process would run with, and where each value comes from; so does `/debug/config` of
a running one. Secrets are masked in both. On [Kubernetes](kubernetes.md) they stand in the chart's values; the local
stack takes them from the environment of `make run`.
"""
_GROUPS: Final = (
    ("Every process", (mesh.MeshSettings,)),
    ("gRPC", (mesh.ServerSettings,)),
    ("PostgreSQL", (mesh.DatabaseSettings, ShardSettings)),
    ("Valkey", (mesh.ValkeySettings,)),
    ("Calls to auth", (mesh.AuthTarget,)),
    ("Calls in the name of the process", (mesh.WorkloadSettings,)),
    ("Calls to conversation", (mesh.ConversationTarget,)),
    ("Calls to retrieval", (mesh.RetrievalTarget,)),
    ("Calls to inference", (mesh.InferenceTarget,)),
    ("Edge", (EdgeSettings,)),
    ("Auth", (auth.Settings,)),
    ("Queue of turns", (conversation.QueueSettings,)),
    ("Conversation", (conversation.ApiSettings,)),
    ("Conversation worker", (conversation.WorkerSettings,)),
    ("Retrieval", (retrieval.Settings,)),
    ("Inference", (inference.Settings, inference.EmbeddingSettings)),
)
_OF_THE_MACHINE: Final = MappingProxyType({"PARLEY_AUTH_PASSWORD_THREADS": "as many as cores"})
"""Defaults that differ between the machines that write the page."""
_SIGNS: Final = MappingProxyType({"ge": "at least", "gt": "above", "le": "at most", "lt": "below"})


def page() -> str:
    """The text of the page."""
    return _HEAD + "".join(_section(title, kinds) for title, kinds in _GROUPS)


def _section(title: str, kinds: Iterable[type[mesh.MeshSettings]]) -> str:
    rows = sorted(row for kind in kinds for row in _rows(kind))
    readers = sorted(
        {_reader(*command) for command, read in SETTINGS.items() for kind in kinds if issubclass(read, kind)}
    )
    return f"""
## {title}

Read by {", ".join(readers)}.

| setting | default | what it is |
|---|---|---|
{"".join(rows)}"""


def _reader(package: str, command: str) -> str:
    service = package.removeprefix("services.")
    return service if command == "serve" else f"{service} {command}"


def _rows(kind: type[mesh.MeshSettings]) -> Iterator[str]:
    for name in kind.__annotations__:
        field = kind.model_fields.get(name)
        if field is None:  # a class variable, or one that is a model's own
            continue
        variable = mesh.variable_of(kind, name)
        told = (field.description or "").replace("|", "\\|").rstrip(".")
        yield f"| `{variable}` | {_default(variable, field)} | {'. '.join([told, *_bounds(field)])} |\n"


def _default(variable: str, field: FieldInfo) -> str:
    if variable in _OF_THE_MACHINE:
        return _OF_THE_MACHINE[variable]
    if field.is_required():
        return "**must be given**"
    value: Any = field.get_default(call_default_factory=True, validated_data={})  # Any: a setting of any type
    value = value.get_secret_value() if isinstance(value, SecretStr) else value
    if value is None or value in ("", {}, []):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _bounds(field: FieldInfo) -> Iterator[str]:
    if get_origin(field.annotation) is Literal:
        yield "One of " + ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    bounds = [
        f"{word} {getattr(part, sign):,}"
        for part in field.metadata
        for sign, word in _SIGNS.items()
        if getattr(part, sign, None) is not None
    ]
    if bounds:
        yield " and ".join(bounds).capitalize()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
