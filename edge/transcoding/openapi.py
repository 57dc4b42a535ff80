"""The OpenAPI 3.1 document of the derived routes: the contracts and their comments, in the dialect of HTTP."""

import functools
from typing import Final

import orjson
from google.protobuf.descriptor import Descriptor

from edge.handwritten import HANDWRITTEN, PROBLEM, TAGS
from edge.transcoding.comments import comment
from edge.transcoding.contracts import Binding, Contract, bindings, files, message_of
from edge.transcoding.requests import REQUEST_ID_FIELD
from edge.transcoding.routes import Template
from edge.transcoding.schemas import Schema, Schemas
from parley.common.v1 import error_reason_pb2
from services.mesh.policy import Idempotency

API_VERSION: Final = "1"
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_PREFIX: Final = "ERROR_REASON_"
_PROBLEM_REF: Final = {"$ref": "#/components/schemas/Problem"}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a repeat safe: the same key with the same body returns the first call's resource, with "
    "another body it is refused with `IDEMPOTENCY_MISMATCH`. 1 to 128 visible ASCII characters; fresh when absent.",
    "schema": {"type": "string", "maxLength": 128},
}
_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The `id` of the last event that the client has; the stream goes on after it.",
    "schema": {"type": "string"},
}


@functools.cache
def document() -> bytes:
    """The document as JSON, laid out for people and for version control."""
    schemas = Schemas()
    paths: dict[str, dict[str, object]] = {}
    for binding in bindings():
        template = Template.parse(binding.template)
        paths.setdefault(template.path, {})[binding.verb.lower()] = _operation(binding, template, schemas)
    for path, operations in HANDWRITTEN.items():
        paths.setdefault(path, {}).update(operations)
    components = {"Problem": _problem(), **dict(sorted(schemas.components.items()))}
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Parley",
            "version": API_VERSION,
            "description": "Conversations with language models, knowledge bases and citations.",
        },
        "security": [{"bearer": []}, {"api_key": []}, {"session": []}],
        "tags": [*_tags(), *TAGS],
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2) + b"\n"


_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or an access token."},
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "parley_session",
        "description": "Set by `POST /api/v1/auth/session`; called `__Host-parley_session` over TLS.",
    },
}


def _operation(binding: Binding, template: Template, schemas: Schemas) -> dict[str, object]:
    contract = binding.contract
    text = comment(contract.method.full_name)
    operation: dict[str, object] = {
        "operationId": f"{contract.method.containing_service.name}.{contract.method.name}",
        "tags": [contract.method.containing_service.name],
        "summary": text.partition(". ")[0].rstrip("."),
        "description": _description(contract, text),
        "parameters": _parameters(binding, template, schemas),
        "responses": _responses(binding, schemas),
    }
    if binding.body:
        operation["requestBody"] = _request_body(binding, template, schemas)
    if contract.policy.is_public:
        operation["security"] = []
    return operation


def _description(contract: Contract, text: str) -> str:
    scopes = ", ".join(f"`{scope}`" for scope in sorted(contract.policy.scopes))
    return f"{text}\n\nScopes: {scopes}." if scopes else text


def _parameters(binding: Binding, template: Template, schemas: Schemas) -> list[object]:
    contract = binding.contract
    descriptor: Descriptor = contract.method.input_type
    found: list[object] = [
        _parameter(name, "path", schemas.field(descriptor.fields_by_name[name])) for name in template.variables
    ]
    if binding.body != "*":
        elsewhere = {*template.variables, binding.body}
        found += [
            _parameter(field.name, "query", schemas.field(field))
            for field in descriptor.fields
            if field.name not in elsewhere
        ]
    if contract.policy.idempotency is Idempotency.REQUEST_ID:
        found.append(_IDEMPOTENCY_KEY)
    if contract.follow is not None or (contract.event_stream is not None and contract.event_stream.resume_field):
        found.append(_LAST_EVENT_ID)
    return found


def _parameter(name: str, place: str, schema: Schema) -> dict[str, object]:
    bare = {key: value for key, value in schema.items() if key != "description"}
    parameter: dict[str, object] = {"name": name, "in": place, "schema": bare}
    if "description" in schema:
        parameter["description"] = schema["description"]
    if place == "path":
        parameter["required"] = True
    return parameter


def _request_body(binding: Binding, template: Template, schemas: Schemas) -> dict[str, object]:
    descriptor: Descriptor = binding.contract.method.input_type
    if binding.body == "*":
        schema = schemas.message(descriptor, without=template.variables)
    else:
        schema = schemas.message(message_of(descriptor.fields_by_name[binding.body]))
    needed = [field for field in descriptor.fields if field.name not in {*template.variables, REQUEST_ID_FIELD}]
    return {"required": bool(needed), "content": {_JSON: {"schema": schema}}}


def _responses(binding: Binding, schemas: Schemas) -> dict[str, object]:
    contract = binding.contract
    output: Descriptor = contract.method.output_type
    answer = message_of(output.fields_by_name[binding.response_body]) if binding.response_body else output
    failure = {
        "description": "A problem (RFC 9457).",
        "content": {"application/problem+json": {"schema": _PROBLEM_REF}},
    }
    if contract.success_status == 204:  # noqa: PLR2004 - RFC 9110: no content
        return {"204": {"description": "Done."}, "default": failure}
    text = comment(answer.full_name)
    if contract.event_stream is not None:
        success = _stream_response(contract, schemas, text)
    else:
        success = {"description": text, "content": {_JSON: {"schema": schemas.message(answer)}}}
    responses: dict[str, object] = {str(contract.success_status): success, "default": failure}
    if contract.follow is not None:
        method = contract.follow.method.rpartition(".")[2]
        responses["200"] = {
            "description": f"With `Accept: text/event-stream`: the events of `{method}`, from the first one on.",
            "content": {_EVENTS: {}},
        }
    return responses


def _stream_response(contract: Contract, schemas: Schemas, text: str) -> dict[str, object]:
    assert contract.event_stream is not None
    output: Descriptor = contract.method.output_type
    field = contract.event_stream.items_field
    item = schemas.message(message_of(output.fields_by_name[field]) if field else output)
    page = {"type": "object", "properties": {field or "items": {"type": "array", "items": item}}}
    return {
        "description": f"{text} With `Accept: text/event-stream`, each is the `data` of a server-sent event; else "
        "those that there are now, as one document.",
        "content": {_EVENTS: {"schema": item}, _JSON: {"schema": page}},
    }


def _problem() -> Schema:
    values = error_reason_pb2.ErrorReason.DESCRIPTOR.values[1:]
    lines = [f"- {comment(f'parley.common.v1.ErrorReason.{value.name}').removeprefix(_PREFIX)}" for value in values]
    reason = {
        "type": "string",
        "enum": [value.name.removeprefix(_PREFIX) for value in values],
        "description": "\n".join(["Machine-readable cause.", "", *lines]),
    }
    return PROBLEM | {"properties": {**PROBLEM["properties"], "reason": reason}}


def _tags() -> list[object]:
    served = {binding.contract.method.containing_service.full_name for binding in bindings()}
    services = [service for file in files() for service in file.services_by_name.values()]
    return [
        {"name": service.name, "description": comment(service.full_name)}
        for service in services
        if service.full_name in served
    ]
