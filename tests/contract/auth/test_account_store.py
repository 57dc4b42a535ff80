"""What every store of auth does with organizations, users and passwords."""

from dataclasses import replace
from datetime import timedelta

import pytest

from services.auth.accounts import found
from services.auth.model import Cursor, RequestKey, Role, User, UserChange
from services.auth.store import LastOwnerError, Store
from services.auth.store_memory import MemoryStore
from services.auth.store_postgres import PostgresStore
from services.mesh.clock import ManualClock
from services.mesh.errors import AlreadyExists, IdempotencyMismatch
from services.mesh.postgres.database import Database
from tests.support.auth import new_email
from tests.support.auth_records import NOW, event, founded, gathered, key_of, member, session_of


async def test_organization_and_owner_are_found_again(store: Store) -> None:
    founding = await founded(store)
    owner = founding.owner
    assert await store.get_organization(founding.organization.id) == founding.organization
    assert await store.get_user(founding.organization.id, owner.user.id) == owner.user
    assert await store.find_account(owner.user.email) == owner
    assert await store.get_account(founding.organization.id, owner.user.id) == owner
    assert await store.find_owner(founding.organization.id) == owner


async def test_taken_address_creates_nothing(store: Store) -> None:
    founding = await founded(store)
    again = found(
        email=founding.owner.user.email,
        display_name="x",
        organization_name="x",
        password_hash="x",
        clock=ManualClock(NOW),
    )
    with pytest.raises(AlreadyExists) as error:
        await store.create_organization(again, [])
    assert error.value.metadata == {"field": "email"}
    assert await store.get_organization(again.organization.id) is None


async def test_there_is_one_first_organization_at_most() -> None:
    store = MemoryStore()
    assert await store.first_organization() is None
    founding = await founded(store, is_first=True)
    with pytest.raises(AlreadyExists):
        await founded(store, is_first=True)
    assert await store.first_organization() == founding.organization


async def test_postgres_holds_one_first_organization_at_most(database: Database) -> None:
    store = PostgresStore(database)
    founding = await founded(store, is_first=True)
    with pytest.raises(AlreadyExists):
        await founded(store, is_first=True)
    assert await store.first_organization() == founding.organization


async def test_user_of_another_organization_is_not_found(store: Store) -> None:
    one, other = await founded(store), await founded(store)
    user = other.owner.user
    assert await store.get_user(one.organization.id, user.id) is None
    assert await store.get_account(one.organization.id, user.id) is None
    foreign = replace(user, organization_id=one.organization.id)
    assert await store.update_user(foreign, UserChange(display_name="x"), event(user)) is None
    assert await store.get_user(other.organization.id, user.id) == user


async def test_users_are_listed_oldest_first_by_pages_of_their_organization(store: Store) -> None:
    founding = await founded(store)
    await founded(store)
    owner = founding.owner.user
    members = [member(owner, at=NOW + timedelta(seconds=number // 2)) for number in range(1, 5)]
    for account in members:
        await store.create_user(account, None, event(owner))
    expected = sorted([owner, *(account.user for account in members)], key=lambda user: (user.created_at, user.id))
    first = await store.list_users(owner.organization_id, after=None, limit=2)
    cursor = Cursor(first[-1].created_at, first[-1].id)
    rest = await store.list_users(owner.organization_id, after=cursor, limit=10)
    assert [*first, *rest] == expected


async def test_same_request_creates_one_user_and_another_body_is_refused(store: Store) -> None:
    owner = (await founded(store)).owner.user
    request = RequestKey(organization_id=owner.organization_id, user_id=owner.id, request_id="r", fingerprint=b"one")
    first = await store.create_user(member(owner), request, event(owner))
    assert await store.create_user(member(owner), request, event(owner)) == first
    assert await store.find_user_of_request(request) == first
    changed = replace(request, fingerprint=b"two")
    with pytest.raises(IdempotencyMismatch):
        await store.create_user(member(owner), changed, event(owner))
    with pytest.raises(IdempotencyMismatch):
        await store.find_user_of_request(changed)
    assert len(await store.list_users(owner.organization_id, after=None, limit=10)) == 2


async def test_a_hundred_same_requests_at_once_create_one_user(store: Store) -> None:
    owner = (await founded(store)).owner.user
    request = RequestKey(organization_id=owner.organization_id, user_id=owner.id, request_id="r", fingerprint=b"one")
    email = new_email()
    made = await gathered(*(store.create_user(member(owner, email=email), request, event(owner)) for _ in range(100)))
    assert len({user.id for user in made if isinstance(user, User)}) == 1
    assert all(isinstance(user, User) for user in made)


async def test_change_is_refused_when_the_role_is_another_by_now(store: Store) -> None:
    owner = (await founded(store)).owner.user
    user = await store.create_user(member(owner), None, event(owner))
    await store.update_user(user, UserChange(role=Role.ADMIN), event(owner))
    assert await store.update_user(user, UserChange(disabled=True), event(owner)) is None


async def test_change_of_nothing_returns_the_user(store: Store) -> None:
    owner = (await founded(store)).owner.user
    assert await store.update_user(owner, UserChange(), event(owner)) == (owner, [])


@pytest.mark.parametrize("change", [UserChange(role=Role.ADMIN), UserChange(disabled=True)])
async def test_last_owner_stays(store: Store, change: UserChange) -> None:
    owner = (await founded(store)).owner.user
    disabled = member(owner, role=Role.OWNER)
    await store.create_user(replace(disabled, user=replace(disabled.user, disabled=True)), None, event(owner))
    with pytest.raises(LastOwnerError):
        await store.update_user(owner, change, event(owner))
    assert await store.get_user(owner.organization_id, owner.id) == owner


async def test_of_many_owners_who_leave_at_once_one_stays(store: Store) -> None:
    owner = (await founded(store)).owner.user
    others = [await store.create_user(member(owner, role=Role.OWNER), None, event(owner)) for _ in range(19)]
    left = await gathered(
        *(store.update_user(user, UserChange(role=Role.MEMBER), event(owner)) for user in (owner, *others))
    )
    assert sum(isinstance(result, LastOwnerError) for result in left) == 1
    users = await store.list_users(owner.organization_id, after=None, limit=50)
    assert [user.role for user in users].count(Role.OWNER) == 1


async def test_disabling_ends_all_sessions_of_the_user_and_nobody_elses(store: Store) -> None:
    owner = (await founded(store)).owner.user
    user = await store.create_user(member(owner), None, event(owner))
    own, foreign = session_of(user), session_of(owner)
    for session in (own, foreign):
        await store.create_session(session, event(owner))
    changed = await store.update_user(user, UserChange(disabled=True), event(owner))
    assert changed is not None
    assert [session.id for session in changed[1]] == [own.id]
    kept = await store.find_session(foreign.id)
    assert kept is not None
    assert kept.ended_at is None


async def test_password_is_set_once_per_reading_and_keeps_one_session(store: Store) -> None:
    account = (await founded(store)).owner
    kept, ended = session_of(account.user), session_of(account.user)
    for session in (kept, ended):
        await store.create_session(session, event(account.user))
    results = [await store.set_password(account, "new", keep=kept.id, event=event(account.user)) for _ in range(2)]
    assert results[0] is not None
    assert [session.id for session in results[0]] == [ended.id]
    assert results[1] is None
    await store.replace_hash(account, "rehash of the old one")
    present = await store.find_account(account.user.email)
    assert present is not None
    assert present.password_hash == "new"


async def test_reset_ends_sessions_and_namesakes_of_the_new_key(store: Store) -> None:
    account = (await founded(store)).owner
    old, other, new = key_of(account.user), key_of(account.user, name="other"), key_of(account.user)
    session = session_of(account.user)
    await store.create_session(session, event(account.user))
    for key in (old, other):
        await store.create_api_key(key, event(account.user))
    assert await store.reset_account(account, "new", new, [])
    assert not await store.reset_account(account, "newer", key_of(account.user), [])
    live = [key.is_live(NOW) for key in [await store.find_api_key(key.id) for key in (old, other, new)] if key]
    ended = await store.find_session(session.id)
    assert live == [False, True, True]
    assert ended is not None
    assert ended.ended_at is not None
