"""Who may call which method, read from the descriptors; what is not declared is denied.

The policy stands beside the RPC in `proto/` (`parley.options.v1.method`), so there is no second table to forget.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool

from parley.options.v1 import method_pb2

DEFAULT_TIMEOUT_S: Final = 10.0
"""Bound of a unary call whose policy names none (`MethodPolicy.timeout_ms`)."""


class Idempotency(Enum):
    """How a repeated call with the same content behaves; see `parley.options.v1.Idempotency`."""

    READ = method_pb2.IDEMPOTENCY_READ
    NATURAL = method_pb2.IDEMPOTENCY_NATURAL
    REQUEST_ID = method_pb2.IDEMPOTENCY_REQUEST_ID
    NONE = method_pb2.IDEMPOTENCY_NONE

    @property
    def is_retryable(self) -> bool:
        """Whether a channel may repeat the call by itself."""
        return self in {Idempotency.READ, Idempotency.NATURAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The declared policy of one method.

    Attributes:
        scopes, callers, is_public, idempotency: see `parley.options.v1.MethodPolicy`.
        timeout_s: bounds unary calls only.
        is_resumable: whether it is a stream that another call can go on with where it ended.
    """

    scopes: frozenset[str] = frozenset()
    callers: frozenset[str] = frozenset()
    is_public: bool = False
    idempotency: Idempotency = Idempotency.NONE
    timeout_s: float = DEFAULT_TIMEOUT_S
    is_resumable: bool = False


class PolicyError(Exception):
    """A contract declares no policy, or one that contradicts itself: the process must not start."""


# Not ours to annotate. Health answers load balancers, which hold no token; reflection is a setting that is off by
# default and shows the public contract only.
INFRASTRUCTURE: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "/grpc.health.v1.Health/Check": Policy(is_public=True, idempotency=Idempotency.READ),
        "/grpc.health.v1.Health/List": Policy(is_public=True, idempotency=Idempotency.READ),
        "/grpc.health.v1.Health/Watch": Policy(is_public=True, idempotency=Idempotency.READ),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Policy(
            is_public=True, idempotency=Idempotency.READ
        ),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Policy(
            is_public=True, idempotency=Idempotency.READ
        ),
    }
)


def policy_of(method: MethodDescriptor) -> Policy:
    """The policy that `method` declares.

    Raises:
        PolicyError: it declares none, no idempotency, or is public and restricted at once.
    """
    options = method.GetOptions()
    if not options.HasExtension(method_pb2.method):
        raise PolicyError(f"{method.full_name}: no option (parley.options.v1.method)")
    declared = options.Extensions[method_pb2.method]
    if declared.idempotency == method_pb2.IDEMPOTENCY_UNSPECIFIED:
        raise PolicyError(f"{method.full_name}: no idempotency")
    if declared.public and (declared.scopes or declared.callers):
        raise PolicyError(f"{method.full_name}: public, and yet scopes or callers")
    if not (declared.public or declared.scopes or declared.callers):
        raise PolicyError(f"{method.full_name}: neither public nor scopes nor callers")
    return Policy(
        scopes=frozenset(declared.scopes),
        callers=frozenset(declared.callers),
        is_public=declared.public,
        idempotency=Idempotency(declared.idempotency),
        timeout_s=declared.timeout_ms / 1000 if declared.timeout_ms else DEFAULT_TIMEOUT_S,
        is_resumable=bool(declared.event_stream.resume_field),
    )


def path_of(method: MethodDescriptor) -> str:
    """The path of `method` on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def policies_of(files: Iterable[FileDescriptor]) -> dict[str, Policy]:
    """Policies of all methods of all services in `files`, by path on the wire."""
    return {path_of(method): policy_of(method) for method in methods_of(files)}


def methods_of(files: Iterable[FileDescriptor]) -> Iterator[MethodDescriptor]:
    """All methods of all services in `files`."""
    for file in files:
        for service in file.services_by_name.values():
            yield from service.methods


def policy_table(paths: Iterable[str], pool: DescriptorPool | None = None) -> Mapping[str, Policy]:
    """Policies of the methods that a server registered.

    Args:
        paths: `/package.Service/Method` of every registered method.
        pool: where the contracts are; the default pool unless told.

    Raises:
        PolicyError: a method has no descriptor or no sound policy. All of them are named at once.
    """
    table: dict[str, Policy] = {}
    problems: list[str] = []
    for path in paths:
        if path in INFRASTRUCTURE:
            table[path] = INFRASTRUCTURE[path]
            continue
        try:
            table[path] = policy_of(_descriptor(path, pool or Default()))
        except PolicyError as error:
            problems.append(str(error))
    if problems:
        raise PolicyError("methods without a sound policy: " + "; ".join(sorted(problems)))
    return MappingProxyType(table)


def _descriptor(path: str, pool: DescriptorPool) -> MethodDescriptor:
    service_name, _, method_name = path.removeprefix("/").partition("/")
    try:
        service: ServiceDescriptor = pool.FindServiceByName(service_name)
        return service.methods_by_name[method_name]
    except KeyError:
        raise PolicyError(f"{path}: no descriptor") from None
