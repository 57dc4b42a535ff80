"""People, their organizations and their credentials, as the rest of auth speaks of them."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Final, NewType

OrganizationId = NewType("OrganizationId", str)
UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)
ApiKeyId = NewType("ApiKeyId", str)

EMAIL_LENGTH_MAX: Final = 254
"""RFC 5321 section 4.5.3.1.3, less the angle brackets."""
DISPLAY_NAME_LENGTH_MAX: Final = 100
PASSWORD_LENGTH_MIN: Final = 8
PASSWORD_LENGTH_MAX: Final = 128


class Role(StrEnum):
    """A named set of scopes inside one organization; see `scopes.py`."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"


class SessionKind(StrEnum):
    """How a session is carried."""

    TOKENS = "tokens"
    COOKIE = "cookie"


class Action(StrEnum):
    """What the audit log records."""

    ORGANIZATION_CREATED = "organization.created"
    ORGANIZATION_UPDATED = "organization.updated"
    USER_CREATED = "user.created"
    USER_UPDATED = "user.updated"
    PASSWORD_CHANGED = "password.changed"  # noqa: S105 - a name of an event
    PASSWORD_RESET = "password.reset"  # noqa: S105 - a name of an event
    LOGIN_SUCCEEDED = "login.succeeded"
    LOGIN_FAILED = "login.failed"
    SESSION_ENDED = "session.ended"
    SESSION_REUSED = "session.reused"
    API_KEY_CREATED = "api_key.created"
    API_KEY_REVOKED = "api_key.revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A tenant: nothing crosses its border."""

    id: OrganizationId
    display_name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person with a login in exactly one organization."""

    id: UserId
    organization_id: OrganizationId
    email: str
    display_name: str
    role: Role
    disabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChange:
    """New values of a user; None leaves the old one."""

    display_name: str | None = None
    role: Role | None = None
    disabled: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user and what proves that a login is theirs."""

    user: User
    password_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One login and everything that descends from it.

    Attributes:
        secret_hash: SHA-256 of the session token (cookie) or of the newest refresh token (the head of the family).
        generation: how often the refresh token was traded; 0 after the login.
        rotated_at: when the head was issued; the parent may be repeated for some seconds after it.
        idle_expires_at: end without further use.
        expires_at: end whatever its use.
    """

    id: SessionId
    organization_id: OrganizationId
    user_id: UserId
    kind: SessionKind
    secret_hash: bytes
    generation: int
    created_at: datetime
    rotated_at: datetime
    idle_expires_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether credentials of the session are good at `now`."""
        return self.ended_at is None and now < self.idle_expires_at and now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """One refresh token of a session, as it is kept: hashed, with its place in the family."""

    session_id: SessionId
    generation: int
    secret_hash: bytes
    issued_at: datetime
    used_at: datetime | None = None


class Rotation(Enum):
    """What became of a refresh token that was presented."""

    ROTATED = "rotated"
    """It was the head; its successor is the head now."""
    REPEATED = "repeated"
    """It is the direct parent of an unused head, within the grace: its successor may be told again."""
    REUSED = "reused"
    """It was used before; the session has been ended by this."""
    REFUSED = "refused"
    """Unknown, expired, or of a session that had ended before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A long-lived credential of a user for programs; the secret itself is nowhere."""

    id: ApiKeyId
    organization_id: OrganizationId
    user_id: UserId
    display_name: str
    hint: str
    secret_hash: bytes
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether the key is good at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyRecord:
    """A key that signs tokens, as it is kept.

    Attributes:
        id: the RFC 7638 thumbprint of the public half.
        sealed: the private half, encrypted; see `sealing.py`.
        activates_at: when it begins to sign; it is published before that.
    """

    id: str
    sealed: bytes
    created_at: datetime
    activates_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One line of the security log. It holds ids only: no secret, no e-mail address, no text of a person."""

    organization_id: OrganizationId
    actor_id: str
    action: Action
    target_id: str
    at: datetime
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """What makes a creating request the same as one before it.

    Attributes:
        fingerprint: keyed hash of the body (see `sealing.py`); the body holds a password.
    """

    organization_id: OrganizationId
    user_id: UserId
    request_id: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call to auth itself, taken from the verified internal token."""

    organization_id: OrganizationId
    user_id: UserId
    scopes: frozenset[str]
    credential_id: str
    request_id: str = ""

    def event(self, action: Action, target_id: str, at: datetime) -> AuditEvent:
        """What the caller did, for the security log."""
        return AuditEvent(
            organization_id=self.organization_id,
            actor_id=self.user_id,
            action=action,
            target_id=target_id,
            at=at,
            request_id=self.request_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a good credential stands for: the holder, and what the credential may do now."""

    organization_id: OrganizationId
    user_id: UserId
    credential_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: creation time and id of its last item."""

    created_at: datetime
    id: str
