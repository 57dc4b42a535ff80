"""What auth needs of its database: one Protocol per noun, all of them one `Store`.

Each method is one transaction; a change and its audit event are committed together. Reads on behalf of a tenant take
the organization first; reads without one look up a credential, whose organization is what they are to find out.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.auth.model import (
    Account,
    ApiKey,
    ApiKeyId,
    AuditEvent,
    Cursor,
    Organization,
    OrganizationId,
    RequestKey,
    Rotation,
    Session,
    SessionId,
    SigningKeyRecord,
    User,
    UserChange,
    UserId,
)

SESSIONS_PER_USER_MAX = 100
"""The oldest live session ends when a login passes this: nobody has so many devices, but a script may."""
API_KEYS_PER_USER_MAX = 200
"""Live keys; a program that makes a key per run is stopped before the list is of no use to a person."""


class LastOwnerError(Exception):
    """The change would leave the organization without an enabled owner."""


class TooManyKeysError(Exception):
    """The user has as many live keys as are allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Founding:
    """A new organization with its first owner, and with a first key where there is one to be.

    Attributes:
        is_first: whether this is the organization that the installation began with; there is one at most.
    """

    organization: Organization
    owner: Account
    api_key: ApiKey | None = None
    is_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """A refresh token that was presented, and what shall follow it if it is good."""

    session_id: SessionId
    presented_hash: bytes
    successor_hash: bytes
    at: datetime
    grace: timedelta
    idle_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Rotated:
    """What became of a refresh; session and user are set unless it was REFUSED for want of them."""

    outcome: Rotation
    session: Session | None = None
    user: User | None = None


class AccountStore(Protocol):
    """Organizations and users."""

    async def create_organization(self, founding: Founding, events: Sequence[AuditEvent]) -> None:
        """Stores an organization and its owner.

        Raises:
            AlreadyExists: the owner's address is taken, or there is a first organization already.
        """
        ...

    async def first_organization(self) -> Organization | None:
        """The organization that the installation began with."""
        ...

    async def get_organization(self, organization_id: OrganizationId) -> Organization | None:
        """The organization."""
        ...

    async def rename_organization(
        self, organization_id: OrganizationId, display_name: str, event: AuditEvent
    ) -> Organization | None:
        """The organization with its new name."""
        ...

    async def create_user(self, account: Account, request: RequestKey | None, event: AuditEvent) -> User:
        """Stores a user; the one that the same request made before is returned instead.

        Raises:
            AlreadyExists: the address is taken.
            IdempotencyMismatch: the request id was used with another body.
        """
        ...

    async def find_user_of_request(self, request: RequestKey) -> User | None:
        """The user that the same request made before.

        Raises:
            IdempotencyMismatch: the request id was used with another body.
        """
        ...

    async def get_user(self, organization_id: OrganizationId, user_id: UserId) -> User | None:
        """The user, if it is of this organization."""
        ...

    async def list_users(self, organization_id: OrganizationId, *, after: Cursor | None, limit: int) -> list[User]:
        """Users of the organization, oldest first."""
        ...

    async def update_user(self, user: User, change: UserChange, event: AuditEvent) -> tuple[User, list[Session]] | None:
        """The changed user and the sessions that ended by it: disabling a user ends all of theirs.

        None when the user has another role by now than `user` has: the caller looks again.

        Raises:
            LastOwnerError: the organization would be left without an enabled owner; nothing is changed.
        """
        ...

    async def find_account(self, email: str) -> Account | None:
        """The account with this canonical address."""
        ...

    async def get_account(self, organization_id: OrganizationId, user_id: UserId) -> Account | None:
        """The account of a user of this organization."""
        ...

    async def find_owner(self, organization_id: OrganizationId) -> Account | None:
        """The oldest owner of the organization who is not disabled."""
        ...

    async def reset_account(
        self, account: Account, password_hash: str, key: ApiKey, events: Sequence[AuditEvent]
    ) -> bool:
        """Stores a new password and a new key, ends all sessions of the user, and revokes keys of the new key's name.

        False, and nothing is done, when the password was changed meanwhile.
        """
        ...

    async def replace_hash(self, account: Account, password_hash: str) -> None:
        """Stores the same password at another cost, unless the password was changed meanwhile."""
        ...

    async def set_password(
        self, account: Account, password_hash: str, *, keep: SessionId | None, event: AuditEvent
    ) -> list[Session] | None:
        """Stores a new password and ends all of the user's sessions but `keep`; the ended ones are returned.

        None when the stored hash is no longer the one of `account`: somebody else changed the password meanwhile.
        """
        ...


class SessionStore(Protocol):
    """Sessions and their refresh tokens."""

    async def create_session(self, session: Session, event: AuditEvent) -> list[Session]:
        """Stores a session; the oldest live ones beyond the maximum end and are returned."""
        ...

    async def find_session(self, session_id: SessionId) -> Session | None:
        """The session."""
        ...

    async def refresh(self, refresh: Refresh, request_id: str) -> Rotated:
        """Trades a refresh token: decides and acts under one lock on the session's row."""
        ...

    async def find_session_of(self, session_id: SessionId, secret_hash: bytes) -> Session | None:
        """The session, if the secret is its session token or any refresh token of its family."""
        ...

    async def end_session(self, session: Session, event: AuditEvent) -> bool:
        """Ends a session; false when it had ended before."""
        ...

    async def end_all_sessions(self, at: datetime) -> int:
        """Ends the sessions of everybody; how many had not ended before. For an operator, not for a caller."""
        ...

    async def touch_sessions(self, idle_ends: Mapping[SessionId, datetime]) -> None:
        """Moves the idle ends of sessions forward, never back."""
        ...

    async def forget_sessions(self, ended_before: datetime, limit: int) -> int:
        """Deletes up to `limit` sessions that ended or expired before an instant; how many there were."""
        ...


class ApiKeyStore(Protocol):
    """API keys."""

    async def create_api_key(self, key: ApiKey, event: AuditEvent) -> None:
        """Stores a key.

        Raises:
            TooManyKeysError: the user has the maximum of live keys.
        """
        ...

    async def find_api_key(self, key_id: ApiKeyId) -> ApiKey | None:
        """The key, whoever's it is: for a credential that was presented."""
        ...

    async def get_api_key(self, organization_id: OrganizationId, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None:
        """The key, if it is this user's."""
        ...

    async def list_api_keys(
        self, organization_id: OrganizationId, user_id: UserId, *, before: Cursor | None, limit: int
    ) -> list[ApiKey]:
        """Keys of the user, newest first."""
        ...

    async def revoke_api_key(
        self, organization_id: OrganizationId, user_id: UserId, key_id: ApiKeyId, event: AuditEvent
    ) -> ApiKey | None:
        """The revoked key; one that was revoked before keeps its instant."""
        ...

    async def touch_api_keys(self, used: Mapping[ApiKeyId, datetime]) -> None:
        """Moves `last_used_at` forward, never back."""
        ...


class SigningKeyStore(Protocol):
    """Keys that sign tokens."""

    async def signing_keys(self) -> list[SigningKeyRecord]:
        """All keys, in the order of their activation."""
        ...

    async def change_signing_keys(
        self, plan: Callable[[Sequence[SigningKeyRecord]], Sequence[SigningKeyRecord]]
    ) -> list[SigningKeyRecord]:
        """Replaces the set of keys by what `plan` makes of it; one replica at a time. Returns the new set."""
        ...


class AuditStore(Protocol):
    """The security log: rows are added and never changed."""

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Adds events that go with no other change."""
        ...

    async def list_events(self, organization_id: OrganizationId, *, limit: int) -> list[AuditEvent]:
        """The newest events of an organization, newest first."""
        ...


class Store(AccountStore, SessionStore, ApiKeyStore, SigningKeyStore, AuditStore, Protocol):
    """All of it."""

    def bootstrap_lock(self) -> AbstractAsyncContextManager[None]:
        """Held by one process at a time; freed when its holder dies."""
        ...
