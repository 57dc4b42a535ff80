"""The codec against protobuf's own JSON, by properties; and what it refuses, with the path of the value."""

import json
import math
from contextlib import suppress
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.transcoding.decoding import ITEMS_MAX, Decoders, parse
from edge.transcoding.encoding import Encoders, dump
from edge.transcoding.scalars import Misfit
from parley.conversation.v1 import turn_pb2, turn_service_pb2
from tests.unit.edge.everything import DESCRIPTOR, Everything

ENCODE = Encoders().of(DESCRIPTOR)
DECODE = Decoders().of(DESCRIPTOR)
DECODE_TURN = Decoders().of(turn_service_pb2.CreateTurnRequest.DESCRIPTOR)

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_LEAVES = st.fixed_dictionaries({}, optional={"name": _TEXTS})
_INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
_INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
# Protobuf's own parser refuses the largest floats, rounded to nine digits as it writes them itself.
_FLOATS = st.floats(-(2.0**127), 2.0**127, width=32)
_DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
_ONE = {
    "text": _TEXTS,
    "data": st.binary(max_size=20),
    "flag": st.booleans(),
    "small": _INT32,
    "big": _INT64,
    "natural": st.integers(0, (1 << 32) - 1),
    "huge": st.integers(0, (1 << 64) - 1),
    "zigzag": _INT64,
    "fixed": st.integers(0, (1 << 32) - 1),
    "single": _FLOATS,
    "wide": _DOUBLES,
    "light": st.integers(0, 2),
    "leaf": _LEAVES,
}
_INSTANTS = st.fixed_dictionaries(
    {"seconds": st.integers(-62_135_596_800, 253_402_300_799), "nanos": st.integers(0, 999_999_999)}
)
_OPTIONAL: dict[str, Any] = {  # Any: strategies of all types
    **_ONE,
    **{f"{name}_list": st.lists(strategy, max_size=3) for name, strategy in _ONE.items()},
    "instant": _INSTANTS,
    "span": st.fixed_dictionaries({"seconds": st.integers(0, 10_000_000), "nanos": st.integers(0, 999_999_999)}),
    "mask": st.fixed_dictionaries({"paths": st.lists(st.sampled_from(["title", "a_b", "c.d_e"]), max_size=3)}),
    "maybe": _INT64,
    "leaves": st.dictionaries(_TEXTS, _LEAVES, max_size=3),
}
_EITHER = st.one_of(
    st.just({}), st.builds(lambda text: {"left": text}, _TEXTS), st.builds(lambda leaf: {"right": leaf}, _LEAVES)
)
_FIELDS = st.builds(lambda fields, either: {**fields, **either}, st.fixed_dictionaries({}, optional=_OPTIONAL), _EITHER)


def made(fields: dict[str, Any]) -> Message:  # Any: values of all fields
    leaves = fields.pop("leaves", {})
    message: Any = Everything(**fields)  # Any: fields of a class that no stub knows
    for name, leaf in leaves.items():
        message.leaves[name].SetInParent()
        if "name" in leaf:
            message.leaves[name].name = leaf["name"]
    assert isinstance(message, Message)
    return message


@given(_FIELDS, _FIELDS)
@settings(max_examples=150)
def test_a_message_survives_json_and_back(fields: dict[str, Any], inner: dict[str, Any]) -> None:
    message: Any = made(fields)
    message.tree.CopyFrom(made(inner))

    decoded = Everything(**DECODE(parse(dump(ENCODE(message)))))

    assert decoded == message


@given(_FIELDS)
@settings(max_examples=150)
def test_json_means_the_same_as_protobufs_own(fields: dict[str, Any]) -> None:
    message = made(fields)

    ours = _as_protobuf_writes(orjson.loads(dump(ENCODE(message))))

    assert json_format.ParseDict(ours, Everything()) == message


@given(_FIELDS)
@settings(max_examples=100)
def test_protobufs_own_json_says_nothing_that_ours_does_not(fields: dict[str, Any]) -> None:
    message = made(fields)

    theirs = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )

    assert theirs.keys() - ENCODE(message).keys() <= {"light"}  # which is unspecified then


def _as_protobuf_writes(value: dict[str, Any]) -> dict[str, Any]:
    """Enums with their prefixes and masks in camel case; 64-bit numbers are taken by its parser as they are."""
    changed = dict(value)
    if "light" in changed:
        changed["light"] = f"TRAFFIC_LIGHT_{changed['light'].upper()}"
    changed["light_list"] = [f"TRAFFIC_LIGHT_{name.upper()}" for name in changed["light_list"]]
    if "mask" in changed:
        changed["mask"] = changed["mask"].replace("a_b", "aB").replace("d_e", "dE")
    return changed


def test_scalars_and_lists_always_appear_and_the_rest_only_when_set() -> None:
    empty = ENCODE(Everything())

    assert (empty["text"], empty["big"], empty["flag"], empty["leaf_list"]) == ("", 0, False, [])
    assert empty.keys().isdisjoint({"leaf", "light", "instant", "maybe", "left", "right", "tree"})
    assert ENCODE(Everything(maybe=0, left=""))["maybe"] == 0
    assert ENCODE(Everything(left=""))["left"] == ""


def test_names_come_in_the_order_of_the_contract() -> None:
    turn = turn_pb2.Turn(id="turn_1", state=turn_pb2.TURN_STATE_RUNNING, model="m")

    assert list(Encoders().of(turn.DESCRIPTOR)(turn)) == [
        *("id", "conversation_id", "state", "user_message_id", "assistant_message_id", "attempt", "last_sequence"),
        "model",
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"light": 2}, {"light": "green_left"}),
        ({"light": 9}, {"light": 9}),
        ({"single": 0.9}, {"single": 0.9}),
        ({"single": 3.4028234663852886e38}, {"single": 3.40282347e38}),
        ({"single": 16777216.0}, {"single": 16777216.0}),
        ({"single": math.inf}, {"single": None}),
        ({"wide": math.nan}, {"wide": None}),
        ({"huge": (1 << 64) - 1}, {"huge": 18446744073709551615}),
        ({"data": b"\xff\x00"}, {"data": "/wA="}),
        ({"instant": {"seconds": 0, "nanos": 0}}, {"instant": "1970-01-01T00:00:00Z"}),
        ({"instant": {"seconds": 1, "nanos": 5_000_000}}, {"instant": "1970-01-01T00:00:01.005000Z"}),
        ({"instant": {"seconds": 1, "nanos": 5}}, {"instant": "1970-01-01T00:00:01.000000005Z"}),
        ({"span": {"seconds": 1, "nanos": 500_000_000}}, {"span": "1.500s"}),
        ({"mask": {"paths": ["a_b", "c"]}}, {"mask": "a_b,c"}),
    ],
)
def test_values_are_written_as_promised(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    whole = orjson.loads(dump(ENCODE(Everything(**fields))))

    assert {name: whole[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("body", "field", "description"),
    [
        ('{"nope": 1}', "nope", "is not known"),
        ('{"tree": {"tree": {"nope": 1}}}', "tree.tree.nope", "is not known"),
        ('{"leaf_list": [{}, {"nope": 1}]}', "leaf_list[1].nope", "is not known"),
        ('{"leaves": {"a": {"nope": 1}}}', "leaves.a.nope", "is not known"),
        ('{"text": 1}', "text", "must be a string"),
        ('{"text": null}', "text", "must not be null; leave it out instead"),
        ('{"text_list": null}', "text_list", "must not be null; leave it out instead"),
        ('{"text_list": ["a", null]}', "text_list[1]", "must not be null"),
        ('{"text_list": "a"}', "text_list", "must be a list"),
        ('{"text": "\\ud800"}', "text", "must not hold half of a surrogate pair"),
        ('{"leaves": {"\\ud800": {}}}', "leaves.\ud800", "must not hold half of a surrogate pair"),
        ('{"leaves": []}', "leaves", "must be an object"),
        ('{"leaves": {"a": null}}', "leaves.a", "must not be null"),
        ('{"leaf": []}', "leaf", "must be an object"),
        ('{"flag": 1}', "flag", "must be true or false"),
        ('{"flag": "true"}', "flag", "must be true or false"),
        ('{"small": true}', "small", "must be an integer"),
        ('{"small": 1.0}', "small", "must be an integer"),
        ('{"small": "1"}', "small", "must be an integer"),
        ('{"small": 2147483648}', "small", "must be from -2147483648 to 2147483647"),
        ('{"big": 9223372036854775808}', "big", "must be from -9223372036854775808 to 9223372036854775807"),
        ('{"natural": -1}', "natural", "must be from 0 to 4294967295"),
        ('{"single": 1e39}', "single", "must fit 32 bits"),
        ('{"wide": 1e999}', "wide", "must be a finite number"),
        (f'{{"wide": {10**400}}}', "wide", "must be a finite number"),
        ('{"wide": "1"}', "wide", "must be a number"),
        ('{"data": "a"}', "data", "must be base64 (RFC 4648 section 4, with padding)"),
        ('{"data": 1}', "data", "must be a string of base64"),
        ('{"light": 1}', "light", "must be one of `unspecified`, `red`, `green_left`"),
        ('{"light": "RED"}', "light", "must be one of `unspecified`, `red`, `green_left`"),
        ('{"instant": "2026-13-01T00:00:00Z"}', "instant", "is no instant of the calendar"),
        ('{"instant": 5}', "instant", "must be an instant such as `2026-01-31T09:30:00Z` (RFC 3339)"),
        ('{"instant": "2026-01-01"}', "instant", "must be an instant such as `2026-01-31T09:30:00Z` (RFC 3339)"),
        ('{"span": "1"}', "span", "must be a duration in seconds such as `1.5s`"),
        ('{"span": "999999999999s"}', "span", "is too long a duration"),
        ('{"mask": 1}', "mask", "must be field names with commas between"),
        ('{"mask": "a B"}', "mask", "must be at most 64 field names with commas between"),
        ('{"left": "a", "right": {}}', "right", "excludes `left`: one of them only"),
        ('{"text": "a", "text": "b"}', "text", "is there twice"),
        ("[]", "", "must be an object"),
        ("", "", "is not JSON: Expecting value at line 1, column 1"),
        ("{", "", "is not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        ('{"wide": NaN}', "", "holds NaN, which is not JSON"),
        ('{"wide": -Infinity}', "", "holds -Infinity, which is not JSON"),
        ("[" * 100_000, "", "is nested too deeply"),
        ('{"small": ' + "1" * 5_000 + "}", "", "holds a number that is too long"),
    ],
)
def test_bad_input_is_refused_with_its_path(body: str, field: str, description: str) -> None:
    with pytest.raises(Misfit) as caught:
        DECODE(parse(body.encode("utf-8", "surrogatepass")))

    assert (caught.value.field, caught.value.description) == (field, description)


def test_a_body_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(Misfit, match="must be UTF-8"):
        parse(b'{"text": "\xff"}')


@pytest.mark.parametrize(("items", "fits"), [(ITEMS_MAX - 1, True), (ITEMS_MAX, True), (ITEMS_MAX + 1, False)])
def test_lists_are_bounded(items: int, *, fits: bool) -> None:
    document = {"small_list": [1] * items}

    if fits:
        assert len(Everything(**DECODE(document)).small_list) == items  # type: ignore[attr-defined]  # no stub
        return
    with pytest.raises(Misfit, match="must have at most"):
        DECODE(document)


def test_null_means_absent_where_a_field_can_be_absent() -> None:
    assert DECODE({"maybe": None, "leaf": None, "left": None, "instant": None}) == {}


def test_absent_empty_and_null_are_three_things() -> None:
    absent = DECODE_TURN({"new": {"text": "a"}})
    empty = DECODE_TURN({"new": {"text": "a", "parent_id": ""}})
    null = DECODE_TURN({"new": {"text": "a", "parent_id": None}})

    made_of = [turn_service_pb2.CreateTurnRequest(**fields) for fields in (absent, empty, null)]  # type: ignore[arg-type]  # decoded for it

    assert [request.new.HasField("parent_id") for request in made_of] == [False, True, False]


_NAMES = st.sampled_from([*_OPTIONAL, "tree", "nope"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
)


@given(_JSON)
@settings(max_examples=300)
def test_nothing_but_a_misfit_comes_of_any_json(value: object) -> None:
    with suppress(Misfit):
        Everything(**DECODE(parse(json.dumps(value).encode())))
