"""Sessions: begun with a password, carried by a cookie's token or by refresh tokens, ended by whoever holds them.

A refresh token works once. Its successor is derived from it (`credentials.successor`), so that repeating the direct
parent within `REPEAT_GRACE` is told the very same successor: of a hundred parallel uses each gets the same answer and
the family has one head. Anything else that was used before ends the family, because two hands hold it.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.auth import credentials
from services.auth.credentials import Kind, Presented
from services.auth.emails import canonical_email
from services.auth.model import (
    EMAIL_LENGTH_MAX,
    PASSWORD_LENGTH_MAX,
    Account,
    Action,
    AuditEvent,
    Caller,
    Grant,
    Rotation,
    Session,
    SessionId,
    SessionKind,
    User,
)
from services.auth.passwords import Passwords, check_password
from services.auth.principals import Principals
from services.auth.recorder import Recorder
from services.auth.scopes import ROLE_SCOPES
from services.auth.store import Refresh, Store
from services.auth.throttle import LoginThrottle
from services.auth.tokens import AccessTokens, SignedToken
from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import CredentialsInvalid, NotFound, invalid_field
from services.mesh.ids import new_id

REFRESH_IDLE: Final = timedelta(days=30)
REFRESH_LIFE: Final = timedelta(days=90)
COOKIE_IDLE: Final = timedelta(hours=12)
COOKIE_LIFE: Final = timedelta(days=30)
REPEAT_GRACE: Final = timedelta(seconds=10)
"""Covers an answer that was lost on its way and the retry of it; Supabase and Auth0 default to the same."""

_log = telemetry.logger("auth.login")
_LOGINS: Final = telemetry.counter("parley_auth_logins", "Logins by outcome.", ["outcome"])
_REFRESHES: Final = telemetry.counter("parley_auth_refreshes", "Refresh tokens presented, by outcome.", ["outcome"])


@dataclass(frozen=True, slots=True, repr=False)
class TokenPair:
    """What a program holds between calls."""

    access: SignedToken
    refresh: SignedToken


@dataclass(frozen=True, slots=True, repr=False)
class LoggedIn:
    """A begun session: either a pair of tokens or a session token."""

    user: User
    tokens: TokenPair | None
    session_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The use cases and what they work with."""

    store: Store
    passwords: Passwords
    throttle: LoginThrottle
    principals: Principals
    access_tokens: AccessTokens
    recorder: Recorder
    succession_key: bytes
    clock: Clock

    async def login(self, email: str, password: str, kind: SessionKind, *, request_id: str = "") -> LoggedIn:
        """Begins a session.

        Raises:
            InvalidArgument: a field passes its length.
            RateLimited: too many tries on this account, or on all together.
            CredentialsInvalid: no such account, wrong password or disabled: told alike, after the same work.
            Overloaded: too many passwords wait to be checked.
        """
        if len(email) > EMAIL_LENGTH_MAX:
            raise invalid_field("email", f"must have at most {EMAIL_LENGTH_MAX} characters")
        _bound_password("password", password)
        name = canonical_email(email)
        await self.throttle.take(name)
        account = await self.store.find_account(name)
        verdict = await self.passwords.verify(account.password_hash if account else None, password)
        if account is None or not verdict.is_right or account.user.disabled:
            self._note_failure(account, request_id)
            raise CredentialsInvalid
        await self.throttle.give_back(name)
        if verdict.rehashed is not None:
            await self.store.replace_hash(account, verdict.rehashed)
        _LOGINS.labels("succeeded").inc()
        return await self._begin(account.user, kind, request_id)

    async def refresh(self, refresh_token: str, *, request_id: str = "") -> TokenPair:
        """Trades a refresh token for the next pair.

        Raises:
            CredentialsInvalid: unknown, expired, of a session that ended, or used before.
        """
        presented = credentials.parse(Kind.REFRESH_TOKEN, refresh_token)
        if presented is None:
            raise CredentialsInvalid
        session_id = SessionId(presented.id)
        successor = credentials.successor(Kind.REFRESH_TOKEN, session_id, parent=refresh_token, key=self.succession_key)
        now = self.clock.now()
        rotated = await self.store.refresh(
            Refresh(
                session_id=session_id,
                presented_hash=presented.secret_hash,
                successor_hash=credentials.hash_of(successor),
                at=now,
                grace=REPEAT_GRACE,
                idle_expires_at=now + REFRESH_IDLE,
            ),
            request_id,
        )
        _REFRESHES.labels(rotated.outcome.value).inc()
        session, user = rotated.session, rotated.user
        if rotated.outcome is Rotation.REUSED and session is not None:
            _log.warning("refresh_token_reused", session_id=session.id, user_id=session.user_id)
            await self.principals.forget_sessions([session])
        if rotated.outcome not in {Rotation.ROTATED, Rotation.REPEATED} or session is None or user is None:
            raise CredentialsInvalid
        return self._pair(session, user, successor)

    async def logout(self, kind: Kind, token: str, *, request_id: str = "") -> None:
        """Ends the session of a token; an unknown token is no error, so that nothing is learned from the answer."""
        presented = credentials.parse(kind, token)
        if presented is None:
            return
        session = await self._session_of(presented)
        if session is None:
            return
        event = AuditEvent(
            organization_id=session.organization_id,
            actor_id=session.user_id,
            action=Action.SESSION_ENDED,
            target_id=session.id,
            at=self.clock.now(),
            request_id=request_id,
        )
        await self.store.end_session(session, event)
        await self.principals.forget_sessions([session])

    async def change_password(self, caller: Caller, current: str, new: str) -> None:
        """Replaces the caller's password and ends all of their sessions but the calling one.

        Raises:
            InvalidArgument: the new password is too short or too long.
            RateLimited: too many tries; they count with the logins of the account.
            CredentialsInvalid: the current password is wrong.
            Overloaded: too many passwords wait to be checked.
        """
        check_password("new_password", new)
        _bound_password("current_password", current)
        account = await self.store.get_account(caller.organization_id, caller.user_id)
        if account is None:
            raise NotFound.of("user")
        await self.throttle.take(account.user.email)
        verdict = await self.passwords.verify(account.password_hash, current)
        if not verdict.is_right:
            self._note_failure(account, caller.request_id)
            raise CredentialsInvalid("the current password is wrong")
        await self.throttle.give_back(account.user.email)
        ended = await self.store.set_password(
            account,
            await self.passwords.hash(new),
            keep=SessionId(caller.credential_id),
            event=caller.event(Action.PASSWORD_CHANGED, caller.user_id, self.clock.now()),
        )
        if ended is None:
            raise CredentialsInvalid("the current password is wrong")
        await self.principals.forget_sessions(ended)

    async def _begin(self, user: User, kind: SessionKind, request_id: str) -> LoggedIn:
        now = self.clock.now()
        session_id = SessionId(new_id("ses"))
        is_cookie = kind is SessionKind.COOKIE
        secret = credentials.new_secret(Kind.SESSION_TOKEN if is_cookie else Kind.REFRESH_TOKEN, session_id)
        session = Session(
            id=session_id,
            organization_id=user.organization_id,
            user_id=user.id,
            kind=kind,
            secret_hash=credentials.hash_of(secret),
            generation=0,
            created_at=now,
            rotated_at=now,
            idle_expires_at=now + (COOKIE_IDLE if is_cookie else REFRESH_IDLE),
            expires_at=now + (COOKIE_LIFE if is_cookie else REFRESH_LIFE),
        )
        event = AuditEvent(
            organization_id=user.organization_id,
            actor_id=user.id,
            action=Action.LOGIN_SUCCEEDED,
            target_id=session_id,
            at=now,
            request_id=request_id,
        )
        await self.principals.forget_sessions(await self.store.create_session(session, event))
        if is_cookie:
            return LoggedIn(user, None, secret)
        return LoggedIn(user, self._pair(session, user, secret), "")

    def _pair(self, session: Session, user: User, refresh_token: str) -> TokenPair:
        grant = Grant(
            organization_id=user.organization_id,
            user_id=user.id,
            credential_id=session.id,
            scopes=ROLE_SCOPES[user.role],
        )
        expires_at = min(session.idle_expires_at, session.expires_at)
        return TokenPair(self.access_tokens.issue(grant), SignedToken(refresh_token, expires_at))

    async def _session_of(self, presented: Presented) -> Session | None:
        session = await self.store.find_session_of(SessionId(presented.id), presented.secret_hash)
        return session if session is not None and session.ended_at is None else None

    def _note_failure(self, account: Account | None, request_id: str) -> None:
        _LOGINS.labels("refused").inc()
        if account is None:
            return
        user = account.user
        self.recorder.login_failed(
            AuditEvent(
                organization_id=user.organization_id,
                actor_id=user.id,
                action=Action.LOGIN_FAILED,
                target_id=user.id,
                at=self.clock.now(),
                request_id=request_id,
            )
        )


def _bound_password(field: str, password: str) -> None:
    """A password that was given to be checked: a short one is merely wrong, a huge one is not even hashed."""
    if len(password) > PASSWORD_LENGTH_MAX:
        raise invalid_field(field, f"must have at most {PASSWORD_LENGTH_MAX} characters")
