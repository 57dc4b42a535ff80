"""The errors that may reach a client, in pure Python: use cases raise them, `status.py` puts them on the wire.

Must not know gRPC: `Code` repeats the names of the canonical codes so that domain code stays free of the transport.
"""

# ruff: noqa: N818 - the names are those of the ErrorReason contract; `raise NotFound(...)` needs no suffix to be read.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final, Self

from services.mesh.reasons import Code as Code  # noqa: PLC0414 - exported again: errors and their reasons go together
from services.mesh.reasons import Reason as Reason  # noqa: PLC0414 - as above


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field.

    Attributes:
        field: path of the field as the caller wrote it, such as `parts[0].text`; for a spent quota, its subject.
        description: what would be right, without a stop.
    """

    field: str
    description: str


class MeshError(Exception):
    """An error that a client may see. Raise a subclass, `from` the cause where there is one.

    Args:
        message: helps the reader act, ends without a stop, quotes values with `!r`, holds no secret and no internals.
            Without one it is the reason in words.
        metadata: the keys that the ErrorReason contract names for this reason.
        fields: the fields at fault, or the budgets that are spent for `QuotaExhausted`.
        retry_after_s: seconds after which a repeat makes sense.
    """

    reason: ClassVar[Reason] = Reason.INTERNAL
    code: ClassVar[Code] = Code.INTERNAL

    def __init__(
        self,
        message: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        fields: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        self.message = message or self.reason.replace("_", " ").lower()
        super().__init__(self.message)
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata or {}))
        self.fields = tuple(fields)
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, metadata={dict(self.metadata)!r})"


class InvalidArgument(MeshError):
    """A field is malformed, unknown, missing or out of bounds."""

    reason = Reason.INVALID_ARGUMENT
    code = Code.INVALID_ARGUMENT


class NotFound(MeshError):
    """The resource does not exist, or belongs to someone else: the two are never told apart."""

    reason = Reason.NOT_FOUND
    code = Code.NOT_FOUND

    @classmethod
    def of(cls, resource: str) -> Self:
        """The one answer for a foreign and for a random id of `resource`, for example `conversation`."""
        return cls(f"no such {resource}", metadata={"resource": resource})


class AlreadyExists(MeshError):
    """A unique value is taken."""

    reason = Reason.ALREADY_EXISTS
    code = Code.ALREADY_EXISTS


class IdempotencyMismatch(MeshError):
    """The request id was used before with another body."""

    reason = Reason.IDEMPOTENCY_MISMATCH
    code = Code.FAILED_PRECONDITION


class EtagMismatch(MeshError):
    """The resource changed since it was read."""

    reason = Reason.ETAG_MISMATCH
    code = Code.ABORTED


class TurnAlreadyRunning(MeshError):
    """The conversation has a turn that has not ended."""

    reason = Reason.TURN_ALREADY_RUNNING
    code = Code.FAILED_PRECONDITION


class ContextLengthExceeded(MeshError):
    """The prompt does not fit the model."""

    reason = Reason.CONTEXT_LENGTH_EXCEEDED
    code = Code.INVALID_ARGUMENT


class QuotaExhausted(MeshError):
    """A budget is spent."""

    reason = Reason.QUOTA_EXHAUSTED
    code = Code.RESOURCE_EXHAUSTED


class RateLimited(MeshError):
    """Too many calls."""

    reason = Reason.RATE_LIMITED
    code = Code.RESOURCE_EXHAUSTED


class Overloaded(MeshError):
    """A bounded queue is full."""

    reason = Reason.OVERLOADED
    code = Code.UNAVAILABLE


class ProviderUnavailable(MeshError):
    """No provider could answer."""

    reason = Reason.PROVIDER_UNAVAILABLE
    code = Code.UNAVAILABLE


class ProviderTimeout(MeshError):
    """The provider did not answer in time."""

    reason = Reason.PROVIDER_TIMEOUT
    code = Code.DEADLINE_EXCEEDED


class ProviderRejected(MeshError):
    """The provider refused the request."""

    reason = Reason.PROVIDER_REJECTED
    code = Code.FAILED_PRECONDITION


class ProviderMisconfigured(MeshError):
    """The provider refuses the operator's key, or the operator's account there is spent."""

    reason = Reason.PROVIDER_MISCONFIGURED
    code = Code.FAILED_PRECONDITION


class ModelUnpriced(MeshError):
    """A budget limits money, and nobody knows what the model costs."""

    reason = Reason.MODEL_UNPRICED
    code = Code.PERMISSION_DENIED


class ModelUnknown(MeshError):
    """No configured provider serves the model."""

    reason = Reason.MODEL_UNKNOWN
    code = Code.NOT_FOUND


class ContentFiltered(MeshError):
    """The provider's content filter stopped the answer."""

    reason = Reason.CONTENT_FILTERED
    code = Code.FAILED_PRECONDITION


class RetrievalUnavailable(MeshError):
    """The knowledge base cannot be searched now."""

    reason = Reason.RETRIEVAL_UNAVAILABLE
    code = Code.UNAVAILABLE


class DocumentUnsupported(MeshError):
    """The content is of no supported type."""

    reason = Reason.DOCUMENT_UNSUPPORTED
    code = Code.INVALID_ARGUMENT


class DocumentTooLarge(MeshError):
    """The file, its text or its page count passes the limit."""

    reason = Reason.DOCUMENT_TOO_LARGE
    code = Code.INVALID_ARGUMENT


class DocumentEncrypted(MeshError):
    """The file needs a password."""

    reason = Reason.DOCUMENT_ENCRYPTED
    code = Code.INVALID_ARGUMENT


class DocumentUnreadable(MeshError):
    """The file is damaged, hostile or holds no text."""

    reason = Reason.DOCUMENT_UNREADABLE
    code = Code.INVALID_ARGUMENT


class CredentialsInvalid(MeshError):
    """The credential is missing, malformed, expired or revoked; which of them is not told."""

    reason = Reason.CREDENTIALS_INVALID
    code = Code.UNAUTHENTICATED


class CredentialsAmbiguous(MeshError):
    """More than one credential was sent."""

    reason = Reason.CREDENTIALS_AMBIGUOUS
    code = Code.INVALID_ARGUMENT


class ScopeMissing(MeshError):
    """The credential is good but lacks a scope."""

    reason = Reason.SCOPE_MISSING
    code = Code.PERMISSION_DENIED


class CallerForbidden(MeshError):
    """The method is open to other workloads only."""

    reason = Reason.CALLER_FORBIDDEN
    code = Code.PERMISSION_DENIED


class OriginForbidden(MeshError):
    """A session cookie came with a request that changes something from another site."""

    reason = Reason.ORIGIN_FORBIDDEN
    code = Code.PERMISSION_DENIED


class RegistrationClosed(MeshError):
    """The operator does not let people register themselves."""

    reason = Reason.REGISTRATION_CLOSED
    code = Code.PERMISSION_DENIED


class RequestTooLarge(MeshError):
    """The body passes the limit."""

    reason = Reason.REQUEST_TOO_LARGE
    code = Code.RESOURCE_EXHAUSTED


class MethodNotAllowed(MeshError):
    """The path exists, the verb does not."""

    reason = Reason.METHOD_NOT_ALLOWED
    code = Code.UNIMPLEMENTED


class Unimplemented(MeshError):
    """This server does not offer the capability."""

    reason = Reason.UNIMPLEMENTED
    code = Code.UNIMPLEMENTED


LEAVING: Final = "leaving"
"""Key in the metadata of `Unavailable` where a process is about to end: nothing failed, and others answer."""


class Unavailable(MeshError):
    """A service or its database cannot be reached now; try again."""

    reason = Reason.UNAVAILABLE
    code = Code.UNAVAILABLE


class DeadlineExceeded(MeshError):
    """The call did not end in its time."""

    reason = Reason.DEADLINE_EXCEEDED
    code = Code.DEADLINE_EXCEEDED


class Cancelled(MeshError):
    """The caller left."""

    reason = Reason.CANCELLED
    code = Code.CANCELLED


class Internal(MeshError):
    """A bug of ours; the request id finds it in the log."""

    reason = Reason.INTERNAL
    code = Code.INTERNAL


def invalid_field(field: str, description: str) -> InvalidArgument:
    """InvalidArgument about one field; its message names the field and says what would be right."""
    return InvalidArgument(f"{field}: {description}", fields=[FieldViolation(field, description)])


ERROR_BY_REASON: Final[Mapping[Reason, type[MeshError]]] = MappingProxyType(
    {error.reason: error for error in MeshError.__subclasses__()}
)

# One table for every HTTP surface; nginx's 499 is the only status here that no RFC defines.
HTTP_STATUS: Final[Mapping[Reason, int]] = MappingProxyType(
    {
        Reason.INVALID_ARGUMENT: 400,
        Reason.NOT_FOUND: 404,
        Reason.ALREADY_EXISTS: 409,
        Reason.IDEMPOTENCY_MISMATCH: 409,
        Reason.ETAG_MISMATCH: 412,
        Reason.TURN_ALREADY_RUNNING: 409,
        Reason.CONTEXT_LENGTH_EXCEEDED: 400,
        Reason.QUOTA_EXHAUSTED: 429,
        Reason.RATE_LIMITED: 429,
        Reason.OVERLOADED: 503,
        Reason.PROVIDER_UNAVAILABLE: 503,
        Reason.PROVIDER_TIMEOUT: 504,
        Reason.PROVIDER_REJECTED: 400,
        Reason.PROVIDER_MISCONFIGURED: 503,
        Reason.MODEL_UNPRICED: 403,
        Reason.MODEL_UNKNOWN: 404,
        Reason.CONTENT_FILTERED: 400,
        Reason.RETRIEVAL_UNAVAILABLE: 503,
        Reason.DOCUMENT_UNSUPPORTED: 415,
        Reason.DOCUMENT_TOO_LARGE: 413,
        Reason.DOCUMENT_ENCRYPTED: 422,
        Reason.DOCUMENT_UNREADABLE: 422,
        Reason.CREDENTIALS_INVALID: 401,
        Reason.CREDENTIALS_AMBIGUOUS: 400,
        Reason.SCOPE_MISSING: 403,
        Reason.CALLER_FORBIDDEN: 403,
        Reason.REGISTRATION_CLOSED: 403,
        Reason.ORIGIN_FORBIDDEN: 403,
        Reason.REQUEST_TOO_LARGE: 413,
        Reason.METHOD_NOT_ALLOWED: 405,
        Reason.UNIMPLEMENTED: 501,
        Reason.UNAVAILABLE: 503,
        Reason.DEADLINE_EXCEEDED: 504,
        Reason.CANCELLED: 499,
        Reason.INTERNAL: 500,
    }
)
