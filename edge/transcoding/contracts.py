"""Which RPCs have an HTTP form, and which: read once from the installed descriptors.

`parley.binpb` lists the files; their modules give the descriptors that the message classes are made of.
"""

import functools
import importlib
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from parley.options.v1 import method_pb2
from services.mesh.policy import Policy, methods_of, path_of, policy_of

PACKAGE: Final = "parley"
_SUFFIX: Final = ".proto"


class ContractError(Exception):
    """A binding that the edge cannot serve as it stands: the process must not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One RPC as the edge needs it, with or without an HTTP binding.

    Attributes:
        service: the deployable that serves it, such as `conversation`; also the audience of its tokens.
        rpc_path: path on the gRPC wire.
        policy: scopes, idempotency and timeout.
        success_status: HTTP status of a success.
        event_stream: how its responses become server-sent events; None for unary methods.
        follow: the stream that its answer may continue into; None for none.
    """

    method: MethodDescriptor
    service: str
    rpc_path: str
    policy: Policy
    success_status: int
    event_stream: method_pb2.EventStream | None
    follow: method_pb2.Follow | None

    @property
    def request_class(self) -> type[Message]:
        """Class of its request."""
        return GetMessageClass(self.method.input_type)

    @property
    def response_class(self) -> type[Message]:
        """Class of its response, or of one message of it."""
        return GetMessageClass(self.method.output_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One HTTP form of an RPC (`google.api.http`).

    Attributes:
        verb: HTTP method, upper case.
        template: path template, such as `/api/v1/turns/{turn_id}:cancel`.
        body: `*` for the whole request, the name of a field, or empty when the request has no body.
        response_body: the field of the response that is the answer; empty for all of it.
    """

    contract: Contract
    verb: str
    template: str
    body: str
    response_body: str


@functools.cache
def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """The contracts with their comments, as they were compiled."""
    data = importlib.resources.files(PACKAGE).joinpath("parley.binpb").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(data)


@functools.cache
def files() -> tuple[FileDescriptor, ...]:
    """Descriptors of all files of ours, in the order of the compiled set."""
    names = (file.name for file in descriptor_set().file)
    return tuple(_module_descriptor(name) for name in names if name.startswith(f"{PACKAGE}/"))


@functools.cache
def contracts() -> dict[str, Contract]:
    """All RPCs by full name, such as `parley.conversation.v1.TurnService.CreateTurn`."""
    return {method.full_name: _contract(method) for method in methods_of(files())}


@functools.cache
def bindings() -> tuple[Binding, ...]:
    """All HTTP bindings, in the order of the contracts.

    Raises:
        ContractError: a binding cannot be served; see `_checked`.
    """
    return tuple(_checked(binding) for contract in contracts().values() for binding in _bindings(contract))


def message_of(field: FieldDescriptor) -> Descriptor:
    """The message type of a field that holds messages.

    Raises:
        ContractError: it holds something else.
    """
    if field.message_type is None:
        raise ContractError(f"{field.full_name} is not a message")
    return field.message_type


def field_path(descriptor: Descriptor, path: str) -> Descriptor:
    """The message type that holds the last name of the dotted `path`; every name on it must exist."""
    *parents, last = path.split(".")
    for name in parents:
        descriptor = message_of(descriptor.fields_by_name[name])
    if last not in descriptor.fields_by_name:
        raise ContractError(f"{descriptor.full_name} has no field {last!r}")
    return descriptor


def _module_descriptor(file_name: str) -> FileDescriptor:
    module = importlib.import_module(file_name.removesuffix(_SUFFIX).replace("/", ".") + "_pb2")
    descriptor = module.DESCRIPTOR
    assert isinstance(descriptor, FileDescriptor)
    return descriptor


def _contract(method: MethodDescriptor) -> Contract:
    declared = method.GetOptions().Extensions[method_pb2.method]
    return Contract(
        method=method,
        service=method.full_name.split(".")[1],
        rpc_path=path_of(method),
        policy=policy_of(method),
        success_status=declared.success_status or 200,
        event_stream=declared.event_stream if declared.HasField("event_stream") else None,
        follow=declared.follow if declared.HasField("follow") else None,
    )


def _bindings(contract: Contract) -> Iterator[Binding]:
    # Any: googleapis ships its own stubs, in which an extension is not typed as one.
    options, extension = contract.method.GetOptions(), cast("Any", annotations_pb2.http)
    if not options.HasExtension(extension):
        return
    rule: http_pb2.HttpRule = options.Extensions[extension]
    for each in (rule, *rule.additional_bindings):
        verb, template = _pattern(each, contract)
        yield Binding(contract=contract, verb=verb, template=template, body=each.body, response_body=each.response_body)


def _pattern(rule: http_pb2.HttpRule, contract: Contract) -> tuple[str, str]:
    kind = rule.WhichOneof("pattern")
    if kind is None or kind == "custom":
        raise ContractError(f"{contract.method.full_name}: its HTTP binding has no verb")
    template: str = getattr(rule, kind)
    return kind.upper(), template


def _checked(binding: Binding) -> Binding:
    """The binding, if the edge can serve it."""
    contract, name = binding.contract, binding.contract.method.full_name
    if contract.method.client_streaming:
        raise ContractError(f"{name}: a client stream has no derived HTTP form")
    if contract.method.server_streaming != (contract.event_stream is not None):
        raise ContractError(f"{name}: event_stream belongs to server streams, and each of them needs it")
    if binding.body not in {"", "*"}:
        field_path(contract.method.input_type, binding.body)
    if binding.response_body:
        field_path(contract.method.output_type, binding.response_body)
    if contract.follow is not None:
        target = contracts().get(contract.follow.method)
        if target is None or target.event_stream is None:
            raise ContractError(f"{name}: follow names no stream: {contract.follow.method!r}")
        field_path(target.method.input_type, contract.follow.request_field)
        field_path(contract.method.output_type, contract.follow.response_path)
    return binding
