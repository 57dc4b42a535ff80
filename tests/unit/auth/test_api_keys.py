from datetime import timedelta

import pytest

from services.auth.api_keys import NewKey
from services.auth.credentials import hash_of
from services.auth.model import Role
from services.auth.scopes import ROLE_SCOPES
from services.auth.store import API_KEYS_PER_USER_MAX
from services.mesh.clock import ManualClock
from services.mesh.errors import InvalidArgument, MeshError, NotFound, QuotaExhausted, ScopeMissing
from services.mesh.ids import new_id
from tests.support.auth import World, caller_of, narrowed


async def test_secret_is_kept_nowhere(auth: World) -> None:
    owner = await auth.owner()
    minted = await auth.key(owner)
    stored = await auth.app.store.find_api_key(minted.key.id)
    assert stored is not None
    assert stored.secret_hash == hash_of(minted.secret)
    assert minted.secret.split("_")[2] not in repr(stored)
    assert minted.secret.startswith(stored.hint)


async def test_key_without_scopes_gets_those_of_the_calling_credential(auth: World) -> None:
    narrow = narrowed(await auth.owner(), "keys:write", "models:read")
    assert (await auth.key(narrow)).key.scopes == {"keys:write", "models:read"}


async def test_key_gets_no_scope_that_the_calling_credential_lacks(auth: World) -> None:
    narrow = narrowed(await auth.owner(), "keys:write", "models:read")
    with pytest.raises(ScopeMissing) as error:
        await auth.key(narrow, "models:read", "users:write")
    assert error.value.metadata == {"scope": "users:write"}
    viewer = caller_of(await auth.member(await auth.owner(), Role.VIEWER))
    with pytest.raises(ScopeMissing):
        await auth.key(viewer, *ROLE_SCOPES[Role.MEMBER])


@pytest.mark.parametrize("scope", ["everything", "", "*", "keys:read ", "x" * 10_000])
async def test_scope_that_does_not_exist_is_refused(auth: World, scope: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        await auth.key(await auth.owner(), scope)
    assert error.value.fields[0].field == "scopes"
    assert len(error.value.message) < 200


@pytest.mark.parametrize("seconds", [0, -1])
async def test_key_that_has_ended_before_it_begins_is_refused(auth: World, clock: ManualClock, seconds: int) -> None:
    expires_at = clock.now() + timedelta(seconds=seconds)
    wanted = NewKey(display_name="x", scopes=frozenset(), expires_at=expires_at)
    with pytest.raises(InvalidArgument) as error:
        await auth.app.api_keys.create(await auth.owner(), wanted)
    assert error.value.fields[0].field == "expire_time"


@pytest.mark.parametrize("name", ["", "x" * 101, "a\0b"])
async def test_malformed_name_is_refused(auth: World, name: str) -> None:
    wanted = NewKey(display_name=name, scopes=frozenset(), expires_at=None)
    with pytest.raises(InvalidArgument) as error:
        await auth.app.api_keys.create(await auth.owner(), wanted)
    assert error.value.fields[0].field == "display_name"


async def test_live_keys_are_bounded_and_revoking_one_makes_room(auth: World) -> None:
    owner = await auth.owner()
    keys = [await auth.key(owner) for _ in range(API_KEYS_PER_USER_MAX)]
    with pytest.raises(QuotaExhausted) as error:
        await auth.key(owner)
    assert error.value.fields[0].field == "api_keys"
    await auth.app.api_keys.revoke(owner, keys[0].key.id)
    await auth.key(owner)


async def test_foreign_random_and_malformed_ids_are_answered_alike(auth: World) -> None:
    owner = await auth.owner()
    colleague = caller_of(await auth.member(owner))
    foreign, of_colleague = (await auth.key(await auth.owner())), (await auth.key(colleague))
    answers = []
    for key_id in (foreign.key.id, of_colleague.key.id, new_id("key"), "key_x", "", "\0"):
        for call in (auth.app.api_keys.get(owner, key_id), auth.app.api_keys.revoke(owner, key_id)):
            with pytest.raises(MeshError) as error:
                await call
            answers.append(repr(error.value))
    assert set(answers) == {repr(NotFound.of("api_key"))}
    for key in (foreign, of_colleague):
        await auth.grant_of_key(key.secret)


async def test_revoked_key_is_listed_and_revoking_it_again_changes_nothing(auth: World, clock: ManualClock) -> None:
    owner = await auth.owner()
    key = (await auth.key(owner)).key
    first = await auth.app.api_keys.revoke(owner, key.id)
    clock.advance(60)
    assert await auth.app.api_keys.revoke(owner, key.id) == first
    assert await auth.app.api_keys.list(owner, before=None, limit=10) == [first]
    assert await auth.app.api_keys.get(owner, key.id) == first


async def test_last_use_is_recorded_at_most_once_a_minute(auth: World, clock: ManualClock) -> None:
    owner = await auth.owner()
    minted = await auth.key(owner)
    seen = []
    for seconds in (0, 59, 1):
        clock.advance(seconds)
        await auth.grant_of_key(minted.secret)
        await auth.app.recorder.drain()
        seen.append((await auth.app.api_keys.get(owner, minted.key.id)).last_used_at)
    assert [None if at is None else (clock.now() - at).total_seconds() for at in seen] == [60, 60, 0]
