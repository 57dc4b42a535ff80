"""Records of auth for the tests of its stores."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from services.auth.accounts import found
from services.auth.api_keys import mint_key
from services.auth.model import Account, Action, ApiKey, AuditEvent, Role, Session, SessionId, SessionKind, User, UserId
from services.auth.store import Founding, Refresh, Store
from services.mesh.clock import ManualClock
from services.mesh.ids import new_id
from tests.support.auth import caller_of, new_email

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GRACE = timedelta(seconds=10)


async def founded(store: Store, *, is_first: bool = False) -> Founding:
    founding = replace(
        found(
            email=new_email(),
            display_name="Owner",
            organization_name="Organization",
            password_hash="hash",
            clock=ManualClock(NOW),
        ),
        is_first=is_first,
    )
    await store.create_organization(founding, [])
    return founding


def member(owner: User, *, at: datetime = NOW, role: Role = Role.MEMBER, email: str = "") -> Account:
    user = replace(owner, id=UserId(new_id("usr")), email=email or new_email(), role=role, created_at=at)
    return Account(user=user, password_hash="hash")


def event(user: User, *, at: datetime = NOW) -> AuditEvent:
    return caller_of(user).event(Action.USER_UPDATED, user.id, at)


def session_of(user: User, *, kind: SessionKind = SessionKind.TOKENS, at: datetime = NOW) -> Session:
    session_id = SessionId(new_id("ses"))
    return Session(
        id=session_id,
        organization_id=user.organization_id,
        user_id=user.id,
        kind=kind,
        secret_hash=b"0" + session_id.encode(),
        generation=0,
        created_at=at,
        rotated_at=at,
        idle_expires_at=at + timedelta(days=30),
        expires_at=at + timedelta(days=90),
    )


def key_of(user: User, *, at: datetime = NOW, name: str = "key") -> ApiKey:
    return mint_key(
        organization_id=user.organization_id,
        user_id=user.id,
        display_name=name,
        scopes=frozenset({"keys:read", "models:read"}),
        created_at=at,
    ).key


def refresh_of(session: Session, number: int, *, at: datetime = NOW) -> Refresh:
    """The trade of the token of generation `number` for the next one."""
    return Refresh(
        session_id=session.id,
        presented_hash=str(number).encode() + session.id.encode(),
        successor_hash=str(number + 1).encode() + session.id.encode(),
        at=at,
        grace=GRACE,
        idle_expires_at=at + timedelta(days=30),
    )


async def gathered(*work: Awaitable[object]) -> list[object]:
    return list(await asyncio.gather(*work, return_exceptions=True))
