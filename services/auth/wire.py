"""Between the contract's messages and the model; no input, no output."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from parley.auth.v1 import api_key_service_pb2, token_service_pb2, user_pb2, user_service_pb2
from services.auth.accounts import NewUser, Registration
from services.auth.api_keys import NewKey
from services.auth.credentials import Kind
from services.auth.exchange import AccessToken, ApiKeySecret, Exchanged, OnBehalfOf, SessionToken, Subject
from services.auth.login import LoggedIn, TokenPair
from services.auth.model import ApiKey, Cursor, Organization, Role, SessionKind, User, UserChange
from services.auth.scopes import ROLE_SCOPES
from services.auth.workloads import WorkloadProof
from services.mesh.errors import invalid_field
from services.mesh.idempotency import check_key
from services.mesh.instants import instant_of, timestamp
from services.mesh.keys import JsonWebKey
from services.mesh.pages import Position

_ROLES: Final = {
    user_pb2.ROLE_VIEWER: Role.VIEWER,
    user_pb2.ROLE_MEMBER: Role.MEMBER,
    user_pb2.ROLE_ADMIN: Role.ADMIN,
    user_pb2.ROLE_OWNER: Role.OWNER,
}
_ROLE_NUMBERS: Final = {role: number for number, role in _ROLES.items()}
_SESSION_KINDS: Final = {
    token_service_pb2.SESSION_KIND_UNSPECIFIED: SessionKind.TOKENS,
    token_service_pb2.SESSION_KIND_TOKENS: SessionKind.TOKENS,
    token_service_pb2.SESSION_KIND_COOKIE: SessionKind.COOKIE,
}
_CHANGEABLE: Final = frozenset({"display_name", "role", "disabled"})
SCOPES_MAX: Final = 64
"""Named by one request; there are fewer scopes than this."""


def user_message(user: User) -> user_pb2.User:
    """A user with the scopes of its role."""
    return user_pb2.User(
        id=user.id,
        organization_id=user.organization_id,
        email=user.email,
        display_name=user.display_name,
        role=_ROLE_NUMBERS[user.role],
        disabled=user.disabled,
        create_time=timestamp(user.created_at),
        scopes=sorted(ROLE_SCOPES[user.role]),
    )


def organization_message(organization: Organization) -> user_pb2.Organization:
    """An organization."""
    return user_pb2.Organization(
        id=organization.id,
        display_name=organization.display_name,
        create_time=timestamp(organization.created_at),
    )


def api_key_message(key: ApiKey) -> user_pb2.ApiKey:
    """A key, without its secret, which nobody has."""
    return user_pb2.ApiKey(
        id=key.id,
        user_id=key.user_id,
        display_name=key.display_name,
        hint=key.hint,
        scopes=sorted(key.scopes),
        create_time=timestamp(key.created_at),
        expire_time=timestamp(key.expires_at),
        revoke_time=timestamp(key.revoked_at),
        last_used_time=timestamp(key.last_used_at),
    )


def token_pair_message(pair: TokenPair) -> token_service_pb2.TokenPair:
    """A pair of tokens."""
    return token_service_pb2.TokenPair(
        access_token=pair.access.text,
        access_token_expire_time=timestamp(pair.access.expires_at),
        refresh_token=pair.refresh.text,
        refresh_token_expire_time=timestamp(pair.refresh.expires_at),
    )


def login_message(logged_in: LoggedIn) -> token_service_pb2.LoginResponse:
    """A begun session."""
    return token_service_pb2.LoginResponse(
        user=user_message(logged_in.user),
        tokens=None if logged_in.tokens is None else token_pair_message(logged_in.tokens),
        session_token=logged_in.session_token,
    )


def exchange_message(exchanged: Exchanged) -> token_service_pb2.ExchangeTokenResponse:
    """Who a credential stands for, and its tokens."""
    return token_service_pb2.ExchangeTokenResponse(
        tokens=[
            token_service_pb2.InternalToken(
                audience=minted.audience, token=minted.token.text, expire_time=timestamp(minted.token.expires_at)
            )
            for minted in exchanged.tokens
        ],
        organization_id=exchanged.grant.organization_id,
        user_id=exchanged.grant.user_id,
        scopes=sorted(exchanged.grant.scopes),
        credential_id=exchanged.grant.credential_id,
    )


def jwks_message(keys: Sequence[JsonWebKey]) -> token_service_pb2.GetJwksResponse:
    """Public keys in the form of RFC 7517."""
    return token_service_pb2.GetJwksResponse(
        keys=[
            token_service_pb2.JsonWebKey(kty="EC", crv="P-256", x=key.x, y=key.y, kid=key.kid, alg="ES256", use="sig")
            for key in keys
        ]
    )


def session_kind_of(request: token_service_pb2.LoginRequest) -> SessionKind:
    """How the session shall be carried.

    Raises:
        InvalidArgument: a kind that this version does not know.
    """
    kind = _SESSION_KINDS.get(request.session_kind)
    if kind is None:
        raise invalid_field("session_kind", "must be TOKENS or COOKIE")
    return kind


def logout_of(request: token_service_pb2.LogoutRequest) -> tuple[Kind, str]:
    """Which session shall end.

    Raises:
        InvalidArgument: no token is named.
    """
    if request.HasField("session_token"):
        return Kind.SESSION_TOKEN, request.session_token
    if request.HasField("refresh_token"):
        return Kind.REFRESH_TOKEN, request.refresh_token
    raise invalid_field("token", "must be a refresh_token or a session_token")


def subject_of(request: token_service_pb2.ExchangeTokenRequest) -> Subject:
    """The credential to trade.

    Raises:
        InvalidArgument: there is none.
    """
    match request.WhichOneof("subject"):
        case "access_token":
            return AccessToken(request.access_token)
        case "api_key":
            return ApiKeySecret(request.api_key)
        case "session_token":
            return SessionToken(request.session_token)
        case "on_behalf_of":
            absent = request.on_behalf_of
            return OnBehalfOf(absent.organization_id, absent.user_id, absent.credential_id)
        case _:
            raise invalid_field("subject", "must be one credential")


def workload_of(request: token_service_pb2.ExchangeTokenRequest, peer: str | None) -> WorkloadProof | None:
    """The process that calls, where it says that it is one of ours.

    Args:
        request: what it says.
        peer: whom the certificate of its connection names.
    """
    if not request.HasField("workload"):
        return None
    return WorkloadProof(request.workload.name, request.workload.secret, peer)


def registration_of(request: user_service_pb2.RegisterUserRequest) -> Registration:
    """A person who wants an organization."""
    return Registration(
        email=request.email,
        password=request.password,
        display_name=request.display_name,
        organization_name=request.organization_name,
    )


def new_user_of(request: user_service_pb2.CreateUserRequest) -> NewUser:
    """A person who is to be a member.

    Raises:
        InvalidArgument: the request id is malformed, or the role unknown.
    """
    role = Role.MEMBER if request.role == user_pb2.ROLE_UNSPECIFIED else _role("role", request.role)
    return NewUser(
        request_id=check_key(request.request_id),
        email=request.email,
        password=request.password,
        display_name=request.display_name,
        role=role,
    )


def change_of(request: user_service_pb2.UpdateUserRequest) -> UserChange:
    """What shall change: the fields of the mask, or without one those that the user in the request has.

    Raises:
        InvalidArgument: the mask names another field, or the role is unknown.
    """
    user = request.user
    if request.HasField("update_mask"):
        paths = frozenset(request.update_mask.paths)
    else:
        paths = frozenset(field.name for field, _ in user.ListFields()) & _CHANGEABLE
    for path in sorted(paths - _CHANGEABLE):
        raise invalid_field("update_mask", f"{path[:64]!r} cannot be changed; display_name, role and disabled can")
    return UserChange(
        display_name=user.display_name if "display_name" in paths else None,
        role=_role("user.role", user.role) if "role" in paths else None,
        disabled=user.disabled if "disabled" in paths else None,
    )


def new_key_of(request: api_key_service_pb2.CreateApiKeyRequest) -> NewKey:
    """What a key is to be.

    Raises:
        InvalidArgument: too many scopes, or an instant out of range.
    """
    if len(request.scopes) > SCOPES_MAX:
        raise invalid_field("scopes", f"must be at most {SCOPES_MAX}")
    has_end = request.HasField("expire_time")
    return NewKey(
        display_name=request.display_name,
        scopes=frozenset(request.scopes),
        expires_at=instant_of("expire_time", request.expire_time) if has_end else None,
    )


def position_of(item: User | ApiKey) -> Position:
    """Where a page ended, for its token."""
    return (item.created_at.isoformat(), item.id)


def cursor_of(position: Position | None) -> Cursor | None:
    """Where a page ended, from its token.

    Raises:
        InvalidArgument: it is no position of ours.
    """
    match position:
        case None:
            return None
        case (str(text), str(item_id)):
            created_at = _instant_of_text(text)
            if created_at is not None and item_id.isprintable():
                return Cursor(created_at, item_id)
    raise invalid_field("page_token", "must be the next_page_token of the page before")


def _instant_of_text(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if instant.tzinfo is None else instant


def _role(field: str, number: int) -> Role:
    role = {int(known): role for known, role in _ROLES.items()}.get(number)
    if role is None:
        raise invalid_field(field, "must be one of viewer, member, admin, owner")
    return role
