import re
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from parley.common.v1 import error_reason_pb2
from services.mesh.errors import (
    ERROR_BY_REASON,
    HTTP_STATUS,
    CallerForbidden,
    CredentialsInvalid,
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    Overloaded,
    QuotaExhausted,
    Reason,
    Unavailable,
    Unimplemented,
)
from services.mesh.status import (
    FIELDS_MAX,
    INTERNAL_TEXT,
    TEXT_LENGTH_MAX,
    from_rpc_error,
    from_status,
    public,
    to_status,
    to_wire,
)

PROTO = Path(__file__).parents[3] / "proto/parley/common/v1/error_reason.proto"
PREFIX = "ERROR_REASON_"
ALL = sorted(ERROR_BY_REASON.values(), key=lambda error: error.reason)


def rpc_error(error: MeshError) -> grpc.aio.AioRpcError:
    """What a client gets of a server that raised `error`."""
    wire = to_wire(error)
    return grpc.aio.AioRpcError(
        wire.code, grpc.aio.Metadata(), grpc.aio.Metadata(*wire.trailing_metadata), wire.details
    )


def test_reasons_are_those_of_the_contract() -> None:
    declared = {name.removeprefix(PREFIX) for name, _ in error_reason_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
    assert {reason.value for reason in Reason} == declared
    assert set(ERROR_BY_REASON) == set(Reason)


def test_codes_and_http_statuses_are_those_that_the_contract_documents() -> None:
    documented = re.findall(rf"// {PREFIX}(\w+) \((\w+), HTTP (\d+)\)", PROTO.read_text("utf-8"))
    assert {name: (code, int(status)) for name, code, status in documented} == {
        reason.value: (error.code.value, HTTP_STATUS[reason]) for reason, error in ERROR_BY_REASON.items()
    }
    assert set(HTTP_STATUS) == set(Reason)


@pytest.mark.parametrize("kind", ALL)
def test_every_error_survives_the_wire(kind: type[MeshError]) -> None:
    sent = kind(
        "what to do about it",
        metadata={"model": "a/b"},
        fields=[FieldViolation("parts[0].text", "must not be empty")],
        retry_after_s=1.5,
    )
    received = from_rpc_error(rpc_error(sent))
    assert type(received) is kind
    assert received.fields == sent.fields
    assert received.retry_after_s == 1.5
    if kind is Internal:
        assert (received.message, dict(received.metadata)) == (INTERNAL_TEXT, {})
    else:
        assert (received.message, dict(received.metadata)) == ("what to do about it", {"model": "a/b"})


@pytest.mark.parametrize("kind", ALL)
def test_error_without_a_message_says_its_reason(kind: type[MeshError]) -> None:
    assert kind().message == kind.reason.replace("_", " ").lower()


def test_details_are_those_of_google_rpc() -> None:
    status = to_status(InvalidArgument("bad", fields=[FieldViolation("email", "must hold an @")], retry_after_s=2))
    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    assert [detail.Unpack(kind) for detail, kind in zip(status.details, (info, request, retry), strict=True)] == [
        True
    ] * 3
    assert (info.reason, info.domain) == ("INVALID_ARGUMENT", "parley")
    assert request.field_violations[0].field == "email"
    assert retry.retry_delay.seconds == 2


def test_spent_quota_is_a_quota_failure() -> None:
    status = to_status(QuotaExhausted("spent", fields=[FieldViolation("organization:tokens", "1000 per day")]))
    failure = error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(failure) for detail in status.details)
    assert failure.violations[0].subject == "organization:tokens"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNKNOWN, Internal),
        (grpc.StatusCode.DATA_LOSS, Internal),
        (grpc.StatusCode.NOT_FOUND, Internal),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNIMPLEMENTED, Unimplemented),
        (grpc.StatusCode.UNAUTHENTICATED, CredentialsInvalid),
        (grpc.StatusCode.PERMISSION_DENIED, CallerForbidden),
    ],
)
def test_foreign_status_keeps_its_meaning_and_loses_its_text(code: grpc.StatusCode, kind: type[MeshError]) -> None:
    foreign = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "dsn=postgresql://hunter2")
    received = from_rpc_error(foreign)
    assert type(received) is kind
    assert "hunter2" not in repr(received)


@pytest.mark.parametrize("details", [b"", b"\xff\xff\xff", b"not a status"])
def test_garbled_details_are_foreign(details: bytes) -> None:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", details))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), metadata, "x")
    assert type(from_rpc_error(error)) is Internal


@pytest.mark.parametrize(("domain", "reason"), [("example.com", "NOT_FOUND"), ("parley", "FROM_NEXT_YEAR")])
def test_reason_of_another_domain_or_a_newer_server_is_read_by_its_code(domain: str, reason: str) -> None:
    status = status_pb2.Status(code=14, message="secret")
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(domain=domain, reason=reason))
    status.details.append(detail)
    received = from_status(status)
    assert type(received) is Unavailable
    assert "secret" not in received.message


def test_details_of_another_code_than_the_calls_are_not_believed() -> None:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", to_status(NotFound.of("x")).SerializeToString()))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), metadata, "x")
    assert type(from_rpc_error(error)) is Unavailable


@pytest.mark.parametrize("count", [FIELDS_MAX - 1, FIELDS_MAX, FIELDS_MAX + 1])
def test_fields_and_texts_are_bounded_so_that_trailers_stay_small(count: int) -> None:
    error = InvalidArgument(
        "m" * 9_000, fields=[FieldViolation("f" * 9_000, "d") for _ in range(count)], metadata={"k": "v" * 9_000}
    )
    received = from_rpc_error(rpc_error(error))
    assert len(received.fields) == min(count, FIELDS_MAX)
    assert max(len(received.message), len(received.fields[0].field), len(received.metadata["k"])) == TEXT_LENGTH_MAX


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("hunter2"), Internal),
        (KeyError("hunter2"), Internal),
        (TimeoutError("hunter2"), DeadlineExceeded),
        (NotFound.of("conversation"), NotFound),
        (rpc_error(NotFound.of("conversation")), NotFound),
    ],
)
def test_public_error_of_any_exception(error: Exception, kind: type[MeshError]) -> None:
    shown = public(error)
    assert type(shown) is kind
    assert "hunter2" not in repr(shown)


@pytest.mark.parametrize(
    ("error", "pushback"),
    [
        (Unavailable(), None),
        (Unavailable(retry_after_s=0.0), "1"),
        (Unavailable(retry_after_s=1.0), "1000"),
        (Unavailable(retry_after_s=60.0), "-1"),
        (Overloaded(), "-1"),
        (ERROR_BY_REASON[Reason.PROVIDER_UNAVAILABLE](), "-1"),
        (NotFound(), None),
    ],
)
def test_grpcs_own_retries_are_told_when_a_repeat_does_harm(error: MeshError, pushback: str | None) -> None:
    assert dict(to_wire(error).trailing_metadata).get("grpc-retry-pushback-ms") == pushback
