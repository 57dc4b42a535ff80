"""Internal tokens for tests: an issuer with one key, and verifiers that trust it."""

from collections.abc import Iterable, Mapping

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, generate_private_key

from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.identity import TokenClaims, TokenRules, TokenSigner, TokenVerifier
from services.mesh.interceptors.identity import AUTHORIZATION_KEY
from services.mesh.keys import JsonWebKey, json_web_key

ORGANIZATION = "org_01m81yxdt5er79mzf15ea65abm"
USER = "usr_01m81yxdt5er79mzf15ea65abm"


class StaticKeys:
    """Implements `identity.PublicKeys` with keys that never change."""

    def __init__(self, keys: Mapping[str, EllipticCurvePublicKey]) -> None:
        self._keys = keys

    async def find(self, key_id: str) -> EllipticCurvePublicKey | None:
        return self._keys.get(key_id)

    def has(self, key_id: str) -> bool:
        return key_id in self._keys


class Issuer:
    """Mints tokens for any audience, as auth would."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.private_key = generate_private_key(SECP256R1())
        self.jwk: JsonWebKey = json_web_key(self.private_key.public_key())
        self.keys = StaticKeys({self.jwk.kid: self.private_key.public_key()})
        self._clock = clock
        self.signer = TokenSigner(self.jwk.kid, self.private_key, clock=clock)

    def verifier(self, audience: str = "echo") -> TokenVerifier:
        return TokenVerifier(TokenRules(audience=audience), self.keys, clock=self._clock)

    def mint(
        self,
        *,
        audience: str = "echo",
        scopes: Iterable[str] = (),
        caller: str | None = None,
        organization_id: str = ORGANIZATION,
        subject_id: str = USER,
    ) -> str:
        claims = TokenClaims(
            organization_id=organization_id,
            subject_id=subject_id,
            scopes=frozenset(scopes),
            credential_id="key_01m81yxdt5er79mzf15ea65abm",
            caller=caller,
        )
        return self.signer.sign(TokenRules(audience=audience), claims)[0]

    def metadata(
        self, *, audience: str = "echo", scopes: Iterable[str] = (), caller: str | None = None
    ) -> tuple[tuple[str, str], ...]:
        """The `metadata=` of a call with such a token."""
        return ((AUTHORIZATION_KEY, f"Bearer {self.mint(audience=audience, scopes=scopes, caller=caller)}"),)
