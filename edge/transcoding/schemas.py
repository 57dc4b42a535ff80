"""JSON Schemas (2020-12, as OpenAPI 3.1 uses them) of message and enum types, with the contracts' comments."""

from collections.abc import Collection
from typing import Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from edge.transcoding.comments import comment
from edge.transcoding.contracts import message_of
from edge.transcoding.encoding import is_map, is_synthetic
from edge.transcoding.scalars import DURATION, FIELD_MASK, TIMESTAMP, enum_names

Schema = dict[str, object]

_INT32: Final[Schema] = {"type": "integer", "format": "int32"}
_INT64: Final[Schema] = {"type": "integer", "format": "int64"}
_SCALARS: Final[dict[int, Schema]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_SINT32: _INT32,
    FieldDescriptor.TYPE_SFIXED32: _INT32,
    FieldDescriptor.TYPE_UINT32: _INT32 | {"minimum": 0},
    FieldDescriptor.TYPE_FIXED32: _INT32 | {"minimum": 0},
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_SINT64: _INT64,
    FieldDescriptor.TYPE_SFIXED64: _INT64,
    FieldDescriptor.TYPE_UINT64: _INT64 | {"minimum": 0},
    FieldDescriptor.TYPE_FIXED64: _INT64 | {"minimum": 0},
}
_WELL_KNOWN: Final[dict[str, Schema]] = {
    TIMESTAMP: {"type": "string", "format": "date-time"},
    DURATION: {"type": "string", "examples": ["1.5s"]},
    FIELD_MASK: {"type": "string", "examples": ["title,model"]},
}


class Schemas:
    """Component schemas, gathered as operations refer to them."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def message(self, descriptor: Descriptor, *, without: Collection[str] = ()) -> Schema:
        """A reference to the schema of a message; `without` names fields that the URL carries."""
        name = short_name(descriptor.full_name)
        if name not in self.components:
            self.components[name] = {}  # so that a type that contains itself ends
            self.components[name] = self._message(descriptor, without)
        return {"$ref": f"#/components/schemas/{name}"}

    def enum(self, descriptor: EnumDescriptor) -> Schema:
        """A reference to the schema of an enum."""
        name = short_name(descriptor.full_name)
        if name not in self.components:
            values = enum_names(descriptor)
            lines = [
                f"- `{shown}`: {comment(f'{descriptor.full_name}.{value.name}')}"
                for shown, value in zip(values, descriptor.values, strict=True)
            ]
            text = "\n".join([comment(descriptor.full_name), "", *lines])
            self.components[name] = {"type": "string", "enum": list(values), "description": text}
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field, with its comment."""
        text = comment(field.full_name)
        union = field.containing_oneof
        if union is not None and not is_synthetic(union):
            others = ", ".join(f"`{other.name}`" for other in union.fields if other is not field)
            text += f" At most one of this and {others}." if others else ""
        return self._repeated(field) | ({"description": text} if text else {})

    def _message(self, descriptor: Descriptor, without: Collection[str]) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {field.name: self.field(field) for field in descriptor.fields if field.name not in without},
            "additionalProperties": False,
        }
        text = comment(descriptor.full_name)
        return schema | ({"description": text} if text else {})

    def _repeated(self, field: FieldDescriptor) -> Schema:
        if is_map(field):
            return {
                "type": "object",
                "additionalProperties": self._one(message_of(field).fields_by_name["value"]),
            }
        return {"type": "array", "items": self._one(field)} if field.is_repeated else dict(self._one(field))

    def _one(self, field: FieldDescriptor) -> Schema:
        if field.enum_type is not None:
            return self.enum(field.enum_type)
        if field.message_type is None:
            return _SCALARS[field.type]
        well_known = _WELL_KNOWN.get(field.message_type.full_name)
        return well_known if well_known is not None else self.message(field.message_type)


def short_name(full_name: str) -> str:
    """`parley.conversation.v1.Turn` as the documentation names it: `conversation.Turn`."""
    _, service, _, rest = full_name.split(".", 3)
    return f"{service}.{rest}"
