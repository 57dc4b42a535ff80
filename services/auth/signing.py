"""The keys that sign tokens: made, published ahead of use, used, and kept as long as a token of theirs may live.

All replicas read the same rows and judge them by time, so they agree without talking: at any instant the newest key
whose activation has passed signs. Whoever finds that a key is due makes it, under a lock that lets one replica do so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from services.auth.model import SigningKeyRecord
from services.auth.sealing import Sealing
from services.auth.store import SigningKeyStore
from services.mesh.clock import Clock
from services.mesh.errors import Unavailable
from services.mesh.identity import CLOCK_SKEW_S, TokenSigner
from services.mesh.keys import REFRESH_S, JsonWebKey, json_web_key

TOKEN_LIFE_S_MAX: Final = 300
"""Of the longest-lived token that is signed: the access token."""
RELOAD_S: Final = 30.0
"""How often a replica looks for keys that another one made or withdrew."""
PUBLISH_AHEAD_S_MIN: Final = 2 * (REFRESH_S + RELOAD_S)
"""A verifier asks for keys once a minute and may ask a replica that has not looked for half of one; twice that."""
RETENTION: Final = timedelta(seconds=TOKEN_LIFE_S_MAX + RELOAD_S + CLOCK_SKEW_S)
"""How long a key is published after its successor took over; one that has not looked yet signs a little longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationPolicy:
    """How long a key signs, and how long before that it is published."""

    period: timedelta
    publish_ahead: timedelta

    def __post_init__(self) -> None:
        if self.publish_ahead < timedelta(seconds=PUBLISH_AHEAD_S_MIN):
            raise ValueError(f"keys must be published {PUBLISH_AHEAD_S_MIN:.0f} s ahead of their use, or more")
        if self.period < 2 * self.publish_ahead:
            raise ValueError("a key must sign at least twice as long as it is published ahead")


@dataclass(frozen=True, slots=True)
class _Key:
    record: SigningKeyRecord
    private: EllipticCurvePrivateKey
    public: JsonWebKey
    signer: TokenSigner


class SigningKeys:
    """The keys in memory; implements `identity.PublicKeys`, so that auth verifies its own tokens."""

    def __init__(self, store: SigningKeyStore, sealing: Sealing, policy: RotationPolicy, clock: Clock) -> None:
        self._store = store
        self._sealing = sealing
        self._policy = policy
        self._clock = clock
        self._keys: Mapping[str, _Key] = MappingProxyType({})

    async def maintain(self) -> None:
        """Looks for keys that others made, and makes or withdraws what is due. Cheap when nothing is.

        Raises:
            SealError: a key was sealed with another secret; the process must not start with the wrong one.
        """
        records = await self._store.signing_keys()
        if [record.id for record in self._planned(records)] != [record.id for record in records]:
            records = await self._store.change_signing_keys(self._planned)
        known = self._keys
        self._keys = MappingProxyType({record.id: known.get(record.id) or self._open(record) for record in records})

    def signer(self) -> TokenSigner:
        """Signs with the key of this instant.

        Raises:
            Unavailable: no key is known yet.
        """
        now = self._clock.now()
        active = [key for key in self._keys.values() if key.record.activates_at <= now]
        if not active:
            raise Unavailable("no key to sign tokens with is known yet", retry_after_s=1.0)
        return max(active, key=_age_order).signer

    def published(self) -> Sequence[JsonWebKey]:
        """Public halves: the one before, the present one and the next one, as far as they exist."""
        return [key.public for key in sorted(self._keys.values(), key=_age_order)]

    async def find(self, key_id: str) -> EllipticCurvePublicKey | None:
        """See `identity.PublicKeys.find`."""
        key = self._keys.get(key_id)
        return key.private.public_key() if key is not None else None

    def has(self, key_id: str) -> bool:
        """See `identity.PublicKeys.has`."""
        return key_id in self._keys

    def _planned(self, records: Sequence[SigningKeyRecord]) -> Sequence[SigningKeyRecord]:
        """The keys that there should be now, in the order of their activation."""
        now = self._clock.now()
        ordered = sorted(records, key=lambda record: (record.activates_at, record.id))
        active = [record for record in ordered if record.activates_at <= now]
        if not active:
            # The very first key, or a clock that was set back: better a key at once than no token.
            return [self._new(activates_at=now), *ordered]
        kept = _retained(ordered, now)
        successor_at = active[-1].activates_at + self._policy.period
        if kept[-1].activates_at > now or now < successor_at - self._policy.publish_ahead:
            return kept
        return [*kept, self._new(activates_at=max(successor_at, now + self._policy.publish_ahead))]

    def _new(self, *, activates_at: datetime) -> SigningKeyRecord:
        private = generate_private_key(SECP256R1())
        key_id = json_web_key(private.public_key()).kid
        plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return SigningKeyRecord(
            id=key_id,
            sealed=self._sealing.seal(plain, name=key_id),
            created_at=self._clock.now(),
            activates_at=activates_at,
        )

    def _open(self, record: SigningKeyRecord) -> _Key:
        private = load_der_private_key(self._sealing.open(record.sealed, name=record.id), password=None)
        if not isinstance(private, EllipticCurvePrivateKey):
            raise TypeError(f"signing key {record.id!r} is not an elliptic-curve key")
        signer = TokenSigner(record.id, private, clock=self._clock)
        return _Key(record, private, json_web_key(private.public_key()), signer)


def _retained(ordered: Sequence[SigningKeyRecord], now: datetime) -> list[SigningKeyRecord]:
    """All keys but those whose successor has signed for so long that none of their tokens lives."""
    return [
        record
        for record, successor in zip(ordered, [*ordered[1:], None], strict=True)
        if successor is None or now < successor.activates_at + RETENTION
    ]


def _age_order(key: _Key) -> tuple[datetime, str]:
    return key.record.activates_at, key.record.id
