import asyncio
from collections.abc import Sequence

import pytest

from services.mesh.clock import ManualClock
from services.mesh.errors import CredentialsInvalid, Unavailable
from services.mesh.identity import TokenRules, TokenVerifier
from services.mesh.keys import FIRST_FETCH_S_MIN, REFETCH_S_MIN, REFRESH_S, JsonWebKey, KeyRing, public_key
from tests.support.tokens import Issuer


class Source:
    """Auth as it may be: with keys that come and go, and away at times."""

    def __init__(self, *keys: JsonWebKey) -> None:
        self.keys = list(keys)
        self.is_away = False
        self.fetches = 0

    async def fetch(self) -> Sequence[JsonWebKey]:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable
        return list(self.keys)


def ring_of(source: Source, clock: ManualClock) -> KeyRing:
    return KeyRing(source, clock=clock)


async def test_many_callers_share_one_fetch() -> None:
    first = Issuer()
    source = Source(first.jwk)
    ring = ring_of(source, ManualClock())
    found = await asyncio.gather(*(ring.find(first.jwk.kid) for _ in range(50)))
    assert all(key == first.private_key.public_key() for key in found)
    assert source.fetches == 1


async def test_new_key_is_found_when_a_token_names_it() -> None:
    clock, old, new = ManualClock(), Issuer(), Issuer()
    source = Source(old.jwk)
    ring = ring_of(source, clock)
    await ring.find(old.jwk.kid)
    source.keys.append(new.jwk)
    clock.advance(REFETCH_S_MIN)
    assert await ring.find(new.jwk.kid) is not None
    assert source.fetches == 2


async def test_flood_of_unknown_keys_costs_the_issuer_one_fetch_per_pause() -> None:
    clock, issuer = ManualClock(), Issuer()
    source = Source(issuer.jwk)
    ring = ring_of(source, clock)
    await ring.find(issuer.jwk.kid)
    for second in range(60):
        for number in range(10):
            assert await ring.find(f"invented-{second}-{number}") is None
        clock.advance(1.0)
    assert source.fetches == 60 / REFETCH_S_MIN


async def test_withdrawn_key_is_refused_after_the_refresh() -> None:
    clock = ManualClock()
    issuer = Issuer(clock=clock)
    source = Source(issuer.jwk)
    verifier = TokenVerifier(TokenRules(audience="echo"), ring_of(source, clock), clock=clock)
    await verifier.verify(issuer.mint())
    source.keys.clear()
    clock.advance(REFRESH_S - 1)
    token = issuer.mint()
    await verifier.verify(token)
    clock.advance(1)
    with pytest.raises(CredentialsInvalid):
        await verifier.verify(token)


async def test_known_keys_stay_good_while_the_issuer_is_away() -> None:
    clock, issuer = ManualClock(), Issuer()
    source = Source(issuer.jwk)
    ring = ring_of(source, clock)
    await ring.find(issuer.jwk.kid)
    source.is_away = True
    clock.advance(10 * REFRESH_S)
    assert await ring.find(issuer.jwk.kid) is not None


async def test_without_any_key_nothing_can_be_said_about_a_token() -> None:
    clock, issuer = ManualClock(), Issuer()
    source = Source(issuer.jwk)
    source.is_away = True
    ring = ring_of(source, clock)
    with pytest.raises(Unavailable):
        await ring.find(issuer.jwk.kid)
    with pytest.raises(Unavailable):
        await ring.find(issuer.jwk.kid)
    assert source.fetches == 1
    source.is_away = False
    clock.advance(FIRST_FETCH_S_MIN)
    assert await ring.find(issuer.jwk.kid) is not None


@pytest.mark.parametrize(("x", "y"), [("", ""), ("AA", "AA"), ("A" * 43, "A" * 43), ("!" * 43, "?" * 43)])
def test_point_that_is_not_on_the_curve_is_no_key(x: str, y: str) -> None:
    with pytest.raises(CredentialsInvalid):
        public_key(JsonWebKey(kid="k", x=x, y=y))
