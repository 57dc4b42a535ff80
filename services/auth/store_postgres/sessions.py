"""Sessions and refresh tokens in PostgreSQL: whatever ends or rotates a session holds the lock on its row."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, DateTime, RowMapping, Text, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from services.auth.model import (
    Action,
    AuditEvent,
    OrganizationId,
    Rotation,
    Session,
    SessionId,
    SessionKind,
    User,
    UserId,
)
from services.auth.store import SESSIONS_PER_USER_MAX, Refresh, Rotated
from services.auth.store_postgres.audit import PostgresAudit, record
from services.auth.store_postgres.rows import user_of
from services.auth.tables import REFRESH_TOKENS, SESSIONS, USERS
from services.mesh.postgres.database import ReadWrite

_OVER: Final[ColumnElement[datetime]] = func.least(
    func.coalesce(SESSIONS.c.ended_at, SESSIONS.c.expires_at), SESSIONS.c.idle_expires_at
)
"""When a session was over, or will be; the expression of the index `sessions_over`."""


class PostgresSessions(PostgresAudit):
    """Implements `store.SessionStore`."""

    async def create_session(self, session: Session, event: AuditEvent) -> list[Session]:
        """See `store.SessionStore.create_session`."""
        async with self._database.write() as write:
            ended = await _make_room(write, session)
            await write.execute(insert(SESSIONS).values(_row(session)))
            if session.kind is SessionKind.TOKENS:
                await write.execute(
                    insert(REFRESH_TOKENS).values(
                        session_id=session.id,
                        generation=session.generation,
                        secret_hash=session.secret_hash,
                        issued_at=session.created_at,
                    )
                )
            await record(write, event)
        return ended

    async def find_session(self, session_id: SessionId) -> Session | None:
        """See `store.SessionStore.find_session`."""
        async with self._database.read() as read:
            row = (await read.execute(select(SESSIONS).where(SESSIONS.c.id == session_id))).mappings().one_or_none()
        return None if row is None else _session(row)

    async def find_session_of(self, session_id: SessionId, secret_hash: bytes) -> Session | None:
        """See `store.SessionStore.find_session_of`."""
        of_family = select(REFRESH_TOKENS.c.session_id).where(
            REFRESH_TOKENS.c.session_id == session_id, REFRESH_TOKENS.c.secret_hash == secret_hash
        )
        query = select(SESSIONS).where(
            SESSIONS.c.id == session_id, (SESSIONS.c.secret_hash == secret_hash) | of_family.exists()
        )
        async with self._database.read() as read:
            row = (await read.execute(query)).mappings().one_or_none()
        return None if row is None else _session(row)

    async def refresh(self, refresh: Refresh, request_id: str) -> Rotated:
        """See `store.SessionStore.refresh`."""
        async with self._database.write() as write:
            found = await _locked(write, refresh)
            if found is None:
                return Rotated(Rotation.REFUSED)
            session, user, generation, used_at = found
            if user.disabled or not session.is_live(refresh.at):
                return Rotated(Rotation.REFUSED, session, user)
            if used_at is None:
                return Rotated(Rotation.ROTATED, await _rotate(write, session, refresh), user)
            if generation == session.generation - 1 and refresh.at <= session.rotated_at + refresh.grace:
                # Another successor means that our key was changed since: nobody's fault, and nothing to tell.
                is_same = session.secret_hash == refresh.successor_hash
                return Rotated(Rotation.REPEATED if is_same else Rotation.REFUSED, session, user)
            await write.execute(update(SESSIONS).where(SESSIONS.c.id == session.id).values(ended_at=refresh.at))
            await record(write, _reused(session, refresh.at, request_id))
            return Rotated(Rotation.REUSED, session, user)

    async def end_session(self, session: Session, event: AuditEvent) -> bool:
        """See `store.SessionStore.end_session`."""
        statement = (
            update(SESSIONS)
            .where(SESSIONS.c.id == session.id, SESSIONS.c.ended_at.is_(None))
            .values(ended_at=event.at)
            .returning(SESSIONS.c.id)
        )
        async with self._database.write() as write:
            if (await write.execute(statement)).one_or_none() is None:
                return False
            await record(write, event)
        return True

    async def end_all_sessions(self, at: datetime) -> int:
        """See `store.SessionStore.end_all_sessions`."""
        async with self._database.write() as write:
            ended = await write.execute(update(SESSIONS).where(SESSIONS.c.ended_at.is_(None)).values(ended_at=at))
        return ended.rowcount

    async def touch_sessions(self, idle_ends: Mapping[SessionId, datetime]) -> None:
        """See `store.SessionStore.touch_sessions`."""
        used = (
            func.unnest(
                bindparam("ids", sorted(idle_ends), ARRAY(Text)),
                bindparam("ends", [idle_ends[name] for name in sorted(idle_ends)], ARRAY(DateTime(timezone=True))),
            )
            .table_valued("id", "idle_end")
            .render_derived("used")
        )
        statement = (
            update(SESSIONS)
            .where(SESSIONS.c.id == used.c.id, SESSIONS.c.ended_at.is_(None))
            .values(idle_expires_at=func.greatest(SESSIONS.c.idle_expires_at, used.c.idle_end))
        )
        async with self._database.write() as write:
            await write.execute(statement)

    async def forget_sessions(self, ended_before: datetime, limit: int) -> int:
        """See `store.SessionStore.forget_sessions`."""
        old = select(SESSIONS.c.id).where(ended_before > _OVER).limit(limit)
        statement = delete(SESSIONS).where(SESSIONS.c.id.in_(old)).returning(SESSIONS.c.id)
        async with self._database.write() as write:
            return len((await write.execute(statement)).all())


async def end_sessions_of(
    write: ReadWrite, user: User, *, at: datetime, keep: SessionId | None = None
) -> list[Session]:
    """Ends all live sessions of a user but `keep`, in somebody else's transaction."""
    statement = (
        update(SESSIONS)
        .where(
            SESSIONS.c.organization_id == user.organization_id,
            SESSIONS.c.user_id == user.id,
            SESSIONS.c.ended_at.is_(None),
        )
        .values(ended_at=at)
        .returning(SESSIONS)
    )
    if keep is not None:
        statement = statement.where(SESSIONS.c.id != keep)
    return [_session(row) for row in (await write.execute(statement)).mappings()]


async def _make_room(write: ReadWrite, session: Session) -> list[Session]:
    """Ends the live sessions of the user that are older than the newest ones that may stay."""
    surplus = (
        select(SESSIONS.c.id)
        .where(
            SESSIONS.c.organization_id == session.organization_id,
            SESSIONS.c.user_id == session.user_id,
            SESSIONS.c.ended_at.is_(None),
        )
        .order_by(SESSIONS.c.created_at.desc(), SESSIONS.c.id.desc())
        .offset(SESSIONS_PER_USER_MAX - 1)
    )
    statement = (
        update(SESSIONS).where(SESSIONS.c.id.in_(surplus)).values(ended_at=session.created_at).returning(SESSIONS)
    )
    return [_session(row) for row in (await write.execute(statement)).mappings()]


async def _locked(write: ReadWrite, refresh: Refresh) -> tuple[Session, User, int, datetime | None] | None:
    """Session, user, and the generation and use of the presented token; the session's row is locked."""
    # The lock first, in a statement of its own: what is read after it is what the holder before us left.
    lock = select(SESSIONS).where(SESSIONS.c.id == refresh.session_id).with_for_update()
    row = (await write.execute(lock)).mappings().one_or_none()
    if row is None:
        return None
    session = _session(row)
    query = (
        select(USERS, REFRESH_TOKENS.c.generation, REFRESH_TOKENS.c.used_at)
        .select_from(USERS)
        .join(
            REFRESH_TOKENS,
            (REFRESH_TOKENS.c.session_id == session.id) & (REFRESH_TOKENS.c.secret_hash == refresh.presented_hash),
        )
        .where(USERS.c.organization_id == session.organization_id, USERS.c.id == session.user_id)
    )
    found = (await write.execute(query)).mappings().one_or_none()
    return None if found is None else (session, user_of(found), found["generation"], found["used_at"])


async def _rotate(write: ReadWrite, session: Session, refresh: Refresh) -> Session:
    await write.execute(
        update(REFRESH_TOKENS)
        .where(REFRESH_TOKENS.c.session_id == session.id, REFRESH_TOKENS.c.generation == session.generation)
        .values(used_at=refresh.at)
    )
    await write.execute(
        insert(REFRESH_TOKENS).values(
            session_id=session.id,
            generation=session.generation + 1,
            secret_hash=refresh.successor_hash,
            issued_at=refresh.at,
        )
    )
    statement = (
        update(SESSIONS)
        .where(SESSIONS.c.id == session.id)
        .values(
            secret_hash=refresh.successor_hash,
            generation=session.generation + 1,
            rotated_at=refresh.at,
            idle_expires_at=refresh.idle_expires_at,
        )
        .returning(SESSIONS)
    )
    return _session((await write.execute(statement)).mappings().one())


def _reused(session: Session, at: datetime, request_id: str) -> AuditEvent:
    return AuditEvent(
        organization_id=session.organization_id,
        actor_id=session.user_id,
        action=Action.SESSION_REUSED,
        target_id=session.id,
        at=at,
        request_id=request_id,
    )


def _row(session: Session) -> Mapping[str, object]:
    return {
        "id": session.id,
        "organization_id": session.organization_id,
        "user_id": session.user_id,
        "kind": session.kind,
        "secret_hash": session.secret_hash,
        "generation": session.generation,
        "created_at": session.created_at,
        "rotated_at": session.rotated_at,
        "idle_expires_at": session.idle_expires_at,
        "expires_at": session.expires_at,
        "ended_at": session.ended_at,
    }


def _session(row: RowMapping) -> Session:
    return Session(
        id=SessionId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        user_id=UserId(row["user_id"]),
        kind=SessionKind(row["kind"]),
        secret_hash=row["secret_hash"],
        generation=row["generation"],
        created_at=row["created_at"],
        rotated_at=row["rotated_at"],
        idle_expires_at=row["idle_expires_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
    )
