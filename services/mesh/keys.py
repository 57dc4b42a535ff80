"""Public keys of the token issuer: fetched through a port, kept current through rotation, bounded against floods."""

import asyncio
import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)

from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import CredentialsInvalid, MeshError, Unavailable

REFRESH_S: Final = 60.0
"""A key that auth withdraws is refused everywhere after at most this long."""
REFETCH_S_MIN: Final = 5.0
"""An unknown `kid` makes us ask again, at most this often, so a flood of invented kids costs auth 12 calls a minute
per process, while a key that was put to use at once (after a compromise) is known within 5 s."""
FIRST_FETCH_S_MIN: Final = 0.5
"""As above while no key is known at all: at start, auth may come up a moment after us."""
FETCH_TIMEOUT_S: Final = 2.0
_COORDINATE_BYTES: Final = 32

_log = telemetry.logger("mesh.keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonWebKey:
    """A public P-256 key as RFC 7517 writes it: `x` and `y` are base64url without padding."""

    kid: str
    x: str
    y: str


class KeySource(Protocol):
    """Where the issuer publishes its keys."""

    async def fetch(self) -> Sequence[JsonWebKey]:
        """All keys that are valid now.

        Raises:
            MeshError: the issuer cannot be reached.
        """
        ...


class KeyRing:
    """The issuer's keys in memory; implements `identity.PublicKeys`."""

    def __init__(self, source: KeySource, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._source = source
        self._clock = clock
        self._keys: Mapping[str, EllipticCurvePublicKey] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str) -> EllipticCurvePublicKey | None:
        """The key with this id, after asking the issuer where that is due.

        Raises:
            Unavailable: no keys were ever fetched, so nothing can be told about the token.
        """
        key = self._keys.get(key_id)
        if key is None or self._age_s() >= REFRESH_S:
            await self._refresh(wanted=key_id)
            key = self._keys.get(key_id)
        if key is None and self._fetched_at is None:
            raise Unavailable("the keys of the token issuer cannot be fetched now", retry_after_s=1.0)
        return key

    def has(self, key_id: str) -> bool:
        """Whether the key is valid, as far as the last fetch tells."""
        return key_id in self._keys and self._age_s() < REFRESH_S

    def _age_s(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock.monotonic() - self._fetched_at

    async def _refresh(self, wanted: str) -> None:
        async with self._fetching:  # one at a time; whoever waited finds the answer of the one before
            if wanted in self._keys and self._age_s() < REFRESH_S:
                return
            now = self._clock.monotonic()
            pause_s = FIRST_FETCH_S_MIN if self._fetched_at is None else REFETCH_S_MIN
            if self._asked_at is not None and now - self._asked_at < pause_s:
                return
            self._asked_at = now
            try:
                async with asyncio.timeout(FETCH_TIMEOUT_S):
                    published = await self._source.fetch()
                self._keys = {key.kid: public_key(key) for key in published}
                self._fetched_at = now
            except (MeshError, TimeoutError) as error:
                # Known keys stay good while the issuer is away: tokens live 60 s, and it mints no others meanwhile.
                _log.warning("keys_not_refreshed", error=str(error), known=len(self._keys))


def public_key(key: JsonWebKey) -> EllipticCurvePublicKey:
    """The key behind its JSON form.

    Raises:
        CredentialsInvalid: the coordinates are malformed or not on the curve.
    """
    try:
        return EllipticCurvePublicNumbers(_number(key.x), _number(key.y), SECP256R1()).public_key()
    except ValueError as error:
        raise CredentialsInvalid(f"key {key.kid!r} is not a P-256 key") from error


def json_web_key(key: EllipticCurvePublicKey) -> JsonWebKey:
    """The JSON form of a key; its `kid` is the RFC 7638 thumbprint, so equal keys have equal ids."""
    numbers = key.public_numbers()
    x, y = _text(numbers.x), _text(numbers.y)
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    return JsonWebKey(kid=_base64url(hashlib.sha256(canonical.encode()).digest()), x=x, y=y)


def _number(text: str) -> int:
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(data) != _COORDINATE_BYTES:
        raise ValueError("a P-256 coordinate has 32 bytes")
    return int.from_bytes(data)


def _text(number: int) -> str:
    return _base64url(number.to_bytes(_COORDINATE_BYTES))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
