"""Internal tokens and keys from auth: the one module of the chassis that knows auth's contract.

Every deployable needs both, so they are here and not in four copies of `clients.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc.aio

from parley.auth.v1 import token_service_pb2, token_service_pb2_grpc
from services.mesh.client import unary
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import Internal
from services.mesh.identity import TokenRules, TokenVerifier
from services.mesh.interceptors.identity import AUTHORIZATION_KEY
from services.mesh.keys import JsonWebKey, KeyRing
from services.mesh.remembered import Remembered

CONTRACT: Final = token_service_pb2.DESCRIPTOR
"""For `open_channel(settings.auth_target, [CONTRACT], settings)`."""
FRESH_S: Final = 30.0
"""A token is handed out again for half of its 60 s, so its receiver has at least the other half."""
CACHED_MAX: Final = 10_000
EXCHANGE_TIMEOUT_S: Final = 2.0

Metadata = tuple[tuple[str, str], ...]


class AuthKeySource:
    """Implements `keys.KeySource` on auth's `GetJwks`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = token_service_pb2_grpc.TokenServiceStub(channel)

    async def fetch(self) -> Sequence[JsonWebKey]:
        """See `keys.KeySource.fetch`."""
        response = await unary(self._stub.GetJwks(token_service_pb2.GetJwksRequest()))
        return [JsonWebKey(kid=key.kid, x=key.x, y=key.y) for key in response.keys]


def internal_verifier(audience: str, channel: grpc.aio.Channel, *, clock: Clock = SYSTEM_CLOCK) -> TokenVerifier:
    """The verifier of a service's own internal tokens, with keys from auth over `channel`."""
    return TokenVerifier(TokenRules(audience=audience), KeyRing(AuthKeySource(channel), clock=clock), clock=clock)


@dataclass(frozen=True, slots=True)
class OnBehalfOf:
    """For whom a workload works, and with which credential they asked for it; empty where its budgets do not matter."""

    organization_id: str
    subject_id: str
    credential_id: str = ""


class WorkloadTokens:
    """Internal tokens for what a process does on behalf of a user after the user's own credential has gone.

    Cached per user, credential and audience for `FRESH_S`; concurrent callers share one exchange.
    """

    def __init__(self, channel: grpc.aio.Channel, *, workload: str, secret: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._stub = token_service_pb2_grpc.TokenServiceStub(channel)
        self._workload = token_service_pb2.Workload(name=workload, secret=secret)
        self._known: Remembered[tuple[OnBehalfOf, str], str] = Remembered(
            life_s=FRESH_S, answers_max=CACHED_MAX, clock=clock
        )

    async def metadata(self, audience: str, on_behalf_of: OnBehalfOf) -> Metadata:
        """The `metadata=` of a call to the service `audience`.

        Raises:
            CredentialsInvalid: auth refuses the workload, or the user is gone.
            Unavailable: auth cannot be reached.
        """
        return ((AUTHORIZATION_KEY, f"Bearer {await self.token(audience, on_behalf_of)}"),)

    async def token(self, audience: str, on_behalf_of: OnBehalfOf) -> str:
        """The token itself; see `metadata`."""
        return await self._known.get((on_behalf_of, audience), lambda: self._exchange(on_behalf_of, audience))

    async def _exchange(self, on_behalf_of: OnBehalfOf, audience: str) -> str:
        request = token_service_pb2.ExchangeTokenRequest(
            on_behalf_of=token_service_pb2.OnBehalfOf(
                organization_id=on_behalf_of.organization_id,
                user_id=on_behalf_of.subject_id,
                credential_id=on_behalf_of.credential_id,
            ),
            workload=self._workload,
            audiences=[audience],
        )
        response = await unary(self._stub.ExchangeToken(request, timeout=EXCHANGE_TIMEOUT_S))
        token = next((minted.token for minted in response.tokens if minted.audience == audience), None)
        if not token:
            raise Internal(f"auth minted no token for {audience!r}")
        return token
