"""Comments of the contracts by full name of what they stand at, from the source info of the compiled set."""

import functools
import re
from collections.abc import Iterator
from typing import Final

from google.protobuf import descriptor_pb2

from edge.transcoding.contracts import descriptor_set

_FILE_MESSAGE: Final = 4
_FILE_ENUM: Final = 5
_FILE_SERVICE: Final = 6
_MESSAGE_FIELD: Final = 2
_MESSAGE_NESTED: Final = 3
_MESSAGE_ENUM: Final = 4
_MESSAGE_ONEOF: Final = 8
_ENUM_VALUE: Final = 2
_SERVICE_METHOD: Final = 2
# Field numbers in descriptor.proto: a location's path spells where in the file it is.

_Path = tuple[int, ...]


@functools.cache
def comments() -> dict[str, str]:
    """All comments, each as one line per paragraph."""
    found: dict[str, str] = {}
    for file in descriptor_set().file:
        names = dict(_names(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None and location.leading_comments:
                found[name] = _joined(location.leading_comments)
    return found


def comment(full_name: str) -> str:
    """The comment at something; empty without one."""
    return comments().get(full_name, "")


def _joined(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(line.strip() for line in paragraph.splitlines()) for paragraph in paragraphs)


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[_Path, str]]:
    for index, message in enumerate(file.message_type):
        yield from _message_names(message, (_FILE_MESSAGE, index), file.package)
    for index, enum in enumerate(file.enum_type):
        yield from _enum_names(enum, (_FILE_ENUM, index), file.package)
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (_FILE_SERVICE, index), name
        for position, method in enumerate(service.method):
            yield (_FILE_SERVICE, index, _SERVICE_METHOD, position), f"{name}.{method.name}"


def _message_names(message: descriptor_pb2.DescriptorProto, path: _Path, parent: str) -> Iterator[tuple[_Path, str]]:
    name = f"{parent}.{message.name}"
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, _MESSAGE_FIELD, index), f"{name}.{field.name}"
    for index, union in enumerate(message.oneof_decl):
        yield (*path, _MESSAGE_ONEOF, index), f"{name}.{union.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _message_names(nested, (*path, _MESSAGE_NESTED, index), name)
    for index, enum in enumerate(message.enum_type):
        yield from _enum_names(enum, (*path, _MESSAGE_ENUM, index), name)


def _enum_names(enum: descriptor_pb2.EnumDescriptorProto, path: _Path, parent: str) -> Iterator[tuple[_Path, str]]:
    name = f"{parent}.{enum.name}"
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, _ENUM_VALUE, index), f"{name}.{value.name}"
