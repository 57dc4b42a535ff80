"""API keys and signing keys in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from services.auth.model import ApiKey, ApiKeyId, AuditEvent, Cursor, OrganizationId, SigningKeyRecord, UserId
from services.auth.store import API_KEYS_PER_USER_MAX, TooManyKeysError
from services.auth.store_memory.rows import MemoryAudit


class MemoryApiKeys(MemoryAudit):
    """Implements `store.ApiKeyStore`."""

    async def create_api_key(self, key: ApiKey, event: AuditEvent) -> None:
        """See `store.ApiKeyStore.create_api_key`."""
        own = [other for other in self._rows.api_keys.values() if other.user_id == key.user_id]
        if sum(other.is_live(key.created_at) for other in own) >= API_KEYS_PER_USER_MAX:
            raise TooManyKeysError
        self._rows.api_keys[key.id] = key
        self._rows.events.append(event)

    async def find_api_key(self, key_id: ApiKeyId) -> ApiKey | None:
        """See `store.ApiKeyStore.find_api_key`."""
        return self._rows.api_keys.get(key_id)

    async def get_api_key(self, organization_id: OrganizationId, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None:
        """See `store.ApiKeyStore.get_api_key`."""
        key = self._rows.api_keys.get(key_id)
        return key if key is not None and (key.organization_id, key.user_id) == (organization_id, user_id) else None

    async def list_api_keys(
        self, organization_id: OrganizationId, user_id: UserId, *, before: Cursor | None, limit: int
    ) -> list[ApiKey]:
        """See `store.ApiKeyStore.list_api_keys`."""
        own = sorted(
            (
                key
                for key in self._rows.api_keys.values()
                if (key.organization_id, key.user_id) == (organization_id, user_id)
            ),
            key=lambda key: (key.created_at, key.id),
            reverse=True,
        )
        if before is not None:
            own = [key for key in own if (key.created_at, key.id) < (before.created_at, before.id)]
        return own[:limit]

    async def revoke_api_key(
        self, organization_id: OrganizationId, user_id: UserId, key_id: ApiKeyId, event: AuditEvent
    ) -> ApiKey | None:
        """See `store.ApiKeyStore.revoke_api_key`."""
        key = await self.get_api_key(organization_id, user_id, key_id)
        if key is None:
            return None
        self._rows.api_keys[key_id] = replace(key, revoked_at=key.revoked_at or event.at)
        self._rows.events.append(event)
        return self._rows.api_keys[key_id]

    async def touch_api_keys(self, used: Mapping[ApiKeyId, datetime]) -> None:
        """See `store.ApiKeyStore.touch_api_keys`."""
        for key_id, at in used.items():
            key = self._rows.api_keys.get(key_id)
            if key is not None:
                self._rows.api_keys[key_id] = replace(key, last_used_at=max(key.last_used_at or at, at))


class MemorySigningKeys(MemoryAudit):
    """Implements `store.SigningKeyStore`."""

    async def signing_keys(self) -> list[SigningKeyRecord]:
        """See `store.SigningKeyStore.signing_keys`."""
        return list(self._rows.signing_keys)

    async def change_signing_keys(
        self, plan: Callable[[Sequence[SigningKeyRecord]], Sequence[SigningKeyRecord]]
    ) -> list[SigningKeyRecord]:
        """See `store.SigningKeyStore.change_signing_keys`."""
        planned = plan(tuple(self._rows.signing_keys))
        self._rows.signing_keys[:] = sorted(planned, key=lambda record: (record.activates_at, record.id))
        return list(self._rows.signing_keys)
