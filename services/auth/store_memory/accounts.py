"""Organizations and users in memory."""

from collections.abc import Sequence
from dataclasses import replace

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
from services.auth.store_memory.rows import MemoryAudit
from services.mesh.errors import AlreadyExists, IdempotencyMismatch


class MemoryAccounts(MemoryAudit):
    """Implements `store.AccountStore`."""

    async def create_organization(self, founding: Founding, events: Sequence[AuditEvent]) -> None:
        """See `store.AccountStore.create_organization`."""
        if founding.is_first and self._rows.first is not None:
            raise AlreadyExists("the organization is taken", metadata={"field": "organization"})
        self._refuse_taken(founding.owner)
        self._rows.organizations[founding.organization.id] = founding.organization
        if founding.is_first:
            self._rows.first = founding.organization.id
        self._rows.accounts[founding.owner.user.id] = founding.owner
        if founding.api_key is not None:
            self._rows.api_keys[founding.api_key.id] = founding.api_key
        self._rows.events.extend(events)

    async def first_organization(self) -> Organization | None:
        """See `store.AccountStore.first_organization`."""
        return None if self._rows.first is None else self._rows.organizations[self._rows.first]

    async def get_organization(self, organization_id: OrganizationId) -> Organization | None:
        """See `store.AccountStore.get_organization`."""
        return self._rows.organizations.get(organization_id)

    async def rename_organization(
        self, organization_id: OrganizationId, display_name: str, event: AuditEvent
    ) -> Organization | None:
        """See `store.AccountStore.rename_organization`."""
        organization = self._rows.organizations.get(organization_id)
        if organization is None:
            return None
        self._rows.organizations[organization_id] = replace(organization, display_name=display_name)
        self._rows.events.append(event)
        return self._rows.organizations[organization_id]

    async def create_user(self, account: Account, request: RequestKey | None, event: AuditEvent) -> User:
        """See `store.AccountStore.create_user`."""
        earlier = None if request is None else self._earlier(request)
        if earlier is not None:
            return earlier
        self._refuse_taken(account)
        if request is not None:
            name = (request.organization_id, request.user_id, request.request_id)
            self._rows.requests[name] = (request, account.user.id)
        self._rows.accounts[account.user.id] = account
        self._rows.events.append(event)
        return account.user

    async def find_user_of_request(self, request: RequestKey) -> User | None:
        """See `store.AccountStore.find_user_of_request`."""
        return self._earlier(request)

    async def get_user(self, organization_id: OrganizationId, user_id: UserId) -> User | None:
        """See `store.AccountStore.get_user`."""
        account = await self.get_account(organization_id, user_id)
        return None if account is None else account.user

    async def list_users(self, organization_id: OrganizationId, *, after: Cursor | None, limit: int) -> list[User]:
        """See `store.AccountStore.list_users`."""
        own = sorted(
            (account.user for account in self._rows.accounts.values() if _is_of(account, organization_id)),
            key=lambda user: (user.created_at, user.id),
        )
        if after is not None:
            own = [user for user in own if (user.created_at, user.id) > (after.created_at, after.id)]
        return own[:limit]

    async def update_user(self, user: User, change: UserChange, event: AuditEvent) -> tuple[User, list[Session]] | None:
        """See `store.AccountStore.update_user`."""
        account = await self.get_account(user.organization_id, user.id)
        if account is None or account.user.role is not user.role:
            return None
        present = account.user
        changed = replace(
            present,
            display_name=present.display_name if change.display_name is None else change.display_name,
            role=present.role if change.role is None else change.role,
            disabled=present.disabled if change.disabled is None else change.disabled,
        )
        others = [other for other in self._rows.accounts.values() if other.user.id != changed.id]
        owners = [
            candidate
            for candidate in (changed, *(other.user for other in others if _is_of(other, changed.organization_id)))
            if candidate.role is Role.OWNER and not candidate.disabled
        ]
        if not owners:
            raise LastOwnerError
        self._rows.accounts[changed.id] = replace(account, user=changed)
        ended = self._rows.end_sessions_of(changed, at=event.at) if change.disabled else []
        self._rows.events.append(event)
        return changed, ended

    async def find_account(self, email: str) -> Account | None:
        """See `store.AccountStore.find_account`."""
        return next((account for account in self._rows.accounts.values() if account.user.email == email), None)

    async def get_account(self, organization_id: OrganizationId, user_id: UserId) -> Account | None:
        """See `store.AccountStore.get_account`."""
        account = self._rows.accounts.get(user_id)
        return account if account is not None and _is_of(account, organization_id) else None

    async def find_owner(self, organization_id: OrganizationId) -> Account | None:
        """See `store.AccountStore.find_owner`."""
        owners = [
            account
            for account in self._rows.accounts.values()
            if _is_of(account, organization_id) and account.user.role is Role.OWNER and not account.user.disabled
        ]
        return min(owners, key=lambda owner: (owner.user.created_at, owner.user.id), default=None)

    async def reset_account(
        self, account: Account, password_hash: str, key: ApiKey, events: Sequence[AuditEvent]
    ) -> bool:
        """See `store.AccountStore.reset_account`."""
        if not self._set_hash(account, password_hash):
            return False
        self._rows.end_sessions_of(account.user, at=key.created_at)
        for other in list(self._rows.api_keys.values()):
            if (other.user_id, other.display_name, other.revoked_at) == (key.user_id, key.display_name, None):
                self._rows.api_keys[other.id] = replace(other, revoked_at=key.created_at)
        self._rows.api_keys[key.id] = key
        self._rows.events.extend(events)
        return True

    async def replace_hash(self, account: Account, password_hash: str) -> None:
        """See `store.AccountStore.replace_hash`."""
        self._set_hash(account, password_hash)

    async def set_password(
        self, account: Account, password_hash: str, *, keep: SessionId | None, event: AuditEvent
    ) -> list[Session] | None:
        """See `store.AccountStore.set_password`."""
        if not self._set_hash(account, password_hash):
            return None
        self._rows.events.append(event)
        return self._rows.end_sessions_of(account.user, at=event.at, keep=keep)

    def _set_hash(self, account: Account, password_hash: str) -> bool:
        present = self._rows.accounts.get(account.user.id)
        if present is None or present.password_hash != account.password_hash:
            return False
        self._rows.accounts[account.user.id] = replace(present, password_hash=password_hash)
        return True

    def _earlier(self, request: RequestKey) -> User | None:
        found = self._rows.requests.get((request.organization_id, request.user_id, request.request_id))
        if found is None:
            return None
        if found[0].fingerprint != request.fingerprint:
            raise IdempotencyMismatch("the request id was used before with another body")
        return self._rows.accounts[found[1]].user

    def _refuse_taken(self, account: Account) -> None:
        if any(other.user.email == account.user.email for other in self._rows.accounts.values()):
            raise AlreadyExists("the email is taken", metadata={"field": "email"})


def _is_of(account: Account, organization_id: OrganizationId) -> bool:
    return account.user.organization_id == organization_id
