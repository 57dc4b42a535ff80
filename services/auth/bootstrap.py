"""The first start: an organization, its owner and an API key. There is no default password: one is generated."""

import asyncio
import secrets
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from services.auth import credentials
from services.auth.accounts import found, founding_events
from services.auth.api_keys import MintedKey, mint_key
from services.auth.credentials import Kind
from services.auth.credentials_file import CredentialsFile, FirstCredentials
from services.auth.model import (
    Action,
    ApiKeyId,
    AuditEvent,
    Organization,
    OrganizationId,
    Role,
    User,
)
from services.auth.passwords import Passwords
from services.auth.scopes import ROLE_SCOPES
from services.auth.store import Store
from services.mesh.clock import Clock
from services.mesh.errors import Unavailable

ORGANIZATION_NAME: Final = "Parley"
OWNER_NAME: Final = "Owner"
KEY_NAME: Final = "bootstrap"
_PASSWORD_BYTES: Final = 18  # 144 bits, 24 characters


class Outcome(Enum):
    """What a start found and did."""

    CREATED = "the first organization and its owner were created; their credentials are in the file"
    FINISHED = "an earlier start was interrupted; its credentials are in the file now"
    UNCHANGED = "the organization and its credentials exist; nothing was changed"
    RESET = "the owner has a new password and a new API key; they are in the file"
    LOST = (
        "the organization exists, but the file with its first credentials does not. Nothing was changed. "
        "`--reset` gives its owner a new password and a new API key, and ends the sessions and keys of the old ones"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """The use case and what it works with."""

    store: Store
    passwords: Passwords
    clock: Clock

    async def run(self, file: CredentialsFile, *, email: str, reset: bool) -> Outcome:
        """Makes sure that there is an organization, and that its owner can get in.

        Args:
            file: where the credentials go.
            email: canonical login name of the owner, when one is created.
            reset: whether an owner whose credentials are lost gets new ones.
        """
        async with self.store.bootstrap_lock():
            if await self._finish_interrupted(file):
                return Outcome.FINISHED
            organization = await self.store.first_organization()
            if organization is None:
                await self._create(file, email)
                return Outcome.CREATED
            present = await asyncio.to_thread(file.read)
            if present is not None and await self._is_known(present, organization.id):
                if not reset:
                    return Outcome.UNCHANGED
            elif present is not None:
                await asyncio.to_thread(file.set_apart)
            if not reset:
                return Outcome.LOST
            await self._reset(file, organization)
            return Outcome.RESET

    async def _finish_interrupted(self, file: CredentialsFile) -> bool:
        pending = await asyncio.to_thread(file.read_pending)
        organization = await self.store.first_organization()
        if pending is not None and organization is not None and await self._is_known(pending, organization.id):
            await asyncio.to_thread(file.publish)
            return True
        await asyncio.to_thread(file.drop_pending)
        return False

    async def _is_known(self, present: FirstCredentials, organization_id: OrganizationId) -> bool:
        presented = credentials.parse(Kind.API_KEY, present.api_key)
        key = None if presented is None else await self.store.find_api_key(ApiKeyId(presented.id))
        if presented is None or key is None or key.organization_id != organization_id:
            return False
        return presented.is_of(key.secret_hash)

    async def _create(self, file: CredentialsFile, email: str) -> None:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        founding = found(
            email=email,
            display_name=OWNER_NAME,
            organization_name=ORGANIZATION_NAME,
            password_hash=await self.passwords.hash(password),
            clock=self.clock,
        )
        minted = _key_of(founding.owner.user, self.clock)
        founding = replace(founding, api_key=minted.key, is_first=True)
        await asyncio.to_thread(file.write_pending, FirstCredentials(email, password, minted.secret))
        await self.store.create_organization(founding, founding_events(founding))
        await asyncio.to_thread(file.publish)

    async def _reset(self, file: CredentialsFile, organization: Organization) -> None:
        account = await self.store.find_owner(organization.id)
        assert account is not None, "an organization always keeps an owner who is not disabled"
        owner = account.user
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        password_hash = await self.passwords.hash(password)
        minted = _key_of(owner, self.clock)
        await asyncio.to_thread(file.write_pending, FirstCredentials(owner.email, password, minted.secret))
        events = [
            _event(owner, Action.PASSWORD_RESET, owner.id, self.clock),
            _event(owner, Action.API_KEY_CREATED, minted.key.id, self.clock),
        ]
        if not await self.store.reset_account(account, password_hash, minted.key, events):
            raise Unavailable("the owner's password was changed at the same time; try again", retry_after_s=1.0)
        await asyncio.to_thread(file.publish)


def _key_of(owner: User, clock: Clock) -> MintedKey:
    return mint_key(
        organization_id=owner.organization_id,
        user_id=owner.id,
        display_name=KEY_NAME,
        scopes=ROLE_SCOPES[Role.OWNER],
        created_at=clock.now(),
    )


def _event(owner: User, action: Action, target_id: str, clock: Clock) -> AuditEvent:
    return AuditEvent(
        organization_id=owner.organization_id,
        actor_id=owner.id,
        action=action,
        target_id=target_id,
        at=clock.now(),
    )
