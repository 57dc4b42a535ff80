"""API keys: made by their user, shown once, good for no more than they were given and their user may now."""

from dataclasses import dataclass
from datetime import datetime

from services.auth import credentials
from services.auth.credentials import Kind
from services.auth.model import Action, ApiKey, ApiKeyId, Caller, Cursor, OrganizationId, UserId
from services.auth.principals import Principals
from services.auth.scopes import ALL_SCOPES, require_all
from services.auth.store import API_KEYS_PER_USER_MAX, Store, TooManyKeysError
from services.auth.texts import checked_name
from services.mesh.clock import Clock
from services.mesh.errors import FieldViolation, NotFound, QuotaExhausted, invalid_field
from services.mesh.ids import is_id, new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What a key is to be; it holds all scopes of the calling credential when it names none."""

    display_name: str
    scopes: frozenset[str]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, repr=False)
class MintedKey:
    """A key and its secret, which is shown this once and kept nowhere."""

    key: ApiKey
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeys:
    """The use cases and what they work with."""

    store: Store
    principals: Principals
    clock: Clock

    async def create(self, caller: Caller, wanted: NewKey) -> MintedKey:
        """Makes a key for the caller.

        Raises:
            InvalidArgument: the name or a scope is malformed, or the end is not ahead.
            ScopeMissing: a scope that the calling credential itself does not hold.
            QuotaExhausted: the user has as many live keys as are allowed.
        """
        display_name = checked_name("display_name", wanted.display_name)
        now = self.clock.now()
        for scope in sorted(wanted.scopes - ALL_SCOPES):
            raise invalid_field("scopes", f"there is no scope {scope[:64]!r}")
        require_all(caller.scopes, wanted.scopes)
        if wanted.expires_at is not None and wanted.expires_at <= now:
            raise invalid_field("expire_time", "must be in the future")
        minted = mint_key(
            organization_id=caller.organization_id,
            user_id=caller.user_id,
            display_name=display_name,
            scopes=wanted.scopes or caller.scopes,
            created_at=now,
            expires_at=wanted.expires_at,
        )
        try:
            await self.store.create_api_key(minted.key, caller.event(Action.API_KEY_CREATED, minted.key.id, now))
        except TooManyKeysError:
            raise QuotaExhausted(
                f"a user has at most {API_KEYS_PER_USER_MAX} live API keys; revoke one first",
                fields=[FieldViolation("api_keys", f"{API_KEYS_PER_USER_MAX} live keys")],
            ) from None
        return minted

    async def get(self, caller: Caller, key_id: str) -> ApiKey:
        """A key of the caller.

        Raises:
            NotFound: it is not the caller's, or does not exist.
        """
        key = await self.store.get_api_key(caller.organization_id, caller.user_id, _checked(key_id))
        if key is None:
            raise NotFound.of("api_key")
        return key

    async def list(self, caller: Caller, *, before: Cursor | None, limit: int) -> list[ApiKey]:
        """Keys of the caller, newest first, revoked ones included."""
        return await self.store.list_api_keys(caller.organization_id, caller.user_id, before=before, limit=limit)

    async def revoke(self, caller: Caller, key_id: str) -> ApiKey:
        """Ends a key; ending it again changes nothing.

        Raises:
            NotFound: it is not the caller's, or does not exist.
        """
        event = caller.event(Action.API_KEY_REVOKED, key_id, self.clock.now())
        key = await self.store.revoke_api_key(caller.organization_id, caller.user_id, _checked(key_id), event)
        if key is None:
            raise NotFound.of("api_key")
        await self.principals.forget_api_key(key)
        return key


def mint_key(
    *,
    organization_id: OrganizationId,
    user_id: UserId,
    display_name: str,
    scopes: frozenset[str],
    created_at: datetime,
    expires_at: datetime | None = None,
) -> MintedKey:
    """A key that is not stored yet."""
    key_id = ApiKeyId(new_id("key"))
    secret = credentials.new_secret(Kind.API_KEY, key_id)
    key = ApiKey(
        id=key_id,
        organization_id=organization_id,
        user_id=user_id,
        display_name=display_name,
        hint=credentials.hint_of(secret),
        secret_hash=credentials.hash_of(secret),
        scopes=scopes,
        created_at=created_at,
        expires_at=expires_at,
    )
    return MintedKey(key, secret)


def _checked(key_id: str) -> ApiKeyId:
    if not is_id("key", key_id):
        raise NotFound.of("api_key")
    return ApiKeyId(key_id)
