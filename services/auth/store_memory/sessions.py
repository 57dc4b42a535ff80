"""Sessions and refresh tokens in memory."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from services.auth.model import Action, AuditEvent, RefreshToken, Rotation, Session, SessionId, SessionKind
from services.auth.store import SESSIONS_PER_USER_MAX, Refresh, Rotated
from services.auth.store_memory.rows import MemoryAudit


class MemorySessions(MemoryAudit):
    """Implements `store.SessionStore`."""

    async def create_session(self, session: Session, event: AuditEvent) -> list[Session]:
        """See `store.SessionStore.create_session`."""
        live = sorted(
            (
                other
                for other in self._rows.sessions.values()
                if other.user_id == session.user_id and other.ended_at is None
            ),
            key=lambda other: (other.created_at, other.id),
            reverse=True,
        )
        ended = [replace(other, ended_at=session.created_at) for other in live[SESSIONS_PER_USER_MAX - 1 :]]
        self._rows.sessions.update({other.id: other for other in (*ended, session)})
        if session.kind is SessionKind.TOKENS:
            self._rows.refresh_tokens[session.id] = [
                RefreshToken(
                    session_id=session.id,
                    generation=session.generation,
                    secret_hash=session.secret_hash,
                    issued_at=session.created_at,
                )
            ]
        self._rows.events.append(event)
        return ended

    async def find_session(self, session_id: SessionId) -> Session | None:
        """See `store.SessionStore.find_session`."""
        return self._rows.sessions.get(session_id)

    async def find_session_of(self, session_id: SessionId, secret_hash: bytes) -> Session | None:
        """See `store.SessionStore.find_session_of`."""
        session = self._rows.sessions.get(session_id)
        if session is None:
            return None
        is_own = session.secret_hash == secret_hash or self._token(session_id, secret_hash) is not None
        return session if is_own else None

    async def refresh(self, refresh: Refresh, request_id: str) -> Rotated:
        """See `store.SessionStore.refresh`."""
        session = self._rows.sessions.get(refresh.session_id)
        token = self._token(refresh.session_id, refresh.presented_hash)
        if session is None or token is None:
            return Rotated(Rotation.REFUSED)
        user = self._rows.accounts[session.user_id].user
        if user.disabled or not session.is_live(refresh.at):
            return Rotated(Rotation.REFUSED, session, user)
        if token.used_at is None:
            return Rotated(Rotation.ROTATED, self._rotate(session, token, refresh), user)
        if token.generation == session.generation - 1 and refresh.at <= session.rotated_at + refresh.grace:
            is_same = session.secret_hash == refresh.successor_hash
            return Rotated(Rotation.REPEATED if is_same else Rotation.REFUSED, session, user)
        self._rows.sessions[session.id] = replace(session, ended_at=refresh.at)
        self._rows.events.append(
            AuditEvent(
                organization_id=session.organization_id,
                actor_id=session.user_id,
                action=Action.SESSION_REUSED,
                target_id=session.id,
                at=refresh.at,
                request_id=request_id,
            )
        )
        return Rotated(Rotation.REUSED, session, user)

    async def end_session(self, session: Session, event: AuditEvent) -> bool:
        """See `store.SessionStore.end_session`."""
        present = self._rows.sessions.get(session.id)
        if present is None or present.ended_at is not None:
            return False
        self._rows.sessions[session.id] = replace(present, ended_at=event.at)
        self._rows.events.append(event)
        return True

    async def end_all_sessions(self, at: datetime) -> int:
        """See `store.SessionStore.end_all_sessions`."""
        live = [session for session in self._rows.sessions.values() if session.ended_at is None]
        for session in live:
            self._rows.sessions[session.id] = replace(session, ended_at=at)
        return len(live)

    async def touch_sessions(self, idle_ends: Mapping[SessionId, datetime]) -> None:
        """See `store.SessionStore.touch_sessions`."""
        for session_id, idle_end in idle_ends.items():
            session = self._rows.sessions.get(session_id)
            if session is not None and session.ended_at is None:
                latest = max(session.idle_expires_at, idle_end)
                self._rows.sessions[session_id] = replace(session, idle_expires_at=latest)

    async def forget_sessions(self, ended_before: datetime, limit: int) -> int:
        """See `store.SessionStore.forget_sessions`."""
        old = [session.id for session in self._rows.sessions.values() if _over_at(session) < ended_before][:limit]
        for session_id in old:
            del self._rows.sessions[session_id]
            self._rows.refresh_tokens.pop(session_id, None)
        return len(old)

    def _token(self, session_id: SessionId, secret_hash: bytes) -> RefreshToken | None:
        family = self._rows.refresh_tokens.get(session_id, [])
        return next((token for token in family if token.secret_hash == secret_hash), None)

    def _rotate(self, session: Session, token: RefreshToken, refresh: Refresh) -> Session:
        family = self._rows.refresh_tokens[session.id]
        family[family.index(token)] = replace(token, used_at=refresh.at)
        family.append(
            RefreshToken(
                session_id=session.id,
                generation=session.generation + 1,
                secret_hash=refresh.successor_hash,
                issued_at=refresh.at,
            )
        )
        rotated = replace(
            session,
            secret_hash=refresh.successor_hash,
            generation=session.generation + 1,
            rotated_at=refresh.at,
            idle_expires_at=refresh.idle_expires_at,
        )
        self._rows.sessions[session.id] = rotated
        return rotated


def _over_at(session: Session) -> datetime:
    return min(session.ended_at or session.expires_at, session.idle_expires_at)
