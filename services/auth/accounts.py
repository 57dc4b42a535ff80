"""Organizations and the people in them. Nobody grants what they do not hold, and an organization keeps an owner."""

from dataclasses import dataclass, replace
from typing import Final

from services.auth.emails import checked_email
from services.auth.model import (
    Account,
    Action,
    AuditEvent,
    Caller,
    Cursor,
    Organization,
    OrganizationId,
    RequestKey,
    Role,
    User,
    UserChange,
    UserId,
)
from services.auth.passwords import Passwords, check_password
from services.auth.principals import Principals
from services.auth.scopes import ROLE_SCOPES, require_all
from services.auth.sealing import Sealing
from services.auth.store import Founding, LastOwnerError, Store
from services.auth.texts import checked_name
from services.mesh.clock import Clock
from services.mesh.errors import NotFound, RegistrationClosed, Unavailable, invalid_field
from services.mesh.ids import is_id, new_id

ATTEMPTS_MAX: Final = 3
"""Of a change to a user whose role changes under our hands each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A person who wants an organization of their own."""

    email: str
    password: str
    display_name: str = ""
    organization_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A person who is to be a member of the caller's organization."""

    request_id: str
    email: str
    password: str
    display_name: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The use cases and what they work with."""

    store: Store
    passwords: Passwords
    principals: Principals
    sealing: Sealing
    clock: Clock
    is_registration_open: bool

    async def register(self, wanted: Registration, *, request_id: str = "") -> User:
        """Creates an organization with its first owner.

        Raises:
            RegistrationClosed: the operator does not let people register themselves.
            InvalidArgument: a field is malformed.
            AlreadyExists: the address is taken.
            Overloaded: too many passwords wait to be hashed.
        """
        if not self.is_registration_open:
            raise RegistrationClosed("people cannot register themselves here; ask an administrator for an account")
        email = checked_email("email", wanted.email)
        check_password("password", wanted.password)
        display_name = _name_or("display_name", wanted.display_name, email.partition("@")[0])
        organization_name = _name_or("organization_name", wanted.organization_name, display_name)
        founding = found(
            email=email,
            display_name=display_name,
            organization_name=organization_name,
            password_hash=await self.passwords.hash(wanted.password),
            clock=self.clock,
        )
        await self.store.create_organization(founding, founding_events(founding, request_id))
        return founding.owner.user

    async def me(self, caller: Caller) -> User:
        """The calling user."""
        return _found(await self.principals.user(caller.organization_id, caller.user_id))

    async def get(self, caller: Caller, user_id: str) -> User:
        """A user of the caller's organization.

        Raises:
            NotFound: there is none with this id here, whether or not there is one elsewhere.
        """
        return await self._member(caller, user_id)

    async def list(self, caller: Caller, *, after: Cursor | None, limit: int) -> list[User]:
        """Users of the caller's organization, oldest first."""
        return await self.store.list_users(caller.organization_id, after=after, limit=limit)

    async def create(self, caller: Caller, wanted: NewUser) -> User:
        """Adds a person to the caller's organization; a repeat of the request returns the same user.

        Raises:
            InvalidArgument: a field is malformed.
            ScopeMissing: the role holds a scope that the calling credential does not.
            AlreadyExists: the address is taken.
            IdempotencyMismatch: the request id was used with another body.
            Overloaded: too many passwords wait to be hashed.
        """
        email = checked_email("email", wanted.email)
        check_password("password", wanted.password)
        display_name = _name_or("display_name", wanted.display_name, email.partition("@")[0])
        require_all(caller.scopes, ROLE_SCOPES[wanted.role])
        request = self._request_key(caller, wanted)
        earlier = None if request is None else await self.store.find_user_of_request(request)
        if earlier is not None:
            return earlier
        now = self.clock.now()
        user = User(
            id=UserId(new_id("usr")),
            organization_id=caller.organization_id,
            email=email,
            display_name=display_name,
            role=wanted.role,
            disabled=False,
            created_at=now,
        )
        account = Account(user=user, password_hash=await self.passwords.hash(wanted.password))
        return await self.store.create_user(account, request, caller.event(Action.USER_CREATED, user.id, now))

    async def update(self, caller: Caller, user_id: str, change: UserChange) -> User:
        """Changes a user's name, role or whether it is disabled.

        Raises:
            InvalidArgument: a field is malformed, or the last owner would go.
            NotFound: there is no such user in the caller's organization.
            ScopeMissing: the present or the new role holds a scope that the calling credential does not.
        """
        if change.display_name is not None:
            change = replace(change, display_name=checked_name("user.display_name", change.display_name))
        for _ in range(ATTEMPTS_MAX):
            user = await self._member(caller, user_id)
            require_all(caller.scopes, ROLE_SCOPES[user.role] | ROLE_SCOPES[change.role or user.role])
            event = caller.event(Action.USER_UPDATED, user.id, self.clock.now())
            try:
                changed = await self.store.update_user(user, change, event)
            except LastOwnerError:
                field = "user.role" if change.role is not None else "user.disabled"
                raise invalid_field(field, "the organization must keep an owner who is not disabled") from None
            if changed is not None:
                await self.principals.forget_user(changed[0])
                await self.principals.forget_sessions(changed[1])
                return changed[0]
        raise Unavailable("somebody else changes this user at the same time; try again", retry_after_s=1.0)

    async def organization(self, caller: Caller) -> Organization:
        """The caller's organization."""
        organization = await self.principals.organization(caller.organization_id)
        if organization is None:
            raise NotFound.of("organization")
        return organization

    async def rename_organization(self, caller: Caller, display_name: str) -> Organization:
        """Renames the caller's organization.

        Raises:
            InvalidArgument: the name is malformed.
        """
        name = checked_name("display_name", display_name)
        event = caller.event(Action.ORGANIZATION_UPDATED, caller.organization_id, self.clock.now())
        organization = await self.store.rename_organization(caller.organization_id, name, event)
        if organization is None:
            raise NotFound.of("organization")
        await self.principals.forget_organization(organization.id)
        return organization

    async def _member(self, caller: Caller, user_id: str) -> User:
        if not is_id("usr", user_id):
            raise NotFound.of("user")
        return _found(await self.store.get_user(caller.organization_id, UserId(user_id)))

    def _request_key(self, caller: Caller, wanted: NewUser) -> RequestKey | None:
        if not wanted.request_id:
            return None
        return RequestKey(
            organization_id=caller.organization_id,
            user_id=caller.user_id,
            request_id=wanted.request_id,
            # The password is part of what was asked for, and nothing that tests guesses at it may be stored: the
            # fingerprint is keyed.
            fingerprint=self.sealing.fingerprint(wanted.email, wanted.password, wanted.display_name, wanted.role),
        )


def found(*, email: str, display_name: str, organization_name: str, password_hash: str, clock: Clock) -> Founding:
    """A new organization and its owner, not yet stored."""
    now = clock.now()
    organization = Organization(id=OrganizationId(new_id("org")), display_name=organization_name, created_at=now)
    owner = User(
        id=UserId(new_id("usr")),
        organization_id=organization.id,
        email=email,
        display_name=display_name,
        role=Role.OWNER,
        disabled=False,
        created_at=now,
    )
    return Founding(organization=organization, owner=Account(user=owner, password_hash=password_hash))


def founding_events(founding: Founding, request_id: str = "") -> list[AuditEvent]:
    """What the security log says of a founding."""
    owner, organization = founding.owner.user, founding.organization
    made: list[tuple[Action, str]] = [
        (Action.ORGANIZATION_CREATED, organization.id),
        (Action.USER_CREATED, owner.id),
    ]
    if founding.api_key is not None:
        made.append((Action.API_KEY_CREATED, founding.api_key.id))
    return [
        AuditEvent(
            organization_id=organization.id,
            actor_id=owner.id,
            action=action,
            target_id=target_id,
            at=organization.created_at,
            request_id=request_id,
        )
        for action, target_id in made
    ]


def _found(user: User | None) -> User:
    if user is None:
        raise NotFound.of("user")
    return user


def _name_or(field: str, name: str, otherwise: str) -> str:
    return checked_name(field, name or otherwise)
