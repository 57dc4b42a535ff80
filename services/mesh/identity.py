"""Principals and the tokens that carry them: the one place that touches PyJWT.

PyJWT accepts much that an access-token verifier must refuse (any `typ`, `exp` as text, duplicate claims, an empty
`sub`, megabytes of `kid`), so every check that it leaves out stands here, cheapest first.
"""

import base64
import binascii
import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)

from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import CredentialsInvalid

ISSUER: Final = "parley"
ALGORITHM: Final = "ES256"
INTERNAL_TYPE: Final = "int+jwt"
"""`typ` of an internal token; RFC 8725 section 3.11: an explicit type keeps one kind from passing for another."""
ACCESS_TYPE: Final = "at+jwt"
"""`typ` of an access token, RFC 9068 section 2.1."""
INTERNAL_LIFE_S: Final = 60
CLOCK_SKEW_S: Final = 5
"""Between two machines with NTP; for `iat` and `nbf` only, never for `exp`."""
TOKEN_LENGTH_MAX: Final = 4096
SCOPES_MAX: Final = 64
TEXT_LENGTH_MAX: Final = 256
VERIFIED_TOKENS_MAX: Final = 10_000
"""About 10 MB of principals; verification costs ~0.28 ms, a look-up ~2 µs."""

_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_TEXT: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """On whose behalf a call acts, as a verified internal token says.

    Attributes:
        organization_id: the tenant; it is in the WHERE of every query on tenant data.
        subject_id: user or service account.
        scopes: what the credential may do, such as `turns:write`.
        caller: name of the workload that makes the call, such as `edge`; None when the subject calls by itself.
        credential_id: the login session or API key behind it, for audit and revocation.
        expires_at: end of the token.
    """

    organization_id: str
    subject_id: str
    scopes: frozenset[str]
    caller: str | None
    credential_id: str
    expires_at: datetime


class PublicKeys(Protocol):
    """Where a verifier finds the key of a `kid`."""

    async def find(self, key_id: str) -> EllipticCurvePublicKey | None:
        """The key, or None when no valid key has this id."""
        ...

    def has(self, key_id: str) -> bool:
        """Whether the key is still valid, judged from memory: cached verifications end with their key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a verifier insists on besides a good signature."""

    audience: str
    type: str = INTERNAL_TYPE
    issuer: str = ISSUER
    life_s_max: int = INTERNAL_LIFE_S


class _RefusedError(Exception):
    """Why a token was refused; for the log, never for the caller."""


class TokenVerifier:
    """Verifies tokens of one kind and audience; keeps good ones, by SHA-256, until they expire."""

    def __init__(
        self,
        rules: TokenRules,
        keys: PublicKeys,
        *,
        clock: Clock = SYSTEM_CLOCK,
        cached_max: int = VERIFIED_TOKENS_MAX,
    ) -> None:
        self._rules = rules
        self._keys = keys
        self._clock = clock
        self._cached_max = cached_max
        self._cache: OrderedDict[bytes, tuple[Principal, str]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """The principal of a token.

        Raises:
            CredentialsInvalid: for every kind of bad token; which kind is its cause, and not in its message.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._cache.get(digest)
        if known is not None:
            principal, key_id = known
            if self._clock.now() < principal.expires_at and self._keys.has(key_id):
                self._cache.move_to_end(digest)
                return principal
            del self._cache[digest]
        try:
            principal, key_id = await self._verify(token)
        except _RefusedError as refusal:
            raise CredentialsInvalid from refusal
        self._cache[digest] = (principal, key_id)
        if len(self._cache) > self._cached_max:
            self._cache.popitem(last=False)
        return principal

    async def _verify(self, token: str) -> tuple[Principal, str]:
        _require(len(token) <= TOKEN_LENGTH_MAX, "too long")
        segments = token.split(".")
        _require(len(segments) == 3, "not three segments")  # noqa: PLR2004 - RFC 7515: header, payload, signature
        header_bytes, payload_bytes, _ = (_decode_segment(segment) for segment in segments)
        key_id = self._check_header(_strict_object(header_bytes))
        key = await self._keys.find(key_id)
        if key is None:
            raise _RefusedError("unknown key")
        _check_signature(token, key)
        return self._principal(_strict_object(payload_bytes)), key_id

    def _check_header(self, header: Mapping[str, Any]) -> str:
        _require(set(header) <= _HEADER_MEMBERS, "unknown header member")
        _require(header.get("typ") == self._rules.type, "wrong type")
        key_id = header.get("kid")
        if not isinstance(key_id, str) or _KEY_ID.fullmatch(key_id) is None:
            raise _RefusedError("malformed kid")
        # Keys are P-256 by construction (see `keys.py`), so the key's algorithm is the only one there is.
        _require(header.get("alg") == ALGORITHM, "wrong algorithm")
        return key_id

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        issued, starts, expires = (_instant(claims, name) for name in ("iat", "nbf", "exp"))
        now = int(self._clock.now().timestamp())
        _require(now < expires, "expired")
        _require(max(issued, starts) <= now + CLOCK_SKEW_S, "not yet valid")
        _require(0 < expires - issued <= self._rules.life_s_max, "lives too long")
        _require(claims.get("iss") == self._rules.issuer, "wrong issuer")
        _require(claims.get("aud") == self._rules.audience, "wrong audience")
        _text(claims, "jti")
        return Principal(
            organization_id=_text(claims, "org"),
            subject_id=_text(claims, "sub"),
            scopes=_scopes(claims),
            caller=_text(claims, "act") if "act" in claims else None,
            credential_id=_text(claims, "cid"),
            expires_at=datetime.fromtimestamp(expires, UTC),
        )


class TokenSigner:
    """Signs tokens with one private key; only auth holds one."""

    def __init__(self, key_id: str, key: EllipticCurvePrivateKey, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if not isinstance(key.curve, SECP256R1) or _KEY_ID.fullmatch(key_id) is None:
            raise ValueError("a P-256 key and a kid of 1..64 base64url characters are needed")
        self.key_id = key_id
        self._key = key
        self._clock = clock

    def sign(self, rules: TokenRules, claims: "TokenClaims", *, life_s: int | None = None) -> tuple[str, datetime]:
        """A token that a `TokenVerifier` with the same rules accepts, and the instant of its end.

        Args:
            rules: kind, issuer and audience.
            claims: whom the token speaks for.
            life_s: seconds; the longest that the rules allow unless told.
        """
        issued = int(self._clock.now().timestamp())
        expires = issued + min(life_s or rules.life_s_max, rules.life_s_max)
        payload: dict[str, object] = {
            "iss": rules.issuer,
            "aud": rules.audience,
            "sub": claims.subject_id,
            "org": claims.organization_id,
            "scp": sorted(claims.scopes),
            "cid": claims.credential_id,
            "jti": secrets.token_urlsafe(16),
            "iat": issued,
            "nbf": issued,
            "exp": expires,
        }
        if claims.caller is not None:
            payload["act"] = claims.caller
        headers = {"kid": self.key_id, "typ": rules.type}
        token = jwt.encode(payload, self._key, algorithm=ALGORITHM, headers=headers)
        return token, datetime.fromtimestamp(expires, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """What a token says about its holder; see `Principal`."""

    organization_id: str
    subject_id: str
    scopes: frozenset[str]
    credential_id: str
    caller: str | None = None


def _require(condition: bool, refusal: str) -> None:  # noqa: FBT001 - reads as an assertion of each rule
    if not condition:
        raise _RefusedError(refusal)


def _decode_segment(segment: str) -> bytes:
    """Base64url without padding, in its one canonical spelling (no spare bits)."""
    _require(_SEGMENT.fullmatch(segment) is not None, "not base64url")
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise _RefusedError("not base64url") from None
    _require(base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() == segment, "not canonical base64url")
    return decoded


def _check_signature(token: str, key: EllipticCurvePublicKey) -> None:
    try:
        jwt.PyJWS().decode_complete(token, key, algorithms=[ALGORITHM])
    except jwt.InvalidTokenError as error:
        raise _RefusedError("bad signature") from error


def _strict_object(data: bytes) -> Mapping[str, Any]:
    """A JSON object without duplicate members, NaN or nesting that costs; Any because JSON is."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _RefusedError("not strict JSON") from error
    if not isinstance(value, dict):
        raise _RefusedError("not a JSON object")
    return value


def _unique(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _require(len({name for name, _ in members}) == len(members), "duplicate member")
    return dict(members)


def _no_constant(name: str) -> object:
    raise _RefusedError(f"{name} is not JSON")


def _instant(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    # bool is an int in Python, and 10^30 would overflow datetime.
    if type(value) is not int or not 0 <= value < 1 << 33:
        raise _RefusedError(f"malformed {name}")
    return value


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX or _TEXT.fullmatch(value) is None:
        raise _RefusedError(f"malformed {name}")
    return value


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    scopes = claims.get("scp")
    if not isinstance(scopes, list) or len(scopes) > SCOPES_MAX:
        raise _RefusedError("malformed scp")
    for scope in scopes:
        if not isinstance(scope, str) or len(scope) > TEXT_LENGTH_MAX or _TEXT.fullmatch(scope) is None:
            raise _RefusedError("malformed scp")
    return frozenset(scopes)
