"""Organizations and users in PostgreSQL."""

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import RowMapping, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError

from services.auth.model import (
    Account,
    ApiKey,
    AuditEvent,
    Cursor,
    Organization,
    OrganizationId,
    RequestKey,
    Role,
    Session,
    SessionId,
    User,
    UserChange,
    UserId,
)
from services.auth.store import Founding, LastOwnerError
from services.auth.store_postgres.api_keys import insert_api_key, revoke_namesakes
from services.auth.store_postgres.audit import PostgresAudit, record
from services.auth.store_postgres.rows import user_of
from services.auth.store_postgres.sessions import end_sessions_of
from services.auth.tables import ORGANIZATIONS, REQUESTS, USERS
from services.mesh.errors import AlreadyExists, IdempotencyMismatch
from services.mesh.postgres.database import ReadOnly, ReadWrite, constraint_of

_TAKEN: Final = {"users_email": "email", "organizations_first": "organization"}


class PostgresAccounts(PostgresAudit):
    """Implements `store.AccountStore`."""

    async def create_organization(self, founding: Founding, events: Sequence[AuditEvent]) -> None:
        """See `store.AccountStore.create_organization`."""
        organization = founding.organization
        try:
            async with self._database.write() as write:
                await write.execute(
                    insert(ORGANIZATIONS).values(
                        id=organization.id,
                        display_name=organization.display_name,
                        is_first=founding.is_first,
                        created_at=organization.created_at,
                    )
                )
                await write.execute(insert(USERS).values(_row(founding.owner)))
                if founding.api_key is not None:
                    await insert_api_key(write, founding.api_key)
                await record(write, *events)
        except IntegrityError as error:
            raise _taken(error) from error

    async def first_organization(self) -> Organization | None:
        """See `store.AccountStore.first_organization`."""
        query = select(ORGANIZATIONS).where(ORGANIZATIONS.c.is_first)
        async with self._database.read() as read:
            row = (await read.execute(query)).mappings().one_or_none()
        return None if row is None else _organization(row)

    async def get_organization(self, organization_id: OrganizationId) -> Organization | None:
        """See `store.AccountStore.get_organization`."""
        query = select(ORGANIZATIONS).where(ORGANIZATIONS.c.id == organization_id)
        async with self._database.read() as read:
            row = (await read.execute(query)).mappings().one_or_none()
        return None if row is None else _organization(row)

    async def rename_organization(
        self, organization_id: OrganizationId, display_name: str, event: AuditEvent
    ) -> Organization | None:
        """See `store.AccountStore.rename_organization`."""
        change = (
            update(ORGANIZATIONS)
            .where(ORGANIZATIONS.c.id == organization_id)
            .values(display_name=display_name)
            .returning(ORGANIZATIONS)
        )
        async with self._database.write() as write:
            row = (await write.execute(change)).mappings().one_or_none()
            if row is None:
                return None
            await record(write, event)
        return _organization(row)

    async def create_user(self, account: Account, request: RequestKey | None, event: AuditEvent) -> User:
        """See `store.AccountStore.create_user`."""
        try:
            async with self._database.write() as write:
                if request is not None:
                    earlier = await _claim(write, request, account.user)
                    if earlier is not None:
                        return earlier
                await write.execute(insert(USERS).values(_row(account)))
                await record(write, event)
        except IntegrityError as error:
            raise _taken(error) from error
        return account.user

    async def find_user_of_request(self, request: RequestKey) -> User | None:
        """See `store.AccountStore.find_user_of_request`."""
        async with self._database.read() as read:
            return await _earlier(read, request)

    async def get_user(self, organization_id: OrganizationId, user_id: UserId) -> User | None:
        """See `store.AccountStore.get_user`."""
        account = await self.get_account(organization_id, user_id)
        return None if account is None else account.user

    async def list_users(self, organization_id: OrganizationId, *, after: Cursor | None, limit: int) -> list[User]:
        """See `store.AccountStore.list_users`."""
        query = select(USERS).where(USERS.c.organization_id == organization_id)
        if after is not None:
            query = query.where(tuple_(USERS.c.created_at, USERS.c.id) > (after.created_at, after.id))
        query = query.order_by(USERS.c.created_at, USERS.c.id).limit(limit)
        async with self._database.read() as read:
            return [user_of(row) for row in (await read.execute(query)).mappings()]

    async def update_user(self, user: User, change: UserChange, event: AuditEvent) -> tuple[User, list[Session]] | None:
        """See `store.AccountStore.update_user`."""
        async with self._database.write() as write:
            # One change of members at a time, or two owners could each be demoted beside the other.
            locked = select(ORGANIZATIONS.c.id).where(ORGANIZATIONS.c.id == user.organization_id).with_for_update()
            await write.execute(locked)
            changed = await _changed(write, user, change)
            if changed is None:
                return None
            owners = select(func.count()).where(
                USERS.c.organization_id == user.organization_id,
                USERS.c.role == Role.OWNER,
                ~USERS.c.disabled,
            )
            if (await write.execute(owners)).scalar_one() == 0:
                raise LastOwnerError
            ended = await end_sessions_of(write, user, at=event.at) if change.disabled else []
            await record(write, event)
        return changed, ended

    async def find_account(self, email: str) -> Account | None:
        """See `store.AccountStore.find_account`."""
        async with self._database.read() as read:
            row = (await read.execute(select(USERS).where(USERS.c.email == email))).mappings().one_or_none()
        return None if row is None else Account(user=user_of(row), password_hash=row["password_hash"])

    async def get_account(self, organization_id: OrganizationId, user_id: UserId) -> Account | None:
        """See `store.AccountStore.get_account`."""
        query = select(USERS).where(USERS.c.organization_id == organization_id, USERS.c.id == user_id)
        async with self._database.read() as read:
            row = (await read.execute(query)).mappings().one_or_none()
        return None if row is None else Account(user=user_of(row), password_hash=row["password_hash"])

    async def find_owner(self, organization_id: OrganizationId) -> Account | None:
        """See `store.AccountStore.find_owner`."""
        query = (
            select(USERS)
            .where(USERS.c.organization_id == organization_id, USERS.c.role == Role.OWNER, ~USERS.c.disabled)
            .order_by(USERS.c.created_at, USERS.c.id)
            .limit(1)
        )
        async with self._database.read() as read:
            row = (await read.execute(query)).mappings().one_or_none()
        return None if row is None else Account(user=user_of(row), password_hash=row["password_hash"])

    async def reset_account(
        self, account: Account, password_hash: str, key: ApiKey, events: Sequence[AuditEvent]
    ) -> bool:
        """See `store.AccountStore.reset_account`."""
        async with self._database.write() as write:
            if not await _set_hash(write, account, password_hash):
                return False
            await end_sessions_of(write, account.user, at=key.created_at)
            await revoke_namesakes(write, key)
            await insert_api_key(write, key)
            await record(write, *events)
        return True

    async def replace_hash(self, account: Account, password_hash: str) -> None:
        """See `store.AccountStore.replace_hash`."""
        async with self._database.write() as write:
            await _set_hash(write, account, password_hash)

    async def set_password(
        self, account: Account, password_hash: str, *, keep: SessionId | None, event: AuditEvent
    ) -> list[Session] | None:
        """See `store.AccountStore.set_password`."""
        async with self._database.write() as write:
            if not await _set_hash(write, account, password_hash):
                return None
            ended = await end_sessions_of(write, account.user, at=event.at, keep=keep)
            await record(write, event)
        return ended


async def _changed(write: ReadWrite, user: User, change: UserChange) -> User | None:
    values: dict[str, object] = {
        name: value
        for name, value in (
            ("display_name", change.display_name),
            ("role", change.role),
            ("disabled", change.disabled),
        )
        if value is not None
    }
    statement = (
        update(USERS)
        .where(
            USERS.c.organization_id == user.organization_id,
            USERS.c.id == user.id,
            # The caller was allowed to change a user of this role, and perhaps of no other.
            USERS.c.role == user.role,
        )
        # A change of nothing still answers with the user, as the contract says.
        .values(values or {"id": user.id})
        .returning(USERS)
    )
    row = (await write.execute(statement)).mappings().one_or_none()
    return None if row is None else user_of(row)


async def _set_hash(write: ReadWrite, account: Account, password_hash: str) -> bool:
    statement = (
        update(USERS)
        .where(
            USERS.c.organization_id == account.user.organization_id,
            USERS.c.id == account.user.id,
            USERS.c.password_hash == account.password_hash,
        )
        .values(password_hash=password_hash)
        .returning(USERS.c.id)
    )
    return (await write.execute(statement)).one_or_none() is not None


async def _claim(write: ReadWrite, request: RequestKey, user: User) -> User | None:
    """Takes the request id for `user`; when it was taken before, the user that it was taken for."""
    statement = (
        upsert(REQUESTS)
        .values(
            organization_id=request.organization_id,
            user_id=request.user_id,
            request_id=request.request_id,
            fingerprint=request.fingerprint,
            resource_id=user.id,
            created_at=user.created_at,
        )
        .on_conflict_do_nothing()
        .returning(REQUESTS.c.request_id)
    )
    if (await write.execute(statement)).one_or_none() is not None:
        return None
    return await _earlier(write, request)


async def _earlier(read: ReadOnly, request: RequestKey) -> User | None:
    query = (
        select(USERS, REQUESTS.c.fingerprint)
        .join(USERS, (USERS.c.organization_id == REQUESTS.c.organization_id) & (USERS.c.id == REQUESTS.c.resource_id))
        .where(
            REQUESTS.c.organization_id == request.organization_id,
            REQUESTS.c.user_id == request.user_id,
            REQUESTS.c.request_id == request.request_id,
        )
    )
    row = (await read.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    if row["fingerprint"] != request.fingerprint:
        raise IdempotencyMismatch("the request id was used before with another body")
    return user_of(row)


def _taken(error: IntegrityError) -> Exception:
    field = _TAKEN.get(constraint_of(error))
    return error if field is None else AlreadyExists(f"the {field} is taken", metadata={"field": field})


def _row(account: Account) -> Mapping[str, object]:
    user = account.user
    return {
        "id": user.id,
        "organization_id": user.organization_id,
        "email": user.email,
        "display_name": user.display_name,
        "role": user.role,
        "disabled": user.disabled,
        "password_hash": account.password_hash,
        "created_at": user.created_at,
    }


def _organization(row: RowMapping) -> Organization:
    return Organization(id=OrganizationId(row["id"]), display_name=row["display_name"], created_at=row["created_at"])
