"""JSON to messages: strict where `json_format` is lenient, one closure per message type, compiled once.

Refused with the path of the value: unknown names, wrong types, null for what cannot be absent, two members of a oneof,
duplicate names, NaN and infinities. Depth is bounded by the contract, size by the edge's body limit.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from edge.transcoding.contracts import message_of
from edge.transcoding.encoding import is_map, is_synthetic
from edge.transcoding.scalars import WELL_KNOWN, FromJson, FromText, Misfit, from_json, from_text

Fields = dict[str, object]
"""Values by field name, as a message constructor takes them."""
Decode = Callable[[object], Fields]
"""JSON value of a message to the values of its fields; raises `Misfit`."""

ITEMS_MAX: Final = 10_000
"""Items of one list: far above every bound of the contracts, far below what hurts."""


class Decoders:
    """Compiled decoders by message type; message types may refer to themselves."""

    def __init__(self) -> None:
        self._compiled: dict[str, Decode] = {}

    def of(self, descriptor: Descriptor) -> Decode:
        """The decoder of a message type."""
        name = descriptor.full_name
        if name not in self._compiled:

            def compiled_later(value: object) -> Fields:
                """What a type that contains itself finds while it is being compiled."""
                return self._compiled[name](value)

            self._compiled[name] = compiled_later
            self._compiled[name] = self._compile(descriptor)
        return self._compiled[name]

    def value_of(self, field: FieldDescriptor) -> FromJson:
        """The decoder of what a field holds, lists included."""
        one = self._one(field)
        if is_map(field):
            entry = message_of(field).fields_by_name
            return _map(self._one(entry["key"]), self._one(entry["value"]))
        return _list(one) if field.is_repeated else one

    def parameter_of(self, field: FieldDescriptor) -> Callable[[Sequence[str]], object]:
        """The decoder of a path or query parameter, which may be given several times when the field is a list."""
        if field.message_type is not None and field.message_type.full_name not in WELL_KNOWN:
            return _no_parameter
        one: FromText = from_text(field)
        if field.is_repeated:
            return lambda texts: [one(text) for text in texts]
        return lambda texts: one(texts[0]) if len(texts) == 1 else _misfit("must be given once")

    def _compile(self, descriptor: Descriptor) -> Decode:
        fields = {field.name: (self.value_of(field), field.has_presence) for field in descriptor.fields}
        unions = {
            field.name: union.name for union in descriptor.oneofs if not is_synthetic(union) for field in union.fields
        }

        def decode(value: object) -> Fields:
            if type(value) is not dict:
                raise Misfit("must be an object")
            out: Fields = {}
            for name, item in value.items():
                known = fields.get(name)
                if known is None:
                    raise Misfit("is not known", name)
                convert, has_presence = known
                if item is None:
                    if not has_presence:
                        raise Misfit("must not be null; leave it out instead", name)
                    continue
                try:
                    out[name] = convert(item)
                except Misfit as misfit:
                    misfit.path.append(name)
                    raise
            if unions:
                _refuse_two_members(out, unions)
            return out

        return decode

    def _one(self, field: FieldDescriptor) -> FromJson:
        if field.message_type is None or field.message_type.full_name in WELL_KNOWN:
            return from_json(field)
        decode = self.of(field.message_type)
        if field.message_type.GetOptions().map_entry:
            return decode
        make = GetMessageClass(field.message_type)
        return lambda value: make(**decode(value))


def parse(body: bytes) -> object:
    """The JSON value of a body.

    Raises:
        Misfit: not one JSON text in UTF-8, or one that two readers could understand differently.
    """
    try:
        # Any: json's own result. The parser of the standard library, because orjson keeps the last of two equal names.
        value: Any = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Misfit("must be UTF-8") from None
    except RecursionError:
        raise Misfit("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Misfit(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError:  # an integer of thousands of digits
        raise Misfit("holds a number that is too long") from None
    return cast("object", value)


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(members)
    if len(value) != len(members):
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise Misfit("is there twice", name)
            seen.add(name)
    return value


def _no_constant(name: str) -> NoReturn:
    raise Misfit(f"holds {name}, which is not JSON")


def _refuse_two_members(out: Fields, unions: dict[str, str]) -> None:
    chosen: dict[str, str] = {}
    for name in out:
        union = unions.get(name)
        if union is None:
            continue
        if union in chosen:
            raise Misfit(f"excludes `{chosen[union]}`: one of them only", name)
        chosen[union] = name


def _list(one: FromJson) -> FromJson:
    def convert(value: object) -> object:
        if type(value) is not list:
            raise Misfit("must be a list")
        if len(value) > ITEMS_MAX:
            raise Misfit(f"must have at most {ITEMS_MAX} items")
        out = []
        for index, item in enumerate(value):
            try:
                out.append(_misfit("must not be null") if item is None else one(item))
            except Misfit as misfit:
                misfit.path.append(index)
                raise
        return out

    return convert


def _map(key: FromJson, one: FromJson) -> FromJson:
    def convert(value: object) -> object:
        if type(value) is not dict:
            raise Misfit("must be an object")
        out = {}
        for name, item in value.items():
            try:
                out[key(name)] = _misfit("must not be null") if item is None else one(item)
            except Misfit as misfit:
                misfit.path.append(name)
                raise
        return out

    return convert


def _no_parameter(_texts: Sequence[str]) -> object:
    raise Misfit("cannot be given in the URL")


def _misfit(description: str) -> NoReturn:
    raise Misfit(description)
