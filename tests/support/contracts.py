"""Every method of every contract, and requests for them that are right in all but what a test puts in."""

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import count
from typing import Any, Final

from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.mesh import policy

Path = tuple[str, ...]
"""Field names from a request down to one of its fields."""

_numbers: Final = count()

# What a field needs to hold, by its name, for a request to be right. Ids are filled in by the caller.
_FILLERS: Final[Mapping[str, Any]] = {
    "action": {"new": {"text": "Who?"}},
    "new": {"text": "Who?"},
    "query": "Who?",
    "text": "Who?",
    "texts": ["Who?"],
    "rating": "RATING_GOOD",
    "display_name": "Changed by a test",
    "title": "Changed by a test",
    "description": "Changed by a test",
    "email": "somebody@example.com",
    "password": "correct horse battery",
    "new_password": "correct horse battery",
    "current_password": "correct horse battery",
    "content": {"template": "Be kind."},
    "alias": "production",
    "revision": 1,
    "model": "extractive",
    "follow": False,
    "items": [{"custom_id": "a", "request": {"prompt": {"messages": [{"role": "ROLE_USER", "text": "Who?"}]}}}],
}

_MESSAGES: Final[Mapping[str, Any]] = {
    "parley.inference.v1.Prompt": {"messages": [{"role": "ROLE_USER", "text": "Who?"}]},
}
"""What messages need to hold, by their type, wherever they stand."""


@cache
def contract_files() -> tuple[FileDescriptor, ...]:
    """All files under `proto/parley`, from the descriptor set that is generated beside the stubs."""
    names = descriptor_pb2.FileDescriptorSet.FromString(files("parley").joinpath("parley.binpb").read_bytes())
    ours = [file.name for file in names.file if file.name.startswith("parley/")]
    for name in ours:
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    return tuple(Default().FindFileByName(name) for name in ours)


@cache
def methods() -> tuple[MethodDescriptor, ...]:
    """All methods that need a credential."""
    return tuple(m for m in policy.methods_of(contract_files()) if not policy.policy_of(m).is_public)


def service_of(method: MethodDescriptor) -> str:
    """The deployable that serves `method`: the second word of its package."""
    return method.containing_service.full_name.split(".")[1]


def id_paths(descriptor: Descriptor, above: Path = (), *, depth_max: int = 3) -> Iterator[Path]:
    """The fields of a request that name a resource, nested ones too."""
    for field in descriptor.fields:
        path = (*above, field.name)
        if field.type == FieldDescriptor.TYPE_STRING and _names_resource(field):
            yield path
        elif _is_nested(field) and len(path) < depth_max:
            settable = _settable(field) if _is_resource(field) else None
            for found in id_paths(_message(field), path, depth_max=depth_max):
                if settable is None or found[-1] in settable:
                    yield found


def request_for(method: MethodDescriptor, ids: Mapping[str, str], path: Path = (), value: str = "") -> Message:
    """A request that is right, whose ids come from `ids` by field name, but for `value` at `path`."""
    tree = _fill(method.input_type, ids)
    if path:
        _plant(tree, method.input_type, path, value)
    request: Message = GetMessageClass(method.input_type)()
    json_format.ParseDict(tree, request)
    return request


def _message(field: FieldDescriptor) -> Descriptor:
    assert field.message_type is not None
    return field.message_type


def _names_resource(field: FieldDescriptor) -> bool:
    return field.name == "prompt" or (field.name.endswith("_id") and field.name not in {"request_id", "part_id"})


def _is_nested(field: FieldDescriptor) -> bool:
    if field.type != FieldDescriptor.TYPE_MESSAGE or field.is_repeated:
        return False
    return not _message(field).full_name.startswith("google.")


def _settable(field: FieldDescriptor) -> frozenset[str]:
    """The fields of a resource that a caller sets: those that its Create request has, too."""
    resource = _message(field)
    create = f"{resource.full_name.rpartition('.')[0]}.Create{resource.name}Request"
    try:
        return frozenset(Default().FindMessageTypeByName(create).fields_by_name)
    except KeyError:
        return frozenset()


def _is_resource(field: FieldDescriptor) -> bool:
    """Whether the field is the body of an update: its own ids are output only."""
    return "id" in _message(field).fields_by_name


def _fill(descriptor: Descriptor, ids: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for field in descriptor.fields:
        is_text = field.type == FieldDescriptor.TYPE_STRING
        if field.name == "request_id":
            tree[field.name] = f"test-{next(_numbers)}"
        elif field.name in ids and is_text and not field.has_presence:
            tree[field.name] = ids[field.name]
        elif field.type == FieldDescriptor.TYPE_MESSAGE and _is_resource(field) and not field.is_repeated:
            names = {"display_name", "title", "description"} & set(_message(field).fields_by_name)
            tree[field.name] = {name: _FILLERS[name] for name in names}
        elif field.type == FieldDescriptor.TYPE_MESSAGE and _message(field).full_name in _MESSAGES:
            tree[field.name] = _MESSAGES[_message(field).full_name]
        elif field.name in _FILLERS and not _has_other(tree, field):
            tree[field.name] = _FILLERS[field.name]
    return tree


def _has_other(tree: Mapping[str, Any], field: FieldDescriptor) -> bool:
    """Whether one of several fields, of which one may be set, is set already."""
    return field.containing_oneof is not None and any(each.name in tree for each in field.containing_oneof.fields)


def _plant(tree: dict[str, Any], descriptor: Descriptor, path: Path, value: str) -> None:
    for name in path[:-1]:
        field = descriptor.fields_by_name[name]
        if field.containing_oneof is not None:
            for sibling in field.containing_oneof.fields:
                if sibling.name != name:
                    tree.pop(sibling.name, None)
        tree[name] = dict(tree.get(name) or {})
        tree, descriptor = tree[name], _message(field)
        for key, filler in _FILLERS.items():
            if key in descriptor.fields_by_name and not _has_other(tree, descriptor.fields_by_name[key]):
                tree.setdefault(key, filler)
    tree[path[-1]] = value
