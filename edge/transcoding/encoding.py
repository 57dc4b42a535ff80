"""Messages to JSON values: one closure per message type, compiled once.

What is there and what is not follows the contract: fields with presence (messages, `optional`, members of a oneof)
appear when they are set, plain scalars and lists always, an enum unless it is unspecified. 64-bit integers are numbers.
"""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, cast

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

from edge.transcoding.contracts import ContractError, message_of
from edge.transcoding.scalars import WELL_KNOWN, ToJson, to_json

Encode = Callable[[Message], dict[str, object]]
"""Message to a JSON object that orjson writes as it is."""
_Fix = Callable[[Message, dict[str, object]], None]

_NUMBERS: Final = frozenset({FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE})


class Encoders:
    """Compiled encoders by message type; message types may refer to themselves."""

    def __init__(self) -> None:
        self._compiled: dict[str, Encode] = {}

    def of(self, descriptor: Descriptor) -> Encode:
        """The encoder of a message type.

        Raises:
            ContractError: the type has a field without a JSON form here.
        """
        name = descriptor.full_name
        if name not in self._compiled:

            def compiled_later(message: Message) -> dict[str, object]:
                """What a type that contains itself finds while it is being compiled."""
                return self._compiled[name](message)

            self._compiled[name] = compiled_later
            self._compiled[name] = self._compile(descriptor)
        return self._compiled[name]

    def value_of(self, field: FieldDescriptor) -> ToJson:
        """The encoder of what a field holds, lists included."""
        convert = self._one(field)
        if is_map(field):
            inner = self._one(message_of(field).fields_by_name["value"]) or _same
            return lambda entries: {key: inner(item) for key, item in cast("Mapping[str, object]", entries).items()}
        if field.is_repeated:
            return _list(convert)
        return convert or _same

    def _compile(self, descriptor: Descriptor) -> Encode:
        unions = [union for union in descriptor.oneofs if not is_synthetic(union)]
        members = {field.name for union in unions for field in union.fields}
        shown = [field for field in descriptor.fields if field.name not in members]
        read = _reader([field.name for field in shown])
        fixes = [fix for field in shown if (fix := self._fix(field)) is not None]
        fixes += [
            _add_member(union.name, {field.name: self.value_of(field) for field in union.fields}) for union in unions
        ]
        if not fixes:
            return read

        def encode(message: Message) -> dict[str, object]:
            out = read(message)
            for fix in fixes:
                fix(message, out)
            return out

        return encode

    def _fix(self, field: FieldDescriptor) -> _Fix | None:
        """What has to be done about a field that was read as it is; None for nothing."""
        if field.has_presence:
            return _drop_absent(field.name, self.value_of(field))
        if field.is_repeated:
            return _convert(field.name, self.value_of(field))
        convert = to_json(field)
        if convert is None:
            return None
        if field.enum_type is not None:
            return _drop_unspecified(field.name, convert)
        return _convert(field.name, convert)

    def _one(self, field: FieldDescriptor) -> ToJson | None:
        if field.type == FieldDescriptor.TYPE_GROUP:
            raise ContractError(f"{field.full_name}: groups have no JSON form")
        if field.message_type is None or field.message_type.full_name in WELL_KNOWN:
            return None if field.is_repeated and field.type in _NUMBERS else to_json(field)
        if field.message_type.full_name.startswith("google.protobuf."):
            raise ContractError(f"{field.full_name}: {field.message_type.full_name} has no JSON form here")
        return cast("ToJson", self.of(field.message_type))


def dump(value: object) -> bytes:
    """JSON text of an encoded value."""
    return orjson.dumps(value)


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map; keys other than texts are refused.

    Raises:
        ContractError: a map whose keys are not texts.
    """
    if not field.is_repeated or field.message_type is None or not field.message_type.GetOptions().map_entry:
        return False
    if field.message_type.fields_by_name["key"].type != FieldDescriptor.TYPE_STRING:
        raise ContractError(f"{field.full_name}: only maps with text keys have a JSON form here")
    return True


def is_synthetic(union: OneofDescriptor) -> bool:
    """Whether a oneof only carries the presence of one `optional` field."""
    return len(union.fields) == 1 and union.name == f"_{union.fields[0].name}"


def _reader(names: list[str]) -> Encode:
    """All fields as they are, in the order of the contract."""
    if not names:
        return lambda _message: {}
    if len(names) == 1:
        (name,) = names
        return lambda message: {name: getattr(message, name)}
    # attrgetter reads all fields in one call, which takes half the time of a loop.
    read = attrgetter(*names)
    return lambda message: dict(zip(names, read(message), strict=True))


def _drop_absent(name: str, convert: ToJson) -> _Fix:
    def fix(message: Message, out: dict[str, object]) -> None:
        if message.HasField(name):
            out[name] = convert(out[name])
        else:
            del out[name]

    return fix


def _drop_unspecified(name: str, convert: ToJson) -> _Fix:
    def fix(_message: Message, out: dict[str, object]) -> None:
        if out[name]:
            out[name] = convert(out[name])
        else:
            del out[name]

    return fix


def _convert(name: str, convert: ToJson) -> _Fix:
    def fix(_message: Message, out: dict[str, object]) -> None:
        out[name] = convert(out[name])

    return fix


def _add_member(union: str, converts: dict[str, ToJson]) -> _Fix:
    def fix(message: Message, out: dict[str, object]) -> None:
        name = message.WhichOneof(union)
        if name is not None:
            out[name] = converts[name](getattr(message, name))

    return fix


def _list(convert: ToJson | None) -> ToJson:
    """Lists of floats are vectors for machines: written as exact doubles, without the search for the shortest text."""
    if convert is None:
        return lambda items: list(cast("Iterable[object]", items))
    return lambda items: [convert(item) for item in cast("Iterable[object]", items)]


def _same(value: Any) -> object:  # Any: whatever protobuf holds goes to orjson untouched
    return value
