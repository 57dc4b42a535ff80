import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc.aio
import pytest

from parley.auth.v1 import token_service_pb2, token_service_pb2_grpc
from services.mesh.client import open_channel
from services.mesh.clock import ManualClock
from services.mesh.errors import CredentialsInvalid, Internal
from services.mesh.rpc import RpcContext
from services.mesh.server import running
from services.mesh.settings import ServerSettings
from services.mesh.tokens import CONTRACT, FRESH_S, OnBehalfOf, WorkloadTokens, internal_verifier
from tests.support.tokens import ORGANIZATION, USER, Issuer

ADA = OnBehalfOf(ORGANIZATION, USER)
BOB = OnBehalfOf(ORGANIZATION, "usr_bob")


class Auth(token_service_pb2_grpc.TokenServiceServicer):
    """What this module needs of auth."""

    def __init__(self) -> None:
        self.issuer = Issuer()
        self.exchanges = 0
        self.mints = True

    async def Login(self, request: object, context: RpcContext) -> token_service_pb2.LoginResponse:  # noqa: N802 - gRPC
        raise NotImplementedError

    async def RefreshToken(self, request: object, context: RpcContext) -> token_service_pb2.RefreshTokenResponse:  # noqa: N802 - as above
        raise NotImplementedError

    async def Logout(self, request: object, context: RpcContext) -> token_service_pb2.LogoutResponse:  # noqa: N802 - as above
        raise NotImplementedError

    async def ExchangeToken(  # noqa: N802 - as above
        self, request: token_service_pb2.ExchangeTokenRequest, context: RpcContext
    ) -> token_service_pb2.ExchangeTokenResponse:
        self.exchanges += 1
        if request.workload.secret != "the secret of conversation":
            raise CredentialsInvalid
        tokens = [
            token_service_pb2.InternalToken(
                audience=audience,
                token=self.issuer.mint(
                    audience=audience,
                    caller=request.workload.name,
                    organization_id=request.on_behalf_of.organization_id,
                    subject_id=request.on_behalf_of.user_id,
                ),
            )
            for audience in request.audiences
        ]
        return token_service_pb2.ExchangeTokenResponse(tokens=tokens if self.mints else [])

    async def GetJwks(self, request: object, context: RpcContext) -> token_service_pb2.GetJwksResponse:  # noqa: N802 - as above
        key = self.issuer.jwk
        return token_service_pb2.GetJwksResponse(
            keys=[token_service_pb2.JsonWebKey(kty="EC", crv="P-256", kid=key.kid, x=key.x, y=key.y)]
        )


@asynccontextmanager
async def channel_to(auth: Auth) -> AsyncIterator[grpc.aio.Channel]:
    settings = ServerSettings(drain_s=0.0, not_serving_pause_s=0.0)
    async with (
        running(
            settings,
            servicers=[lambda server: token_service_pb2_grpc.add_TokenServiceServicer_to_server(auth, server)],
            verifier=None,
        ) as server,
        open_channel(f"127.0.0.1:{server.port}", [CONTRACT]) as channel,
    ):
        yield channel


def tokens_over(
    channel: grpc.aio.Channel, clock: ManualClock, secret: str = "the secret of conversation"
) -> WorkloadTokens:
    return WorkloadTokens(channel, workload="conversation", secret=secret, clock=clock)


async def test_token_of_a_workload_is_good_at_its_audience() -> None:
    auth = Auth()
    async with channel_to(auth) as channel:
        token = await tokens_over(channel, ManualClock()).token("retrieval", ADA)
        principal = await internal_verifier("retrieval", channel).verify(token)
        assert (principal.organization_id, principal.subject_id, principal.caller) == (
            ORGANIZATION,
            USER,
            "conversation",
        )
        with pytest.raises(CredentialsInvalid):
            await internal_verifier("inference", channel).verify(token)


async def test_token_is_kept_per_user_credential_and_audience_while_it_is_fresh() -> None:
    auth, clock = Auth(), ManualClock()
    async with channel_to(auth) as channel:
        tokens = tokens_over(channel, clock)
        first = await tokens.metadata("retrieval", ADA)
        clock.advance(FRESH_S - 1)
        assert await tokens.metadata("retrieval", ADA) == first
        assert auth.exchanges == 1
        await tokens.token("retrieval", BOB)
        await tokens.token("inference", ADA)
        assert auth.exchanges == 3
        await tokens.token("inference", replace(ADA, credential_id="key_1"))
        assert auth.exchanges == 4
        clock.advance(1)
        assert await tokens.metadata("retrieval", ADA) != first
        assert auth.exchanges == 5


async def test_concurrent_callers_share_one_exchange() -> None:
    auth = Auth()
    async with channel_to(auth) as channel:
        tokens = tokens_over(channel, ManualClock())
        got = await asyncio.gather(*(tokens.token("retrieval", ADA) for _ in range(20)))
        assert len(set(got)) == 1
        assert auth.exchanges == 1


async def test_wrong_secret_is_told() -> None:
    async with channel_to(Auth()) as channel:
        with pytest.raises(CredentialsInvalid):
            await tokens_over(channel, ManualClock(), "wrong").token("retrieval", ADA)


async def test_answer_without_a_token_is_a_bug() -> None:
    auth = Auth()
    auth.mints = False
    async with channel_to(auth) as channel:
        with pytest.raises(Internal):
            await tokens_over(channel, ManualClock()).token("retrieval", ADA)
