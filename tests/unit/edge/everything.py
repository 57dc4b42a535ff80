"""A message of every kind of field, made without a contract: what the codec must carry."""

from typing import Final, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_F: TypeAlias = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "text": _F.TYPE_STRING,
    "data": _F.TYPE_BYTES,
    "flag": _F.TYPE_BOOL,
    "small": _F.TYPE_INT32,
    "big": _F.TYPE_INT64,
    "natural": _F.TYPE_UINT32,
    "huge": _F.TYPE_UINT64,
    "zigzag": _F.TYPE_SINT64,
    "fixed": _F.TYPE_FIXED32,
    "single": _F.TYPE_FLOAT,
    "wide": _F.TYPE_DOUBLE,
}
_PACKAGE: Final = "parley.testing.codec.v1"


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="parley/testing/codec/v1/everything.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[timestamp_pb2.DESCRIPTOR.name, duration_pb2.DESCRIPTOR.name, field_mask_pb2.DESCRIPTOR.name],
    )
    enum = file.enum_type.add(name="TrafficLight")
    for number, name in enumerate(("UNSPECIFIED", "RED", "GREEN_LEFT")):
        enum.value.add(name=f"TRAFFIC_LIGHT_{name}", number=number)
    leaf = file.message_type.add(name="Leaf")
    leaf.field.add(name="name", number=1, type=_F.TYPE_STRING, label=_F.LABEL_OPTIONAL)
    message = file.message_type.add(name="Everything")
    number = 0

    def add(name: str, kind: "_F.Type.ValueType", type_name: str = "", *, is_repeated: bool = False) -> _F:
        nonlocal number
        number += 1
        return message.field.add(
            name=name,
            number=number,
            type=kind,
            type_name=type_name or None,
            label=_F.LABEL_REPEATED if is_repeated else _F.LABEL_OPTIONAL,
        )

    for name, kind in _SCALARS.items():
        add(name, kind)
        add(f"{name}_list", kind, is_repeated=True)
    add("light", _F.TYPE_ENUM, f".{_PACKAGE}.TrafficLight")
    add("light_list", _F.TYPE_ENUM, f".{_PACKAGE}.TrafficLight", is_repeated=True)
    add("leaf", _F.TYPE_MESSAGE, f".{_PACKAGE}.Leaf")
    add("leaf_list", _F.TYPE_MESSAGE, f".{_PACKAGE}.Leaf", is_repeated=True)
    add("tree", _F.TYPE_MESSAGE, f".{_PACKAGE}.Everything")
    add("instant", _F.TYPE_MESSAGE, ".google.protobuf.Timestamp")
    add("span", _F.TYPE_MESSAGE, ".google.protobuf.Duration")
    add("mask", _F.TYPE_MESSAGE, ".google.protobuf.FieldMask")
    union = message.oneof_decl.add(name="either")
    del union
    add("left", _F.TYPE_STRING).oneof_index = 0
    add("right", _F.TYPE_MESSAGE, f".{_PACKAGE}.Leaf").oneof_index = 0
    message.oneof_decl.add(name="_maybe")
    maybe = add("maybe", _F.TYPE_INT64)
    maybe.oneof_index, maybe.proto3_optional = 1, True
    entry = message.nested_type.add(name="LeavesEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=_F.TYPE_STRING, label=_F.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=_F.TYPE_MESSAGE, type_name=f".{_PACKAGE}.Leaf", label=_F.LABEL_OPTIONAL
    )
    add("leaves", _F.TYPE_MESSAGE, f".{_PACKAGE}.Everything.LeavesEntry", is_repeated=True)
    return file


# The pool of the generated code: its messages hold Timestamps of the one class that there is.
_POOL: Final = descriptor_pool.Default()
_POOL.AddSerializedFile(_file().SerializeToString())

DESCRIPTOR: Final[Descriptor] = _POOL.FindMessageTypeByName(f"{_PACKAGE}.Everything")
Everything: Final[type[Message]] = GetMessageClass(DESCRIPTOR)
