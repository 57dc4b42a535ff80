"""What every store of auth does with API keys and signing keys."""

import asyncio
from datetime import timedelta

from services.auth.model import Cursor, SigningKeyRecord
from services.auth.store import API_KEYS_PER_USER_MAX, Store, TooManyKeysError
from services.mesh.ids import new_id
from tests.support.auth_records import NOW, event, founded, gathered, key_of, member


async def test_keys_are_found_by_id_and_listed_for_their_user_only_newest_first(store: Store) -> None:
    owner = (await founded(store)).owner.user
    other = await store.create_user(member(owner), None, event(owner))
    foreign = (await founded(store)).owner.user
    keys = [key_of(owner, at=NOW + timedelta(seconds=number)) for number in range(4)]
    for key in (*keys, key_of(other), key_of(foreign)):
        await store.create_api_key(key, event(owner))
    first = await store.list_api_keys(owner.organization_id, owner.id, before=None, limit=3)
    cursor = Cursor(first[-1].created_at, first[-1].id)
    rest = await store.list_api_keys(owner.organization_id, owner.id, before=cursor, limit=10)
    assert [*first, *rest] == keys[::-1]
    assert await store.find_api_key(keys[0].id) == keys[0]
    for stranger in (other, foreign):
        assert await store.get_api_key(stranger.organization_id, stranger.id, keys[0].id) is None
        assert await store.revoke_api_key(stranger.organization_id, stranger.id, keys[0].id, event(stranger)) is None
    assert await store.find_api_key(keys[0].id) == keys[0]


async def test_revoked_key_keeps_the_instant_of_its_first_end(store: Store) -> None:
    owner = (await founded(store)).owner.user
    key = key_of(owner)
    await store.create_api_key(key, event(owner))
    for seconds in (1, 2):
        at = NOW + timedelta(seconds=seconds)
        revoked = await store.revoke_api_key(owner.organization_id, owner.id, key.id, event(owner, at=at))
        assert revoked is not None
        assert revoked.revoked_at == NOW + timedelta(seconds=1)


async def test_live_keys_of_a_user_are_bounded_exactly(store: Store) -> None:
    owner = (await founded(store)).owner.user
    keys = [key_of(owner) for _ in range(API_KEYS_PER_USER_MAX + 10)]
    made = await gathered(*(store.create_api_key(key, event(owner)) for key in keys))
    assert sum(isinstance(result, TooManyKeysError) for result in made) == 10
    stored = await store.list_api_keys(owner.organization_id, owner.id, before=None, limit=1_000)
    assert len(stored) == API_KEYS_PER_USER_MAX
    await store.revoke_api_key(owner.organization_id, owner.id, stored[0].id, event(owner))
    await store.create_api_key(key_of(owner), event(owner))


async def test_last_use_of_a_key_never_goes_back(store: Store) -> None:
    owner = (await founded(store)).owner.user
    key = key_of(owner)
    await store.create_api_key(key, event(owner))
    for seconds in (60, 30):
        await store.touch_api_keys({key.id: NOW + timedelta(seconds=seconds)})
    present = await store.find_api_key(key.id)
    assert present is not None
    assert present.last_used_at == NOW + timedelta(seconds=60)


async def test_signing_keys_are_what_the_plan_says_in_order_of_activation(store: Store) -> None:
    made = [
        SigningKeyRecord(id=new_id("kid"), sealed=b"x", created_at=NOW, activates_at=NOW + timedelta(days=days))
        for days in (3, 1, 2)
    ]
    await store.change_signing_keys(lambda _present: made)
    ordered = sorted(made, key=lambda record: record.activates_at)
    assert await store.signing_keys() == ordered
    assert await store.change_signing_keys(lambda present: present[1:]) == ordered[1:]


async def test_plans_of_replicas_never_run_at_once(store: Store) -> None:
    def one_more(present: object) -> list[SigningKeyRecord]:
        assert isinstance(present, list | tuple)
        return [
            *present,
            SigningKeyRecord(id=new_id("kid"), sealed=b"x", created_at=NOW, activates_at=NOW),
        ]

    before = len(await store.signing_keys())
    await asyncio.gather(*(store.change_signing_keys(one_more) for _ in range(20)))
    assert len(await store.signing_keys()) == before + 20
