"""Signing in and out on the page: the session token of a login lives in a cookie that no script can read."""

from typing import Final

from starlette.types import Receive, Scope, Send

from edge.http import Exchange, set_cookie
from edge.identity import CookieRule, CredentialKind, Identities, credential_of
from edge.middleware import ROUTE_KEY
from edge.transcoding.decoding import Decoders
from edge.transcoding.encoding import Encoders, dump
from edge.transcoding.requests import read_json, refusal
from edge.transcoding.scalars import Misfit
from parley.auth.v1 import token_service_pb2, token_service_pb2_grpc, user_pb2
from services.mesh.client import unary
from services.mesh.errors import OriginForbidden, invalid_field

COOKIE_AGE_S: Final = 30 * 24 * 3600
"""The longest that auth lets a session live; it ends earlier when auth says so."""
_KIND: Final = "session_kind"


class BeginSession:
    """`POST /api/v1/auth/session`: a login whose session is kept in a cookie; answers with the user."""

    def __init__(
        self,
        tokens: token_service_pb2_grpc.TokenServiceStub,
        cookie: CookieRule,
        encoders: Encoders,
        decoders: Decoders,
    ) -> None:
        self._tokens = tokens
        self._cookie = cookie
        self._decode = decoders.of(token_service_pb2.LoginRequest.DESCRIPTOR)
        self._encode = encoders.of(user_pb2.User.DESCRIPTOR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "session.begin"
        if not self._cookie.is_same_origin(exchange, absent=True):
            raise OriginForbidden("a session begins on pages of this site only")
        response = await unary(self._tokens.Login(await self._request(exchange)))
        cookie = set_cookie(
            self._cookie.name, response.session_token, age_s=COOKIE_AGE_S, is_secure=self._cookie.is_secure
        )
        await exchange.respond(201, dump(self._encode(response.user)), headers=[("set-cookie", cookie)])

    async def _request(self, exchange: Exchange) -> token_service_pb2.LoginRequest:
        try:
            fields = self._decode(await read_json(exchange))
        except Misfit as misfit:
            raise refusal(misfit) from None
        if _KIND in fields:
            raise invalid_field(_KIND, "is not known")
        request = token_service_pb2.LoginRequest(**fields)  # type: ignore[arg-type]  # checked against this very type
        request.session_kind = token_service_pb2.SESSION_KIND_COOKIE
        return request


class EndSession:
    """`DELETE /api/v1/auth/session`: ends the session and removes the cookie, whether it was still good or not."""

    def __init__(
        self, tokens: token_service_pb2_grpc.TokenServiceStub, cookie: CookieRule, identities: Identities
    ) -> None:
        self._tokens = tokens
        self._cookie = cookie
        self._identities = identities

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "session.end"
        credential = credential_of(exchange, self._cookie)
        if credential is not None and credential.kind is CredentialKind.SESSION:
            await unary(self._tokens.Logout(token_service_pb2.LogoutRequest(session_token=credential.secret)))
            self._identities.forget(credential)
        cookie = set_cookie(self._cookie.name, "", age_s=0, is_secure=self._cookie.is_secure)
        await exchange.respond(204, headers=[("set-cookie", cookie)])
