"""What is known about credentials and their users, cached for so short a time that a revocation is never late.

A fact is at most `FRESH_S` old, however it travelled: two caches, each of a second, stand between the database and an
answer, and the edge keeps an answer for two more. So a credential that was revoked is refused everywhere within
5 seconds even when every message about it is lost; when none is lost, at once.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, TypeVar

from services.auth import facts
from services.auth.credentials import Presented
from services.auth.facts import VERSION, CredentialFacts
from services.auth.model import (
    ApiKey,
    ApiKeyId,
    Grant,
    Organization,
    OrganizationId,
    Session,
    SessionId,
    SessionKind,
    User,
    UserId,
)
from services.auth.scopes import ALL_SCOPES, ROLE_SCOPES
from services.auth.store import Store
from services.mesh.clock import Clock
from services.mesh.errors import CredentialsInvalid

FRESH_S: Final = 2.0
"""Age that a cached fact can reach: one second in Valkey, and then one in the memory of a replica."""

T = TypeVar("T")


class FactCache(Protocol):
    """Remembers texts for a moment, for all replicas."""

    async def get(self, name: str, load: Callable[[], Awaitable[str | None]]) -> str | None:
        """The text called `name`, at most `FRESH_S` old, or what `load` returns."""
        ...

    async def forget(self, names: Sequence[str]) -> None:
        """Makes every replica load these again. Never fails: what it cannot reach forgets by itself."""
        ...


@dataclass(frozen=True, slots=True)
class Holder:
    """A good credential, and the user whose it is."""

    credential: CredentialFacts
    user: User

    def grant(self, *, limit: frozenset[str] = ALL_SCOPES) -> Grant:
        """What the credential may do now: never more than the user may, however much it was once given."""
        return Grant(
            organization_id=self.user.organization_id,
            user_id=self.user.id,
            credential_id=self.credential.id,
            scopes=self.credential.scopes & ROLE_SCOPES[self.user.role] & limit,
        )


class Principals:
    """Looks up credentials and users through the cache."""

    def __init__(self, store: Store, cache: FactCache, clock: Clock) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock

    async def of_api_key(self, presented: Presented) -> Holder:
        """Who presents this API key.

        Raises:
            CredentialsInvalid: unknown, expired or revoked, or its user is disabled.
        """
        return await self._holder(_secret_name(presented.secret_hash), lambda: self._load_api_key(presented))

    async def of_session_token(self, presented: Presented) -> Holder:
        """Who presents this session token.

        Raises:
            CredentialsInvalid: unknown, expired or ended, or its user is disabled.
        """
        return await self._holder(_secret_name(presented.secret_hash), lambda: self._load_cookie(presented))

    async def of_session(self, session_id: SessionId) -> Holder:
        """Whose session this is; for access tokens, whose signature has been verified.

        Raises:
            CredentialsInvalid: expired or ended, or its user is disabled.
        """
        return await self._holder(_session_name(session_id), lambda: self._load_session(session_id))

    async def user(self, organization_id: OrganizationId, user_id: UserId) -> User | None:
        """The user, if it is of this organization."""
        name = _user_name(organization_id, user_id)
        text = await self._cache.get(name, lambda: self._load_user(organization_id, user_id))
        return None if text is None else facts.user_of(text)

    async def organization(self, organization_id: OrganizationId) -> Organization | None:
        """The organization."""
        text = await self._cache.get(
            _organization_name(organization_id), lambda: self._load_organization(organization_id)
        )
        return None if text is None else facts.organization_of(text)

    async def forget_user(self, user: User) -> None:
        """The user has changed."""
        await self._cache.forget([_user_name(user.organization_id, user.id)])

    async def forget_organization(self, organization_id: OrganizationId) -> None:
        """The organization has changed."""
        await self._cache.forget([_organization_name(organization_id)])

    async def forget_sessions(self, sessions: Sequence[Session]) -> None:
        """The sessions have ended."""
        names = [
            name for session in sessions for name in (_session_name(session.id), _secret_name(session.secret_hash))
        ]
        if names:
            await self._cache.forget(names)

    async def forget_api_key(self, key: ApiKey) -> None:
        """The key has been revoked."""
        await self._cache.forget([_secret_name(key.secret_hash)])

    async def _holder(self, name: str, load: Callable[[], Awaitable[str | None]]) -> Holder:
        text = await self._cache.get(name, load)
        credential = None if text is None else facts.credential_of(text)
        if credential is None or not credential.is_live(self._clock.now()):
            raise CredentialsInvalid
        user = await self.user(credential.organization_id, credential.user_id)
        if user is None or user.disabled:
            raise CredentialsInvalid
        return Holder(credential, user)

    async def _load_api_key(self, presented: Presented) -> str | None:
        key = await self._store.find_api_key(ApiKeyId(presented.id))
        if key is None or not presented.is_of(key.secret_hash) or not key.is_live(self._clock.now()):
            return None
        return facts.text_of_credential(
            CredentialFacts(
                id=key.id,
                organization_id=key.organization_id,
                user_id=key.user_id,
                scopes=key.scopes,
                expires_at=key.expires_at,
            )
        )

    async def _load_cookie(self, presented: Presented) -> str | None:
        session = await self._store.find_session(SessionId(presented.id))
        if session is None or session.kind is not SessionKind.COOKIE or not presented.is_of(session.secret_hash):
            return None
        return _text_of_session(session, self._clock.now())

    async def _load_session(self, session_id: SessionId) -> str | None:
        session = await self._store.find_session(session_id)
        if session is None or session.kind is not SessionKind.TOKENS:
            return None
        return _text_of_session(session, self._clock.now())

    async def _load_user(self, organization_id: OrganizationId, user_id: UserId) -> str | None:
        user = await self._store.get_user(organization_id, user_id)
        return None if user is None else facts.text_of_user(user)

    async def _load_organization(self, organization_id: OrganizationId) -> str | None:
        organization = await self._store.get_organization(organization_id)
        return None if organization is None else facts.text_of_organization(organization)


def _text_of_session(session: Session, now: datetime) -> str | None:
    if not session.is_live(now):
        return None
    return facts.text_of_credential(
        CredentialFacts(
            id=session.id,
            organization_id=session.organization_id,
            user_id=session.user_id,
            scopes=ALL_SCOPES,
            expires_at=min(session.idle_expires_at, session.expires_at),
        )
    )


def _secret_name(secret_hash: bytes) -> str:
    return f"{VERSION}:secret:{secret_hash.hex()}"


def _session_name(session_id: SessionId) -> str:
    return f"{VERSION}:session:{session_id}"


def _user_name(organization_id: OrganizationId, user_id: UserId) -> str:
    # Both ids: under the user's alone, a question from a wrong organization would be remembered as "no such user".
    return f"{VERSION}:user:{organization_id}:{user_id}"


def _organization_name(organization_id: OrganizationId) -> str:
    return f"{VERSION}:organization:{organization_id}"
