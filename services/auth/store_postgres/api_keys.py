"""API keys in PostgreSQL."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import DateTime, RowMapping, Text, bindparam, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY

from services.auth.model import ApiKey, ApiKeyId, AuditEvent, Cursor, OrganizationId, UserId
from services.auth.store import API_KEYS_PER_USER_MAX, TooManyKeysError
from services.auth.store_postgres.audit import PostgresAudit, record
from services.auth.tables import API_KEYS, USERS
from services.mesh.postgres.database import ReadWrite


class PostgresApiKeys(PostgresAudit):
    """Implements `store.ApiKeyStore`."""

    async def create_api_key(self, key: ApiKey, event: AuditEvent) -> None:
        """See `store.ApiKeyStore.create_api_key`."""
        async with self._database.write() as write:
            # The user's row makes parallel creations wait for each other, so that the count is exact.
            owner = select(USERS.c.id).where(USERS.c.organization_id == key.organization_id, USERS.c.id == key.user_id)
            await write.execute(owner.with_for_update(key_share=True))
            live = select(func.count()).where(
                API_KEYS.c.organization_id == key.organization_id,
                API_KEYS.c.user_id == key.user_id,
                API_KEYS.c.revoked_at.is_(None),
                or_(API_KEYS.c.expires_at.is_(None), API_KEYS.c.expires_at > key.created_at),
            )
            if (await write.execute(live)).scalar_one() >= API_KEYS_PER_USER_MAX:
                raise TooManyKeysError
            await insert_api_key(write, key)
            await record(write, event)

    async def find_api_key(self, key_id: ApiKeyId) -> ApiKey | None:
        """See `store.ApiKeyStore.find_api_key`."""
        async with self._database.read() as read:
            row = (await read.execute(select(API_KEYS).where(API_KEYS.c.id == key_id))).mappings().one_or_none()
        return None if row is None else _api_key(row)

    async def get_api_key(self, organization_id: OrganizationId, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None:
        """See `store.ApiKeyStore.get_api_key`."""
        query = select(API_KEYS).where(
            API_KEYS.c.organization_id == organization_id, API_KEYS.c.user_id == user_id, API_KEYS.c.id == key_id
        )
        async with self._database.read() as read:
            row = (await read.execute(query)).mappings().one_or_none()
        return None if row is None else _api_key(row)

    async def list_api_keys(
        self, organization_id: OrganizationId, user_id: UserId, *, before: Cursor | None, limit: int
    ) -> list[ApiKey]:
        """See `store.ApiKeyStore.list_api_keys`."""
        query = select(API_KEYS).where(API_KEYS.c.organization_id == organization_id, API_KEYS.c.user_id == user_id)
        if before is not None:
            query = query.where(tuple_(API_KEYS.c.created_at, API_KEYS.c.id) < (before.created_at, before.id))
        query = query.order_by(API_KEYS.c.created_at.desc(), API_KEYS.c.id.desc()).limit(limit)
        async with self._database.read() as read:
            return [_api_key(row) for row in (await read.execute(query)).mappings()]

    async def revoke_api_key(
        self, organization_id: OrganizationId, user_id: UserId, key_id: ApiKeyId, event: AuditEvent
    ) -> ApiKey | None:
        """See `store.ApiKeyStore.revoke_api_key`."""
        statement = (
            update(API_KEYS)
            .where(
                API_KEYS.c.organization_id == organization_id,
                API_KEYS.c.user_id == user_id,
                API_KEYS.c.id == key_id,
            )
            .values(revoked_at=func.coalesce(API_KEYS.c.revoked_at, event.at))
            .returning(API_KEYS)
        )
        async with self._database.write() as write:
            row = (await write.execute(statement)).mappings().one_or_none()
            if row is None:
                return None
            await record(write, event)
        return _api_key(row)

    async def touch_api_keys(self, used: Mapping[ApiKeyId, datetime]) -> None:
        """See `store.ApiKeyStore.touch_api_keys`."""
        names = sorted(used)  # one order for all replicas, or two of them could lock each other out
        values = (
            func.unnest(
                bindparam("ids", names, ARRAY(Text)),
                bindparam("instants", [used[name] for name in names], ARRAY(DateTime(timezone=True))),
            )
            .table_valued("id", "at")
            .render_derived("used")
        )
        statement = (
            update(API_KEYS)
            .where(API_KEYS.c.id == values.c.id)
            .values(last_used_at=func.greatest(API_KEYS.c.last_used_at, values.c.at))
        )
        async with self._database.write() as write:
            await write.execute(statement)


async def insert_api_key(write: ReadWrite, key: ApiKey) -> None:
    """Stores a key in somebody else's transaction."""
    await write.execute(
        insert(API_KEYS).values(
            id=key.id,
            organization_id=key.organization_id,
            user_id=key.user_id,
            display_name=key.display_name,
            hint=key.hint,
            secret_hash=key.secret_hash,
            scopes=sorted(key.scopes),
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
        )
    )


async def revoke_namesakes(write: ReadWrite, key: ApiKey) -> None:
    """Revokes the user's live keys that have the name of `key`, in somebody else's transaction."""
    await write.execute(
        update(API_KEYS)
        .where(
            API_KEYS.c.organization_id == key.organization_id,
            API_KEYS.c.user_id == key.user_id,
            API_KEYS.c.display_name == key.display_name,
            API_KEYS.c.revoked_at.is_(None),
        )
        .values(revoked_at=key.created_at)
    )


def _api_key(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=ApiKeyId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        user_id=UserId(row["user_id"]),
        display_name=row["display_name"],
        hint=row["hint"],
        secret_hash=row["secret_hash"],
        scopes=frozenset(row["scopes"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
