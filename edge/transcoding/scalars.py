"""Single values between JSON and protobuf: numbers, texts, bytes, enums, instants and masks, strictly checked.

A converter from JSON takes what the parser gives and returns what a message constructor takes, or raises `Misfit`.
"""

import base64
import binascii
import functools
import math
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, cast

from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

FromJson = Callable[[object], object]
"""JSON value to the value that a message constructor takes."""
FromText = Callable[[str], object]
"""Text of a path or query parameter to the value that a message constructor takes."""
ToJson = Callable[[object], object]
"""Field value to what orjson writes."""

TIMESTAMP: Final = timestamp_pb2.Timestamp.DESCRIPTOR.full_name
DURATION: Final = duration_pb2.Duration.DESCRIPTOR.full_name
FIELD_MASK: Final = field_mask_pb2.FieldMask.DESCRIPTOR.full_name
WELL_KNOWN: Final = frozenset({TIMESTAMP, DURATION, FIELD_MASK})
"""Messages that JSON shows as one text."""

_INTEGERS: Final = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_SINT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_SFIXED32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_SINT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_SFIXED64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_FIXED32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.TYPE_FIXED64: (0, (1 << 64) - 1),
}
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_NUMBER: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
# RFC 3339 section 5.6, upper-case T and Z as its section 5.6 advises; a leap second has no Timestamp.
_INSTANT: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
_SPAN: Final = re.compile(r"-?\d{1,12}(\.\d{1,9})?s", re.ASCII)
_MASK: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", re.ASCII)
_MASK_PATHS_MAX: Final = 64
_SECONDS_LENGTH: Final = len("2026-01-31T09:30:00")


class Misfit(Exception):  # noqa: N818 - the error that a client sees is made of it at the border
    """A value that a contract does not allow.

    Args:
        description: what would be right, without a stop.
        path: names and indexes from the value outward, innermost first; parents append theirs.
    """

    def __init__(self, description: str, *path: str | int) -> None:
        super().__init__(description)
        self.description = description
        self.path: list[str | int] = list(path)

    @property
    def field(self) -> str:
        """The path as people write it, such as `parameters.stop[1]`."""
        text = ""
        for step in reversed(self.path):
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text


def from_json(field: FieldDescriptor) -> FromJson:
    """Converter of one JSON value, other than null, of a field that is no ordinary message."""
    if field.type in _INTEGERS:
        return _integer(*_INTEGERS[field.type])
    if field.enum_type is not None:
        return _enum_from_json(field.enum_type)
    if field.message_type is not None:
        return _WELL_KNOWN_FROM_JSON[field.message_type.full_name]
    return _PLAIN_FROM_JSON[field.type]


def from_text(field: FieldDescriptor) -> FromText:
    """Converter of a path or query parameter."""
    if field.type in _INTEGERS:
        integer = _integer(*_INTEGERS[field.type])
        return lambda text: integer(int(text) if _INTEGER.fullmatch(text) else text)
    if field.type in {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}:
        number = from_json(field)
        return lambda text: number(float(text) if _NUMBER.fullmatch(text) else text)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _boolean_from_text
    return from_json(field)


def to_json(field: FieldDescriptor) -> ToJson | None:
    """Converter of one field value for orjson; None where orjson takes the value as it is."""
    if field.enum_type is not None:
        return _enum_to_json(field.enum_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes_to_json
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return _float_to_json
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _double_to_json
    if field.message_type is not None:
        return _WELL_KNOWN_TO_JSON[field.message_type.full_name]
    return None


def enum_names(enum: EnumDescriptor) -> dict[str, int]:
    """What JSON calls the values of an enum: lower case, without the prefix that repeats the enum's name."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values}


def _integer(least: int, most: int) -> FromJson:
    def convert(value: object) -> object:
        if type(value) is not int:
            raise Misfit("must be an integer")
        if not least <= value <= most:
            raise Misfit(f"must be from {least} to {most}")
        return value

    return convert


def _string(value: object) -> object:
    if type(value) is not str:
        raise Misfit("must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Misfit("must not hold half of a surrogate pair") from None
    return value


def _boolean(value: object) -> object:
    if type(value) is not bool:
        raise Misfit("must be true or false")
    return value


def _boolean_from_text(text: str) -> object:
    if text not in {"true", "false"}:
        raise Misfit("must be true or false")
    return text == "true"


def _double(value: object) -> object:
    if type(value) not in {int, float}:
        raise Misfit("must be a number")
    try:
        number = float(value)  # type: ignore[arg-type]  # the line above leaves int and float only
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Misfit("must be a finite number")
    return number


def _float(value: object) -> object:
    number = _double(value)
    assert isinstance(number, float)
    try:
        _FLOAT.pack(number)
    except OverflowError:
        raise Misfit("must fit 32 bits") from None
    return number


def _bytes(value: object) -> object:
    if type(value) is not str:
        raise Misfit("must be a string of base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Misfit("must be base64 (RFC 4648 section 4, with padding)") from None


def _enum_from_json(enum: EnumDescriptor) -> FromJson:
    numbers = enum_names(enum)
    choices = ", ".join(f"`{name}`" for name in numbers)

    def convert(value: object) -> object:
        number = numbers.get(value) if type(value) is str else None
        if number is None:
            raise Misfit(f"must be one of {choices}")
        return number

    return convert


def _instant_from_json(value: object) -> object:
    if type(value) is not str or _INSTANT.fullmatch(value) is None:
        raise Misfit("must be an instant such as `2026-01-31T09:30:00Z` (RFC 3339)")
    instant = timestamp_pb2.Timestamp()
    try:
        instant.FromJsonString(value)
    except ValueError:
        raise Misfit("is no instant of the calendar") from None
    return instant


def _span_from_json(value: object) -> object:
    if type(value) is not str or _SPAN.fullmatch(value) is None:
        raise Misfit("must be a duration in seconds such as `1.5s`")
    span = duration_pb2.Duration()
    try:
        span.FromJsonString(value)
    except ValueError:
        raise Misfit("is too long a duration") from None
    return span


def _mask_from_json(value: object) -> object:
    if type(value) is not str:
        raise Misfit("must be field names with commas between")
    paths = value.split(",") if value else []
    if len(paths) > _MASK_PATHS_MAX or not all(_MASK.fullmatch(path) for path in paths):
        raise Misfit(f"must be at most {_MASK_PATHS_MAX} field names with commas between")
    return field_mask_pb2.FieldMask(paths=paths)


def _enum_to_json(enum: EnumDescriptor) -> ToJson:
    names = {number: name for name, number in enum_names(enum).items()}

    return lambda value: names.get(cast("int", value), value)  # the number, for a value that only newer servers know


def _bytes_to_json(value: object) -> object:
    assert isinstance(value, bytes)
    return base64.b64encode(value).decode()


def _float_to_json(value: object) -> object:
    """The shortest decimal that is the same 32-bit float: 0.9, not 0.8999999761581421."""
    assert isinstance(value, float)
    if not math.isfinite(value):
        return None
    short = float(f"{value:.7g}")
    return short if _FLOAT.pack(short) == _FLOAT.pack(value) else float(f"{value:.9g}")


def _double_to_json(value: object) -> object:
    assert isinstance(value, float)
    return value if math.isfinite(value) else None


def _instant_to_json(value: object) -> object:
    value = cast("timestamp_pb2.Timestamp", value)
    text = _second(value.seconds)
    if not value.nanos:
        return text + "Z"
    digits = f"{value.nanos:09}"
    return f"{text}.{digits[:6] if digits.endswith('000') else digits}Z"


@functools.lru_cache(maxsize=4_096)
def _second(seconds: int) -> str:
    """Date and time of a second; the same ones are asked for again and again, and isoformat takes a microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:_SECONDS_LENGTH]  # without `+00:00`


def _span_to_json(value: object) -> object:
    return cast("duration_pb2.Duration", value).ToJsonString()


def _mask_to_json(value: object) -> object:
    return ",".join(cast("field_mask_pb2.FieldMask", value).paths)


_FLOAT: Final = struct.Struct("<f")
_PLAIN_FROM_JSON: Final[dict[int, FromJson]] = {
    FieldDescriptor.TYPE_STRING: _string,
    FieldDescriptor.TYPE_BOOL: _boolean,
    FieldDescriptor.TYPE_DOUBLE: _double,
    FieldDescriptor.TYPE_FLOAT: _float,
    FieldDescriptor.TYPE_BYTES: _bytes,
}
_WELL_KNOWN_FROM_JSON: Final[dict[str, FromJson]] = {
    TIMESTAMP: _instant_from_json,
    DURATION: _span_from_json,
    FIELD_MASK: _mask_from_json,
}
_WELL_KNOWN_TO_JSON: Final[dict[str, ToJson]] = {
    TIMESTAMP: _instant_to_json,
    DURATION: _span_to_json,
    FIELD_MASK: _mask_to_json,
}
