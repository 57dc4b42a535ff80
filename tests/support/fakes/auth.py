"""A stand-in for auth, for tests of the edge: one user, her key and her sessions."""

# ruff: noqa: N802 - gRPC names methods after RPCs.

import asyncio
from typing import Final

from parley.auth.v1 import token_service_pb2 as tokens_pb
from parley.auth.v1 import user_pb2, user_service_pb2, user_service_pb2_grpc
from parley.auth.v1.token_service_pb2_grpc import TokenServiceServicer
from services.mesh.errors import CredentialsInvalid
from services.mesh.ids import new_id
from services.mesh.rpc import RpcContext
from tests.support.fakes.serving import serving
from tests.support.tokens import ORGANIZATION, USER, Issuer

EMAIL: Final = "ada@example.org"
PASSWORD: Final = "correct horse"
API_KEY: Final = "pk_test_key"
SCOPES: Final = frozenset(
    {
        *(
            "profile:read",
            "profile:write",
            "organization:write",
            "keys:read",
            "keys:write",
            "users:read",
            "users:write",
        ),
        *("conversations:read", "conversations:write", "turns:write", "feedback:write", "models:read"),
        *("knowledge:read", "knowledge:write", "inference:generate", "prompts:read", "prompts:write"),
    }
)


@serving(TokenServiceServicer)
class FakeTokens:
    """Knows one user, her key and her sessions.

    Attributes:
        accepted: secrets that are good now; tests revoke by removing.
        exchanges: how often a credential was traded.
        gate: what an exchange waits for.
    """

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.accepted = {API_KEY}
        self.exchanges = 0
        self.gate: asyncio.Event | None = None

    async def Login(self, request: tokens_pb.LoginRequest, context: RpcContext) -> tokens_pb.LoginResponse:
        if (request.email, request.password) != (EMAIL, PASSWORD):
            raise CredentialsInvalid
        token = new_id("pst")
        self.accepted.add(token)
        assert request.session_kind == tokens_pb.SESSION_KIND_COOKIE
        return tokens_pb.LoginResponse(user=user(), session_token=token)

    async def Logout(self, request: tokens_pb.LogoutRequest, context: RpcContext) -> tokens_pb.LogoutResponse:
        self.accepted.discard(request.session_token)
        return tokens_pb.LogoutResponse()

    async def ExchangeToken(
        self, request: tokens_pb.ExchangeTokenRequest, context: RpcContext
    ) -> tokens_pb.ExchangeTokenResponse:
        self.exchanges += 1
        if self.gate is not None:
            await self.gate.wait()
        if getattr(request, request.WhichOneof("subject") or "api_key") not in self.accepted:
            raise CredentialsInvalid
        assert request.workload.name == "edge"
        return tokens_pb.ExchangeTokenResponse(
            tokens=[
                tokens_pb.InternalToken(
                    audience=audience, token=self._issuer.mint(audience=audience, scopes=SCOPES, caller="edge")
                )
                for audience in request.audiences
            ],
            organization_id=ORGANIZATION,
            user_id=USER,
            scopes=sorted(SCOPES),
            credential_id="key_01m81yxdt5er79mzf15ea65abm",
        )


@serving(user_service_pb2_grpc.UserServiceServicer)
class FakeUsers:
    """Knows one user."""

    async def GetMe(
        self, request: user_service_pb2.GetMeRequest, context: RpcContext
    ) -> user_service_pb2.GetMeResponse:
        return user_service_pb2.GetMeResponse(user=user())


def user() -> user_pb2.User:
    return user_pb2.User(
        id=USER, organization_id=ORGANIZATION, email=EMAIL, display_name="Ada", role=user_pb2.ROLE_OWNER
    )
