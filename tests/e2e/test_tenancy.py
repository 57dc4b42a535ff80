"""Somebody else's id and an id that never was get the same answer, from every method of every contract.

Nothing here lists methods: the contracts do. A new RPC is tested from the day it is written.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.mesh import ids, policy
from tests.support import contracts
from tests.support.rest import Rest
from tests.support.stack import Stack
from tests.support.tenants import Tenant, registered_tenant, summary

TIMEOUT_S: Final = 20.0
PREFIXES: Final = {
    "api_key_id": "key",
    "batch_id": "bat",
    "conversation_id": "conv",
    "document_id": "doc",
    "knowledge_base_id": "kb",
    "leaf_message_id": "msg",
    "message_id": "msg",
    "parent_id": "msg",
    "prompt": "prm",
    "summary_id": "sum",
    "turn_id": "turn",
    "user_id": "usr",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, as far as a caller can see it."""

    code: str
    message: str
    details: str | bytes | None


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Iterator[Tenant]:
    """The organization whose resources are asked for."""
    with registered_tenant(stack, "owner") as tenant:
        with Rest(tenant.url, tenant.api_key) as rest:
            ids = {**tenant.ids, "summary_id": summary(rest)}
        yield replace(tenant, ids=ids)


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Iterator[Tenant]:
    """The organization that asks."""
    with registered_tenant(stack, "stranger") as tenant:
        yield tenant


@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for method in contracts.methods() for path in contracts.id_paths(method.input_type)],
    ids=lambda part: part.full_name if isinstance(part, MethodDescriptor) else ".".join(part),
)
def test_foreign_id_is_not_found_like_a_random_one(
    method: MethodDescriptor, path: contracts.Path, owner: Tenant, stranger: Tenant
) -> None:
    foreign, random = owner.ids[path[-1]], ids.new_id(PREFIXES[path[-1]])

    outcomes = [
        _call(stranger, method, contracts.request_for(method, stranger.ids, path, id_)) for id_ in (foreign, random)
    ]

    assert outcomes[0].code == "NOT_FOUND", outcomes[0]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("value", ["x", "a\0b", "long 🙂" * 300, "'; --", "../../x"], ids=ascii)
def test_id_of_no_shape_at_all_is_refused_and_breaks_nothing(stranger: Tenant, value: str) -> None:
    for method in contracts.methods():
        for path in contracts.id_paths(method.input_type):
            outcome = _call(stranger, method, contracts.request_for(method, stranger.ids, path, value))

            assert outcome.code in {"NOT_FOUND", "INVALID_ARGUMENT"}, (method.full_name, path, outcome)


@pytest.mark.parametrize(
    "method",
    [
        method
        for method in contracts.methods()
        if method.name.startswith("List") and "page_size" in method.input_type.fields_by_name
    ],
    ids=lambda method: method.full_name,
)
def test_list_shows_nothing_of_others(method: MethodDescriptor, owner: Tenant, stranger: Tenant) -> None:
    request = contracts.request_for(method, stranger.ids)

    listed = str(_channel_call(stranger, method, request))

    assert not [id_ for id_ in owner.ids.values() if id_ in listed]


def test_rest_gives_the_same_problem_for_foreign_and_random_ids(owner: Tenant, stranger: Tenant) -> None:
    paths = {
        "conversation_id": "/api/v1/conversations/{}",
        "turn_id": "/api/v1/turns/{}/events",
        "message_id": "/api/v1/messages/{}",
        "knowledge_base_id": "/api/v1/knowledge_bases/{}",
        "document_id": "/api/v1/documents/{}",
        "user_id": "/api/v1/users/{}",
        "api_key_id": "/api/v1/api_keys/{}",
        "batch_id": "/api/v1/batches/{}",
        "prompt": "/api/v1/prompts/{}",
        "summary_id": "/api/v1/summaries/{}",
    }
    with Rest(stranger.url, stranger.api_key) as rest:
        for name, path in paths.items():
            problems = [rest.http.get(path.format(id_)).json() for id_ in (owner.ids[name], ids.new_id(PREFIXES[name]))]
            for problem in problems:
                problem.pop("request_id")
                problem.pop("instance", None)
            assert problems[0]["status"] == 404
            assert problems[0] == problems[1]


def test_nothing_of_the_owner_was_changed(owner: Tenant) -> None:
    with Rest(owner.url, owner.api_key) as rest:
        assert rest.get(f"/api/v1/conversations/{owner.ids['conversation_id']}")["title"] == "owner's"
        assert rest.get(f"/api/v1/knowledge_bases/{owner.ids['knowledge_base_id']}")["document_count"] == 1
        assert rest.get(f"/api/v1/turns/{owner.ids['turn_id']}")["state"] == "completed"
        assert rest.get(f"/api/v1/prompts/{owner.ids['prompt']}")["description"] == ""


def _call(tenant: Tenant, method: MethodDescriptor, request: Message) -> Outcome:
    try:
        _channel_call(tenant, method, request)
    except grpc.RpcError as error:
        # What grpc raises is an RpcError and a Call in one, which its types do not say.
        call = cast("grpc.Call", error)
        status = dict(call.trailing_metadata()).get("grpc-status-details-bin")
        return Outcome(call.code().name, call.details() or "", status)
    return Outcome("OK", "", None)


def _channel_call(tenant: Tenant, method: MethodDescriptor, request: Message) -> list[Message]:
    service = contracts.service_of(method)
    response_class = GetMessageClass(method.output_type)
    with grpc.insecure_channel(tenant.targets[service]) as channel:
        shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        call = getattr(channel, shape)(
            policy.path_of(method),
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_class.FromString,
        )
        metadata = (("authorization", f"Bearer {tenant.token(service)}"), *tenant.seen.metadata)
        asked = iter([request]) if method.client_streaming else request
        if method.server_streaming:
            return list(call(asked, metadata=metadata, timeout=TIMEOUT_S))
        answer, done = call.with_call(asked, metadata=metadata, timeout=TIMEOUT_S)
        tenant.seen.take_trailer(done.trailing_metadata())
        return [answer]
