"""One credential rule: `Authorization: Bearer`, `x-api-key` or the session cookie becomes one principal.

A credential is exchanged at auth for internal tokens, one per service, and remembered for two seconds by its SHA-256:
auth itself forgets a revoked one within three, so that it is refused everywhere within five.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol
from urllib.parse import urlsplit

from edge.http import SAFE_METHODS, Exchange
from parley.auth.v1 import token_service_pb2
from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import CredentialsAmbiguous, CredentialsInvalid, OriginForbidden
from services.mesh.remembered import Remembered

WORKLOAD: Final = "edge"
AUDIENCES: Final = ("auth", "conversation", "retrieval", "inference")
REMEMBERED_S: Final = 2.0
REMEMBERED_MAX: Final = 5_000
"""About 3 KB each, mostly the four tokens."""
CREDENTIAL_LENGTH_MAX: Final = 4_096

_BEARER: Final = re.compile(r"Bearer +([\x21-\x7e]+)", re.ASCII | re.IGNORECASE)
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)
_JWT_DOTS: Final = 2

_EXCHANGES: Final = telemetry.counter(
    "parley_edge_token_exchanges", "Credentials exchanged at auth, by how it ended.", ["outcome"]
)
_AGE: Final = telemetry.histogram(
    "parley_edge_identity_age_seconds",
    "How long ago auth was asked about the credential of a request that was let in.",
    buckets=(0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0),
)

Metadata = tuple[tuple[str, str], ...]


class CredentialKind(Enum):
    """How a credential is written in the exchange."""

    ACCESS_TOKEN = "access_token"  # noqa: S105 - the name of a field
    API_KEY = "api_key"
    SESSION = "session_token"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller proves itself with."""

    kind: CredentialKind
    secret: str

    def __repr__(self) -> str:
        return f"Credential({self.kind.name})"


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is made.

    Attributes:
        user_id: the principal.
        organization_id: its tenant.
        credential_id: the key or session behind it, for the log.
        metadata: of calls, by service.
    """

    user_id: str
    organization_id: str
    credential_id: str
    metadata: Mapping[str, Metadata]


@dataclass(frozen=True, slots=True)
class _Exchanged:
    """What auth said of a credential, None when it refused it; as of an instant of the clock."""

    caller: Caller | None
    asked_at: float


class TokenExchange(Protocol):
    """What identity needs of auth."""

    async def exchange(
        self, request: token_service_pb2.ExchangeTokenRequest
    ) -> token_service_pb2.ExchangeTokenResponse:
        """Trade a credential; raises CredentialsInvalid when it is refused."""
        ...


@dataclass(frozen=True, slots=True)
class CookieRule:
    """The session cookie, and what a request that carries it must show.

    Attributes:
        name: of the cookie.
        is_secure: whether browsers send it over TLS only.
        origin: scheme, host and port of the pages that may use it; None for the host that the request names.
    """

    name: str
    is_secure: bool
    origin: str | None

    @classmethod
    def of(cls, public_url: str, *, is_secure: bool) -> "CookieRule":
        """The rule for pages at `public_url`, which may be empty."""
        url = urlsplit(public_url)
        name = "__Host-parley_session" if is_secure else "parley_session"
        return cls(name, is_secure, f"{url.scheme}://{url.netloc}" if public_url else None)

    def is_same_origin(self, exchange: Exchange, *, absent: bool) -> bool:
        """Whether the request comes from a page of ours; `absent` is the answer without a browser's headers."""
        site = exchange.header("sec-fetch-site")
        if site is not None:
            return site == "same-origin"
        origin = exchange.header("origin")
        if origin is None:
            return absent
        if self.origin is not None:
            return origin == self.origin
        return urlsplit(origin).netloc == (exchange.header("host") or "") != ""


def credential_of(exchange: Exchange, cookie: CookieRule) -> Credential | None:
    """The credential of a request, None when there is none.

    Raises:
        CredentialsAmbiguous: more than one was sent.
        CredentialsInvalid: one was sent that cannot be any.
        OriginForbidden: a cookie, on a request that changes something and does not come from a page of ours.
    """
    bearers = exchange.headers("authorization")
    keys = exchange.headers("x-api-key")
    sessions = exchange.cookies(cookie.name)
    sent = len(bearers) + len(keys) + len(sessions)
    if sent > 1:
        raise CredentialsAmbiguous("send one of Authorization, x-api-key and the session cookie, and send it once")
    if not sent:
        return None
    if bearers:
        match = _BEARER.fullmatch(bearers[0])
        return _sound(_kind_of(match[1]), match[1]) if match else _refuse()
    if keys:
        return _sound(CredentialKind.API_KEY, keys[0])
    if exchange.method not in SAFE_METHODS and not cookie.is_same_origin(exchange, absent=False):
        raise OriginForbidden("the session cookie changes things for pages of this site only")
    return _sound(CredentialKind.SESSION, sessions[0])


class Identities:
    """Callers by credential, exchanged at auth and remembered for `REMEMBERED_S`; refusals too."""

    def __init__(
        self,
        tokens: TokenExchange,
        *,
        workload_secret: str,
        clock: Clock = SYSTEM_CLOCK,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        self._tokens = tokens
        self._workload = token_service_pb2.Workload(name=WORKLOAD, secret=workload_secret)
        self._clock = clock
        self._exchanged: Remembered[bytes, _Exchanged] = Remembered(
            life_s=REMEMBERED_S, answers_max=remembered_max, clock=clock
        )

    async def caller(self, credential: Credential) -> Caller:
        """Who a credential stands for; concurrent callers share one exchange.

        Raises:
            CredentialsInvalid: auth refuses it.
            MeshError: auth cannot answer.
        """
        found = await self._exchanged.get(_digest(credential), lambda: self._exchange(credential))
        if found.caller is None:
            raise CredentialsInvalid
        _AGE.observe(self._clock.monotonic() - found.asked_at)
        return found.caller

    def forget(self, credential: Credential) -> None:
        """Ask auth again the next time: the session was ended here."""
        self._exchanged.forget(_digest(credential))

    async def _exchange(self, credential: Credential) -> _Exchanged:
        asked_at = self._clock.monotonic()
        request = token_service_pb2.ExchangeTokenRequest(workload=self._workload, audiences=AUDIENCES)
        setattr(request, credential.kind.value, credential.secret)
        caller: Caller | None = None
        outcome = "failed"
        try:
            caller = _caller(await self._tokens.exchange(request))
            outcome = "accepted"
        except CredentialsInvalid:
            outcome = "refused"
        finally:
            _EXCHANGES.labels(outcome).inc()
        return _Exchanged(caller, asked_at)


def _caller(response: token_service_pb2.ExchangeTokenResponse) -> Caller:
    return Caller(
        user_id=response.user_id,
        organization_id=response.organization_id,
        credential_id=response.credential_id,
        metadata={token.audience: (("authorization", f"Bearer {token.token}"),) for token in response.tokens},
    )


def _kind_of(secret: str) -> CredentialKind:
    """Access tokens are JWTs, whose three parts no API key has."""
    return CredentialKind.ACCESS_TOKEN if secret.count(".") == _JWT_DOTS else CredentialKind.API_KEY


def _sound(kind: CredentialKind, secret: str) -> Credential:
    if len(secret) > CREDENTIAL_LENGTH_MAX or _VISIBLE.fullmatch(secret) is None:
        return _refuse()
    return Credential(kind, secret)


def _refuse() -> Credential:
    raise CredentialsInvalid


def _digest(credential: Credential) -> bytes:
    return hashlib.sha256(f"{credential.kind.value}:{credential.secret}".encode()).digest()
