"""Auth as its callers meet it, served for a test: plain gRPC and the contract's messages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
import pytest

from parley.auth.v1 import (
    api_key_service_pb2_grpc,
    organization_service_pb2_grpc,
    token_service_pb2,
    token_service_pb2_grpc,
    user_pb2,
    user_service_pb2,
    user_service_pb2_grpc,
)
from services.auth.app import opened
from services.auth.settings import Settings
from services.mesh.errors import MeshError
from services.mesh.server import running
from services.mesh.status import from_rpc_error
from tests.support.auth import PASSWORD, new_email

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Auth:
    channel: grpc.aio.Channel
    tokens: token_service_pb2_grpc.TokenServiceStub
    users: user_service_pb2_grpc.UserServiceStub
    organizations: organization_service_pb2_grpc.OrganizationServiceStub
    keys: api_key_service_pb2_grpc.ApiKeyServiceStub

    async def register(self) -> user_pb2.User:
        request = user_service_pb2.RegisterUserRequest(email=new_email(), password=PASSWORD)
        return (await self.users.RegisterUser(request, timeout=TIMEOUT_S)).user

    async def login(self, user: user_pb2.User) -> token_service_pb2.LoginResponse:
        request = token_service_pb2.LoginRequest(email=user.email, password=PASSWORD)
        return await self.tokens.Login(request, timeout=TIMEOUT_S)

    async def session_token(self, user: user_pb2.User) -> str:
        kind = token_service_pb2.SESSION_KIND_COOKIE
        request = token_service_pb2.LoginRequest(email=user.email, password=PASSWORD, session_kind=kind)
        return (await self.tokens.Login(request, timeout=TIMEOUT_S)).session_token

    async def as_user(self, user: user_pb2.User) -> tuple[tuple[str, str], ...]:
        """The `metadata=` of calls by the user."""
        access_token = (await self.login(user)).tokens.access_token
        request = token_service_pb2.ExchangeTokenRequest(access_token=access_token, audiences=["auth"])
        response = await self.tokens.ExchangeToken(request, timeout=TIMEOUT_S)
        return (("authorization", f"Bearer {response.tokens[0].token}"),)


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Auth]:
    async with (
        opened(settings) as (app, loops, checks),
        running(settings, servicers=app.servicers(), verifier=app.verifier(), loops=loops, checks=checks) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Auth(
            channel,
            token_service_pb2_grpc.TokenServiceStub(channel),
            user_service_pb2_grpc.UserServiceStub(channel),
            organization_service_pb2_grpc.OrganizationServiceStub(channel),
            api_key_service_pb2_grpc.ApiKeyServiceStub(channel),
        )


def error_of(info: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> MeshError:
    return from_rpc_error(info.value)
