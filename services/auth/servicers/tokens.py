"""TokenService."""

from parley.auth.v1 import token_service_pb2 as pb
from parley.auth.v1.token_service_pb2_grpc import TokenServiceServicer
from services.auth import wire
from services.auth.exchange import Exchange
from services.auth.login import Sessions
from services.auth.signing import SigningKeys
from services.mesh import context, rpc
from services.mesh.rpc import RpcContext


class TokenServicer(TokenServiceServicer):
    """Turns credentials into short-lived tokens."""

    def __init__(self, sessions: Sessions, exchange: Exchange, keys: SigningKeys) -> None:
        self._sessions = sessions
        self._exchange = exchange
        self._keys = keys

    async def Login(self, request: pb.LoginRequest, _context: RpcContext) -> pb.LoginResponse:
        """Begins a session."""
        logged_in = await self._sessions.login(
            request.email,
            request.password,
            wire.session_kind_of(request),
            request_id=context.request_id(),
        )
        return wire.login_message(logged_in)

    async def RefreshToken(self, request: pb.RefreshTokenRequest, _context: RpcContext) -> pb.RefreshTokenResponse:
        """Trades a refresh token for a new pair."""
        pair = await self._sessions.refresh(request.refresh_token, request_id=context.request_id())
        return pb.RefreshTokenResponse(tokens=wire.token_pair_message(pair))

    async def Logout(self, request: pb.LogoutRequest, _context: RpcContext) -> pb.LogoutResponse:
        """Ends a session."""
        kind, token = wire.logout_of(request)
        await self._sessions.logout(kind, token, request_id=context.request_id())
        return pb.LogoutResponse()

    async def ExchangeToken(self, request: pb.ExchangeTokenRequest, _context: RpcContext) -> pb.ExchangeTokenResponse:
        """Trades a credential for internal tokens."""
        exchanged = await self._exchange.trade(
            wire.subject_of(request), wire.workload_of(request, rpc.peer()), tuple(request.audiences)
        )
        return wire.exchange_message(exchanged)

    async def GetJwks(self, _request: pb.GetJwksRequest, _context: RpcContext) -> pb.GetJwksResponse:
        """The public keys."""
        return wire.jwks_message(self._keys.published())
