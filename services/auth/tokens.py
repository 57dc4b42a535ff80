"""The tokens that auth signs: access tokens for programs, internal tokens for services."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.auth.model import Grant
from services.auth.signing import TOKEN_LIFE_S_MAX, SigningKeys
from services.mesh.clock import Clock
from services.mesh.identity import ACCESS_TYPE, Principal, TokenClaims, TokenRules, TokenVerifier

ACCESS_RULES: Final = TokenRules(audience="parley", type=ACCESS_TYPE, life_s_max=TOKEN_LIFE_S_MAX)
REUSE_S: Final = 10.0
"""An internal token is handed out again for a sixth of its 60 s. Its receivers then verify one signature (0.28 ms)
where they would verify five, and whoever keeps it for half a minute still holds a good one."""
REUSED_MAX: Final = 20_000
"""About 20 MB of tokens."""


@dataclass(frozen=True, slots=True, repr=False)
class SignedToken:
    """A signed token and its end."""

    text: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class InternalToken:
    """A token for one service."""

    audience: str
    token: SignedToken


class AccessTokens:
    """Issues and verifies the tokens that programs hold between calls (RFC 9068)."""

    def __init__(self, keys: SigningKeys, clock: Clock) -> None:
        self._keys = keys
        self._verifier = TokenVerifier(ACCESS_RULES, keys, clock=clock)

    def issue(self, grant: Grant) -> SignedToken:
        """A token of five minutes."""
        return SignedToken(*self._keys.signer().sign(ACCESS_RULES, _claims(grant, caller=None)))

    async def verify(self, token: str) -> Principal:
        """Whom a token speaks for; whether their session still lives is not known to it.

        Raises:
            CredentialsInvalid: it is no access token of ours, or has expired.
        """
        return await self._verifier.verify(token)


class InternalTokens:
    """Mints the tokens that services accept from one another."""

    def __init__(self, keys: SigningKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._minted: OrderedDict[tuple[Grant, str, str | None], tuple[InternalToken, float]] = OrderedDict()

    def mint(self, grant: Grant, audience: str, *, caller: str | None) -> InternalToken:
        """A token of a minute for `audience`; the same one again for `REUSE_S` seconds.

        Args:
            grant: what the credential may do now: a change of it makes another token.
            audience: the service that shall accept it.
            caller: the workload that asked, None when the holder of the credential did.
        """
        wanted = (grant, audience, caller)
        now = self._clock.monotonic()
        known = self._minted.get(wanted)
        if known is not None and now < known[1] and known[0].token.expires_at > self._clock.now():
            return known[0]
        signed = self._keys.signer().sign(TokenRules(audience=audience), _claims(grant, caller=caller))
        minted = InternalToken(audience, SignedToken(*signed))
        self._minted[wanted] = (minted, now + REUSE_S)
        self._minted.move_to_end(wanted)
        if len(self._minted) > REUSED_MAX:
            self._minted.popitem(last=False)
        return minted


def _claims(grant: Grant, *, caller: str | None) -> TokenClaims:
    return TokenClaims(
        organization_id=grant.organization_id,
        subject_id=grant.user_id,
        scopes=grant.scopes,
        credential_id=grant.credential_id,
        caller=caller,
    )
