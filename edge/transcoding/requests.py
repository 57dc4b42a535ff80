"""HTTP requests to request messages: path, query, headers and body, each field from exactly one of them."""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from google.protobuf import field_mask_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from edge.http import JSON, Exchange
from edge.transcoding.contracts import Binding
from edge.transcoding.decoding import Decode, Decoders, Fields, parse
from edge.transcoding.routes import PARAMETERS_KEY, Template
from edge.transcoding.scalars import FIELD_MASK, Misfit
from services.mesh.errors import InvalidArgument, invalid_field
from services.mesh.policy import Idempotency

IDEMPOTENCY_KEY: Final = "idempotency-key"
LAST_EVENT_ID: Final = "last-event-id"
REQUEST_ID_FIELD: Final = "request_id"
ETAG_FIELD: Final = "etag"
WHOLE_BODY: Final = "body"
"""What an error calls the body itself."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_SEQUENCE: Final = re.compile(r"[0-9]{1,18}", re.ASCII)

Parameter = Callable[[Sequence[str]], object]


class RequestReader:
    """Reads the requests of one binding."""

    def __init__(self, binding: Binding, template: Template, decoders: Decoders) -> None:
        descriptor = binding.contract.method.input_type
        self._make = binding.contract.request_class
        self._path = {name: decoders.parameter_of(descriptor.fields_by_name[name]) for name in template.variables}
        self._query = {
            field.name: decoders.parameter_of(field)
            for field in descriptor.fields
            if binding.body != "*" and field.name not in {*template.variables, binding.body}
        }
        self._body_name = binding.body
        self._decode = _body_decoder(binding, decoders)
        self._mask_field = _mask_field(descriptor) if binding.verb == "PATCH" and binding.body != "*" else None
        self._body_has_etag = bool(binding.body) and binding.body != "*" and _has_etag(descriptor, binding.body)
        self._takes_key = (
            binding.contract.policy.idempotency is Idempotency.REQUEST_ID
            and REQUEST_ID_FIELD in descriptor.fields_by_name
        )
        stream = binding.contract.event_stream
        self._resume_field = stream.resume_field if stream is not None else ""

    async def read(self, exchange: Exchange) -> Message:
        """The request message.

        Raises:
            InvalidArgument: the request does not fit the contract; its field is named.
        """
        try:
            fields = self._parameters(exchange)
            if self._decode is not None:
                await self._read_body(exchange, fields)
            if self._takes_key:
                fields[REQUEST_ID_FIELD] = _request_id(exchange, fields.get(REQUEST_ID_FIELD))
            if self._resume_field:
                _resume(exchange, self._resume_field, fields)
            return self._make(**fields)
        except Misfit as misfit:
            raise refusal(misfit) from None

    def _parameters(self, exchange: Exchange) -> Fields:
        values: Mapping[str, str] = exchange.scope[PARAMETERS_KEY]
        fields = {name: _at(name, self._path[name], [value]) for name, value in values.items()}
        for name, texts in exchange.query().items():
            convert = self._query.get(name)
            if convert is None:
                raise Misfit("is not known", name)
            fields[name] = _at(name, convert, texts)
        return fields

    async def _read_body(self, exchange: Exchange, fields: Fields) -> None:
        assert self._decode is not None
        document = await read_json(exchange)
        content = self._decode(document)
        if self._body_name == "*":
            for name in self._path:
                if name in content:
                    raise Misfit("is set by the path", name)
            fields.update(content)
            return
        fields[self._body_name] = content
        if self._body_has_etag:
            expected = exchange.header("if-match")
            if expected is not None and ETAG_FIELD not in content:
                content[ETAG_FIELD] = expected.removeprefix("W/").strip('"')
        if self._mask_field is not None and self._mask_field not in fields:
            assert isinstance(document, dict)
            fields[self._mask_field] = _mask_of(document)


async def read_json(exchange: Exchange) -> object:
    """The JSON value of the body; an empty body is an empty object.

    Raises:
        Misfit: not JSON, or not said to be.
        MeshError: the body is too large or too slow.
    """
    body = await exchange.body()
    if not body:
        return {}
    media_type = (exchange.header("content-type") or "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise Misfit(f"must be `{JSON}`", "content-type")
    return parse(body)


def refusal(misfit: Misfit) -> InvalidArgument:
    """What the caller is told about a value that does not fit."""
    return invalid_field(misfit.field or WHOLE_BODY, misfit.description)


def idempotency_key(exchange: Exchange) -> str | None:
    """The header `Idempotency-Key`; None without it.

    Raises:
        Misfit: not 1 to 128 visible ASCII characters.
    """
    key = exchange.header(IDEMPOTENCY_KEY)
    if key is not None and _KEY.fullmatch(key) is None:
        raise Misfit("must be 1 to 128 visible ASCII characters", IDEMPOTENCY_KEY)
    return key


def last_event_id(exchange: Exchange) -> int | None:
    """The header `Last-Event-ID`, which browsers send when a stream broke; None without it.

    Raises:
        Misfit: not a sequence number.
    """
    text = exchange.header(LAST_EVENT_ID)
    if not text:
        return None
    if _SEQUENCE.fullmatch(text) is None:
        raise Misfit("must be the `id` of an event", LAST_EVENT_ID)
    return int(text)


def _request_id(exchange: Exchange, given: object) -> object:
    """The caller's key, or a fresh one, which makes the mesh's own retries safe."""
    key = idempotency_key(exchange)
    if key is not None and given is not None and key != given:
        raise Misfit("differs from the header Idempotency-Key", REQUEST_ID_FIELD)
    return key or given or secrets.token_hex(16)


def _resume(exchange: Exchange, name: str, fields: Fields) -> None:
    """The header wins: a browser repeats the URL of its first request, and knows better by then."""
    sequence = last_event_id(exchange)
    if sequence is not None:
        fields[name] = sequence


def _body_decoder(binding: Binding, decoders: Decoders) -> Decode | None:
    descriptor = binding.contract.method.input_type
    if not binding.body:
        return None
    if binding.body == "*":
        return decoders.of(descriptor)
    inner = descriptor.fields_by_name[binding.body].message_type
    assert inner is not None
    return decoders.of(inner)


def _mask_field(descriptor: Descriptor) -> str | None:
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.full_name == FIELD_MASK:
            return field.name
    return None


def _has_etag(descriptor: Descriptor, name: str) -> bool:
    inner = descriptor.fields_by_name[name].message_type
    return inner is not None and ETAG_FIELD in inner.fields_by_name


def _mask_of(document: Mapping[str, object]) -> field_mask_pb2.FieldMask:
    """The fields that the body holds, null included; the etag is a condition, not a change."""
    paths = [name for name in document if name != ETAG_FIELD]
    if not paths:
        raise Misfit("must hold a field to change")
    return field_mask_pb2.FieldMask(paths=paths)


def _at(name: str, convert: Parameter, texts: Sequence[str]) -> object:
    try:
        return convert(texts)
    except Misfit as misfit:
        misfit.path.append(name)
        raise
