"""The services behind the edge: one channel each, every method of the contracts by its descriptor."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import grpc.aio

from edge.identity import AUDIENCES
from edge.settings import EdgeSettings
from edge.transcoding.contracts import Contract, files
from parley.auth.v1 import token_service_pb2, token_service_pb2_grpc
from services.mesh.client import open_channel, unary
from services.mesh.debug_http import Check

EXCHANGE_TIMEOUT_S: Final = 3.0

Channels = Mapping[str, grpc.aio.Channel]
"""Channels by service: `auth`, `conversation`, `retrieval`, `inference`."""


@asynccontextmanager
async def open_channels(settings: EdgeSettings) -> AsyncIterator[Channels]:
    """Channels to all services, closed on leaving."""
    async with AsyncExitStack() as stack:
        channels = {}
        for service in AUDIENCES:
            target: str = getattr(settings, f"{service}_target")
            contracts = [file for file in files() if file.package.startswith(f"parley.{service}.")]
            channels[service] = await stack.enter_async_context(open_channel(target, contracts, settings))
        yield channels


def checks(channels: Channels) -> list[Check]:
    """What the edge needs to be ready: a connection to each service."""
    return [Check(service, channel.channel_ready) for service, channel in channels.items()]


def multicallable(channels: Channels, contract: Contract) -> Any:  # Any: grpc.aio's generic callables
    """A method on the channel of its service."""
    channel, method = channels[contract.service], contract.method
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    return make(
        contract.rpc_path,
        request_serializer=contract.request_class.SerializeToString,
        response_deserializer=contract.response_class.FromString,
    )


class AuthTokens:
    """Implements `identity.TokenExchange` on auth."""

    def __init__(self, channels: Channels) -> None:
        self._stub = token_service_pb2_grpc.TokenServiceStub(channels["auth"])

    async def exchange(
        self, request: token_service_pb2.ExchangeTokenRequest
    ) -> token_service_pb2.ExchangeTokenResponse:
        """See `identity.TokenExchange.exchange`."""
        return await unary(self._stub.ExchangeToken(request, timeout=EXCHANGE_TIMEOUT_S))
