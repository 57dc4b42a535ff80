"""Trades a credential of any kind for internal tokens: the one door to every service."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from services.auth import credentials
from services.auth.credentials import Kind, Presented
from services.auth.model import ApiKeyId, Grant, OrganizationId, SessionId, UserId
from services.auth.principals import Holder, Principals
from services.auth.recorder import Recorder
from services.auth.scopes import AUDIENCES, AUDIENCES_MAX, ROLE_SCOPES, WORKLOAD_SCOPES
from services.auth.tokens import AccessTokens, InternalToken, InternalTokens
from services.auth.workloads import WorkloadProof, Workloads
from services.mesh import telemetry
from services.mesh.errors import CallerForbidden, CredentialsInvalid, MeshError, invalid_field
from services.mesh.ids import is_id

_EXCHANGES: Final = telemetry.counter(
    "parley_auth_exchanges", "Credentials that were traded for internal tokens, or refused.", ["kind", "reason"]
)


@dataclass(frozen=True, slots=True, repr=False)
class AccessToken:
    """A JWT from a login or a refresh."""

    text: str


@dataclass(frozen=True, slots=True, repr=False)
class ApiKeySecret:
    """The secret of an API key."""

    text: str


@dataclass(frozen=True, slots=True, repr=False)
class SessionToken:
    """The opaque token of a cookie session."""

    text: str


@dataclass(frozen=True, slots=True)
class OnBehalfOf:
    """A user for whom a workload goes on working; `credential_id` is what they asked for the work with, if anything."""

    organization_id: str
    user_id: str
    credential_id: str = ""


Subject: TypeAlias = AccessToken | ApiKeySecret | SessionToken | OnBehalfOf

_KINDS: Final = {
    AccessToken: "access_token",
    ApiKeySecret: "api_key",
    SessionToken: "session_token",
    OnBehalfOf: "on_behalf_of",
}


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Who the credential stands for, and a token per audience in the order in which they were asked for."""

    grant: Grant
    tokens: tuple[InternalToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """The use case and what it works with."""

    principals: Principals
    access_tokens: AccessTokens
    internal_tokens: InternalTokens
    workloads: Workloads
    recorder: Recorder

    async def trade(self, subject: Subject, workload: WorkloadProof | None, audiences: Sequence[str]) -> Exchanged:
        """Internal tokens for a credential.

        Raises:
            InvalidArgument: the audiences are not 1 to 8 different services.
            CredentialsInvalid: the credential or the workload's secret is not good.
            CallerForbidden: `OnBehalfOf` without a workload, or from one that may do nothing for absent users.
        """
        kind = _KINDS[type(subject)]
        try:
            _check_audiences(audiences)
            # First: a process with a wrong secret gets nothing, however good the user's credential is.
            caller = None if workload is None else self.workloads.prove(workload)
            grant = await self._grant(subject, caller)
        except MeshError as error:
            _EXCHANGES.labels(kind, error.reason).inc()
            raise
        _EXCHANGES.labels(kind, "").inc()
        tokens = tuple(self.internal_tokens.mint(grant, audience, caller=caller) for audience in audiences)
        return Exchanged(grant, tokens)

    async def _grant(self, subject: Subject, caller: str | None) -> Grant:
        match subject:
            case AccessToken(text):
                return await self._of_access_token(text)
            case ApiKeySecret(text):
                holder = await self.principals.of_api_key(_parsed(Kind.API_KEY, text))
                self.recorder.api_key_used(ApiKeyId(holder.credential.id))
                return holder.grant()
            case SessionToken(text):
                holder = await self.principals.of_session_token(_parsed(Kind.SESSION_TOKEN, text))
                self.recorder.session_used(SessionId(holder.credential.id))
                return holder.grant()
            case OnBehalfOf():
                return await self._of_absent_user(subject, caller)
            case _:
                assert_never(subject)

    async def _of_access_token(self, text: str) -> Grant:
        principal = await self.access_tokens.verify(text)
        holder: Holder = await self.principals.of_session(SessionId(principal.credential_id))
        if (holder.user.id, holder.user.organization_id) != (principal.subject_id, principal.organization_id):
            raise CredentialsInvalid
        return holder.grant(limit=principal.scopes)

    async def _of_absent_user(self, subject: OnBehalfOf, caller: str | None) -> Grant:
        limit = WORKLOAD_SCOPES.get(caller or "")
        if caller is None or limit is None:
            raise CallerForbidden("only a workload that may work for absent users can ask for this")
        if not is_id("org", subject.organization_id) or not is_id("usr", subject.user_id):
            raise CredentialsInvalid
        credential_id = subject.credential_id
        # The workload is believed, as it is on the user: the credential may have ended since, and gives no rights.
        if credential_id and not is_id("key", credential_id) and not is_id("ses", credential_id):
            raise CredentialsInvalid
        user = await self.principals.user(OrganizationId(subject.organization_id), UserId(subject.user_id))
        if user is None or user.disabled:
            raise CredentialsInvalid
        return Grant(
            organization_id=user.organization_id,
            user_id=user.id,
            credential_id=credential_id or f"workload:{caller}",
            scopes=ROLE_SCOPES[user.role] & limit,
        )


def _parsed(kind: Kind, text: str) -> Presented:
    presented = credentials.parse(kind, text)
    if presented is None:
        raise CredentialsInvalid
    return presented


def _check_audiences(audiences: Sequence[str]) -> None:
    if not 1 <= len(audiences) <= AUDIENCES_MAX or len(set(audiences)) != len(audiences):
        raise invalid_field("audiences", f"must name 1 to {AUDIENCES_MAX} different services")
    for index, audience in enumerate(audiences):
        if audience not in AUDIENCES:
            raise invalid_field(f"audiences[{index}]", "must be one of " + ", ".join(AUDIENCES))
