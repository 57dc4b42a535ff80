"""MeshError <-> google.rpc.Status, both ways; the only place where errors meet the wire.

Whatever is not a MeshError becomes `Internal` with a fixed text: an exception's own words may hold a DSN, a prompt or
a key, and grpc.aio would send them to the client.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import grpc
import grpc.aio
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.mesh.errors import (
    ERROR_BY_REASON,
    CallerForbidden,
    Code,
    CredentialsInvalid,
    DeadlineExceeded,
    FieldViolation,
    Internal,
    MeshError,
    Overloaded,
    QuotaExhausted,
    Reason,
    Unavailable,
    Unimplemented,
)

DOMAIN: Final = "parley"
INTERNAL_TEXT: Final = "internal error; the request id finds it in the log"
UNAVAILABLE_TEXT: Final = "a service cannot be reached now"
FIELDS_MAX: Final = 20
"""Trailing metadata above 8 KiB is refused at random; twenty violations are enough to act on."""
TEXT_LENGTH_MAX: Final = 512

_DETAILS_KEY: Final = "grpc-status-details-bin"
_PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
_PUSHBACK_MS_MAX: Final = 2_000


# What a status without our ErrorInfo means: gRPC's own, a proxy's, or another team's server.
_FOREIGN: Final[Mapping[grpc.StatusCode, type[MeshError]]] = MappingProxyType(
    {
        # A call that its caller cancelled raises asyncio.CancelledError instead. This one was dropped by its server,
        # unanswered, in shutting down.
        grpc.StatusCode.CANCELLED: Unavailable,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.UNAVAILABLE: Unavailable,
        grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
        grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
        grpc.StatusCode.UNAUTHENTICATED: CredentialsInvalid,
        grpc.StatusCode.PERMISSION_DENIED: CallerForbidden,
    }
)


@dataclass(frozen=True, slots=True)
class WireStatus(grpc.Status):
    """A status in the form that `ServicerContext.abort_with_status` takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def public(error: BaseException) -> MeshError:
    """The error that a client may see in place of `error`; foreign ones become `Internal`, gRPC's are translated."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded()
    return Internal()


def to_status(error: MeshError) -> status_pb2.Status:
    """The wire form of an error. `Internal` always says the same, whatever its message."""
    message = INTERNAL_TEXT if error.reason is Reason.INTERNAL else error.message[:TEXT_LENGTH_MAX]
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    metadata = {} if error.reason is Reason.INTERNAL else {k: v[:TEXT_LENGTH_MAX] for k, v in error.metadata.items()}
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.fields:
        status.details.add().Pack(_violations(error))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def to_wire(error: MeshError) -> WireStatus:
    """What the error interceptor hands to `abort_with_status`."""
    status = to_status(error)
    trailing: list[tuple[str, str | bytes]] = [(_DETAILS_KEY, status.SerializeToString())]
    pushback = _pushback(error)
    if pushback is not None:
        trailing.append((_PUSHBACK_KEY, pushback))
    return WireStatus(grpc.StatusCode[error.code], status.message, tuple(trailing))


def from_status(status: status_pb2.Status) -> MeshError:
    """The error behind a status: ours with all its details, a foreign one by its code, with a text of our own."""
    info = error_details_pb2.ErrorInfo()
    if not any(detail.Unpack(info) for detail in status.details) or info.domain != DOMAIN:
        return _foreign(status.code)
    try:
        kind = ERROR_BY_REASON[Reason(info.reason)]
    except ValueError:  # a newer server's reason
        return _foreign(status.code)
    return kind(
        status.message or None,
        metadata=info.metadata,
        fields=_fields(status),
        retry_after_s=_retry_after_s(status),
    )


def from_rpc_error(error: grpc.aio.AioRpcError) -> MeshError:
    """The error that a failed call means; the caller raises it `from` the RPC error, whose text goes to logs only."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                break
            if status.code == error.code().value[0]:
                return from_status(status)
    return _foreign(error.code().value[0])


def _foreign(code: int) -> MeshError:
    for known, kind in _FOREIGN.items():
        if known.value[0] == code:
            return kind(UNAVAILABLE_TEXT if kind is Unavailable else None)
    return Internal()


def _pushback(error: MeshError) -> str | None:
    """Tells gRPC's own retries what to do (proposal A6): they know codes only, and UNAVAILABLE has many reasons.

    A repeat within seconds helps where a process was away, and harms where a queue is full or a provider is down.
    None leaves the pause to the client. "0" must never be sent: gRPC 1.85 then neither repeats nor fails, and the call
    hangs until its deadline.
    """
    if error.code is not Code.UNAVAILABLE or (error.reason is Reason.UNAVAILABLE and error.retry_after_s is None):
        return None
    pushback_ms = max(1, int((error.retry_after_s or 0.0) * 1000))
    return str(pushback_ms) if error.reason is Reason.UNAVAILABLE and pushback_ms <= _PUSHBACK_MS_MAX else "-1"


def _violations(error: MeshError) -> error_details_pb2.BadRequest | error_details_pb2.QuotaFailure:
    fields = [(item.field[:TEXT_LENGTH_MAX], item.description[:TEXT_LENGTH_MAX]) for item in error.fields[:FIELDS_MAX]]
    if isinstance(error, QuotaExhausted):
        return error_details_pb2.QuotaFailure(
            violations=[
                error_details_pb2.QuotaFailure.Violation(subject=subject, description=description)
                for subject, description in fields
            ]
        )
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in fields
        ]
    )


def _fields(status: status_pb2.Status) -> list[FieldViolation]:
    request, quota = error_details_pb2.BadRequest(), error_details_pb2.QuotaFailure()
    for detail in status.details:
        if detail.Unpack(request):
            return [FieldViolation(item.field, item.description) for item in request.field_violations]
        if detail.Unpack(quota):
            return [FieldViolation(item.subject, item.description) for item in quota.violations]
    return []


def _retry_after_s(status: status_pb2.Status) -> float | None:
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            return retry.retry_delay.ToNanoseconds() / 1e9
    return None
