from datetime import timedelta

import pytest

from services.auth.sealing import SealError, Sealing
from services.auth.signing import PUBLISH_AHEAD_S_MIN, RETENTION, RotationPolicy, SigningKeys
from services.auth.store import Store
from services.auth.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from services.mesh.identity import TokenClaims, TokenRules, TokenVerifier
from services.mesh.settings import SettingsError
from tests.support.auth import ENCRYPTION_SECRET, auth_settings, world

PERIOD = timedelta(days=90)
AHEAD = timedelta(days=1)
RULES = TokenRules(audience="auth")
CLAIMS = TokenClaims(organization_id="org_x", subject_id="usr_x", scopes=frozenset(), credential_id="key_x")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def replica(store: Store, clock: ManualClock, *, secret: str = ENCRYPTION_SECRET) -> SigningKeys:
    return SigningKeys(store, Sealing(secret), RotationPolicy(period=PERIOD, publish_ahead=AHEAD), clock)


def ids(keys: SigningKeys) -> list[str]:
    return [key.kid for key in keys.published()]


async def test_first_replica_makes_a_key_and_the_others_find_it(store: MemoryStore, clock: ManualClock) -> None:
    first, second = replica(store, clock), replica(store, clock)
    await first.maintain()
    await second.maintain()
    assert ids(first) == ids(second)
    assert len(ids(first)) == 1
    token, _ = first.signer().sign(RULES, CLAIMS)
    assert (await TokenVerifier(RULES, second, clock=clock).verify(token)).subject_id == "usr_x"


async def test_private_half_is_not_in_the_store(store: MemoryStore, clock: ManualClock) -> None:
    keys = replica(store, clock)
    await keys.maintain()
    record = (await store.signing_keys())[0]
    assert Sealing(ENCRYPTION_SECRET).open(record.sealed, name=record.id)[:1] == b"0"  # DER, a SEQUENCE
    assert b"0\x81\x87\x02\x01\x00" not in record.sealed


async def test_next_key_is_published_a_day_before_it_signs(store: MemoryStore, clock: ManualClock) -> None:
    keys = replica(store, clock)
    await keys.maintain()
    clock.advance((PERIOD - AHEAD).total_seconds() - 1)
    await keys.maintain()
    assert len(ids(keys)) == 1
    clock.advance(1)
    await keys.maintain()
    present, following = ids(keys)
    assert keys.signer().key_id == present
    clock.advance(AHEAD.total_seconds() - 1)
    assert keys.signer().key_id == present
    clock.advance(1)
    assert keys.signer().key_id == following


async def test_old_key_is_kept_while_a_token_of_its_lives_and_no_longer(store: MemoryStore, clock: ManualClock) -> None:
    keys = replica(store, clock)
    await keys.maintain()
    old = keys.signer().key_id
    clock.advance((PERIOD - AHEAD).total_seconds())
    await keys.maintain()
    clock.advance(AHEAD.total_seconds() + RETENTION.total_seconds() - 1)
    await keys.maintain()
    assert keys.has(old)
    clock.advance(1)
    await keys.maintain()
    assert not keys.has(old)
    assert await keys.find(old) is None
    assert len(ids(keys)) == 1


async def test_key_is_overdue_after_a_long_sleep_and_its_successor_is_still_published_ahead(
    store: MemoryStore, clock: ManualClock
) -> None:
    keys = replica(store, clock)
    await keys.maintain()
    old = keys.signer().key_id
    clock.advance(PERIOD.total_seconds() * 3)
    await keys.maintain()
    assert keys.signer().key_id == old
    clock.advance(AHEAD.total_seconds())
    await keys.maintain()
    assert keys.signer().key_id != old


async def test_replicas_agree_on_the_keys_through_many_rotations(store: MemoryStore, clock: ManualClock) -> None:
    replicas = [replica(store, clock) for _ in range(3)]
    for _ in range(200):
        for keys in replicas:
            await keys.maintain()
        assert len({tuple(ids(keys)) for keys in replicas}) == 1
        assert len({keys.signer().key_id for keys in replicas}) == 1
        assert 1 <= len(ids(replicas[0])) <= 3
        clock.advance(AHEAD.total_seconds() * 2)


async def test_a_token_verifies_on_every_replica_all_of_its_life(store: MemoryStore, clock: ManualClock) -> None:
    signing, verifying = replica(store, clock), replica(store, clock)
    for _ in range(300):
        await signing.maintain()
        await verifying.maintain()
        token, _ = signing.signer().sign(RULES, CLAIMS)
        clock.advance(59)
        await verifying.maintain()
        await TokenVerifier(RULES, verifying, clock=clock).verify(token)
        clock.advance(8 * 3_600)


async def test_clock_that_was_set_back_gets_a_key_at_once(store: MemoryStore, clock: ManualClock) -> None:
    await replica(store, clock).maintain()
    keys = replica(store, ManualClock(clock.now() - timedelta(days=1)))
    await keys.maintain()
    keys.signer()


async def test_nothing_is_signed_before_the_keys_are_known(store: MemoryStore, clock: ManualClock) -> None:
    with pytest.raises(Unavailable):
        replica(store, clock).signer()


async def test_another_secret_opens_no_key_and_the_process_does_not_start(
    store: MemoryStore, clock: ManualClock
) -> None:
    await replica(store, clock).maintain()
    with pytest.raises(SealError):
        await replica(store, clock, secret=ENCRYPTION_SECRET + "!").maintain()
    settings = auth_settings(key_encryption_secret=ENCRYPTION_SECRET + "!")
    with (
        world(store=store, clock=clock, settings=settings) as auth,
        pytest.raises(SettingsError, match="PARLEY_AUTH_KEY_ENCRYPTION_SECRET"),
    ):
        await auth.app.prepare()


@pytest.mark.parametrize(
    ("period_s", "ahead_s", "is_good"),
    [
        (2 * PUBLISH_AHEAD_S_MIN, PUBLISH_AHEAD_S_MIN, True),
        (2 * PUBLISH_AHEAD_S_MIN - 1, PUBLISH_AHEAD_S_MIN, False),
        (4 * PUBLISH_AHEAD_S_MIN, PUBLISH_AHEAD_S_MIN - 1, False),
    ],
)
def test_rotation_that_verifiers_cannot_follow_is_refused(
    period_s: float,
    ahead_s: float,
    is_good: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    period, ahead = timedelta(seconds=period_s), timedelta(seconds=ahead_s)
    if is_good:
        RotationPolicy(period=period, publish_ahead=ahead)
        return
    with pytest.raises(ValueError, match="key"):
        RotationPolicy(period=period, publish_ahead=ahead)
