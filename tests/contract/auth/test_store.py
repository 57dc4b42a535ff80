"""What every store of auth does; the one in memory is held to the same suite as PostgreSQL's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.auth.accounts import found
from services.auth.api_keys import mint_key
from services.auth.app import MIGRATIONS
from services.auth.model import (
    Account,
    Action,
    ApiKey,
    AuditEvent,
    Caller,
    Cursor,
    RequestKey,
    Role,
    Rotation,
    Session,
    SessionId,
    SessionKind,
    SigningKeyRecord,
    User,
    UserChange,
    UserId,
)
from services.auth.settings import StoreSettings
from services.auth.store import (
    API_KEYS_PER_USER_MAX,
    SESSIONS_PER_USER_MAX,
    Founding,
    LastOwnerError,
    Refresh,
    Store,
    TooManyKeysError,
)
from services.auth.store_memory import MemoryStore
from services.auth.store_postgres import PostgresStore
from services.mesh.clock import ManualClock
from services.mesh.database import Database, open_database
from services.mesh.errors import AlreadyExists, IdempotencyMismatch
from services.mesh.ids import new_id
from services.mesh.migrate import drift
from tests.support.auth import caller_of, new_email

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GRACE = timedelta(seconds=10)


@pytest.fixture(scope="module")
def postgres_url(module_migrated_database_url: Callable[..., str]) -> str:
    return module_migrated_database_url("auth")


def opened(url: str) -> AbstractAsyncContextManager[Database]:
    settings = StoreSettings.model_validate({"PARLEY_DATABASE_URL": SecretStr(url)})
    return open_database(settings, application="test", pool_wait_s=60.0)


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    async with opened(postgres_url) as real:
        yield real


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    async with opened(request.getfixturevalue("postgres_url")) as real:
        yield PostgresStore(real)


async def founded(store: Store, *, is_first: bool = False) -> Founding:
    founding = replace(
        found(
            email=new_email(),
            display_name="Owner",
            organization_name="Organization",
            password_hash="hash",
            clock=ManualClock(NOW),
        ),
        is_first=is_first,
    )
    await store.create_organization(founding, [])
    return founding


def member(owner: User, *, at: datetime = NOW, role: Role = Role.MEMBER, email: str = "") -> Account:
    user = replace(owner, id=UserId(new_id("usr")), email=email or new_email(), role=role, created_at=at)
    return Account(user=user, password_hash="hash")


def event(user: User, *, at: datetime = NOW) -> AuditEvent:
    return caller_of(user).event(Action.USER_UPDATED, user.id, at)


def session_of(user: User, *, kind: SessionKind = SessionKind.TOKENS, at: datetime = NOW) -> Session:
    session_id = SessionId(new_id("ses"))
    return Session(
        id=session_id,
        organization_id=user.organization_id,
        user_id=user.id,
        kind=kind,
        secret_hash=b"0" + session_id.encode(),
        generation=0,
        created_at=at,
        rotated_at=at,
        idle_expires_at=at + timedelta(days=30),
        expires_at=at + timedelta(days=90),
    )


def key_of(user: User, *, at: datetime = NOW, name: str = "key") -> ApiKey:
    return mint_key(
        organization_id=user.organization_id,
        user_id=user.id,
        display_name=name,
        scopes=frozenset({"keys:read", "models:read"}),
        created_at=at,
    ).key


def refresh_of(session: Session, number: int, *, at: datetime = NOW) -> Refresh:
    """The trade of the token of generation `number` for the next one."""
    return Refresh(
        session_id=session.id,
        presented_hash=str(number).encode() + session.id.encode(),
        successor_hash=str(number + 1).encode() + session.id.encode(),
        at=at,
        grace=GRACE,
        idle_expires_at=at + timedelta(days=30),
    )


async def gathered(*work: Awaitable[object]) -> list[object]:
    return list(await asyncio.gather(*work, return_exceptions=True))


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


async def test_refresh_rotates_repeats_and_ends(store: Store) -> None:
    owner = (await founded(store)).owner.user
    session = session_of(owner)
    await store.create_session(session, event(owner))
    outcomes = [
        (await store.refresh(refresh_of(session, 0), "")).outcome,
        (await store.refresh(refresh_of(session, 0, at=NOW + GRACE), "")).outcome,
        (await store.refresh(refresh_of(session, 1), "")).outcome,
        (await store.refresh(refresh_of(session, 0), "")).outcome,
        (await store.refresh(refresh_of(session, 2), "")).outcome,
    ]
    expected = [Rotation.ROTATED, Rotation.REPEATED, Rotation.ROTATED, Rotation.REUSED, Rotation.REFUSED]
    assert outcomes == expected


async def test_refresh_of_what_does_not_exist_is_refused(store: Store) -> None:
    owner = (await founded(store)).owner.user
    session, cookie = session_of(owner), session_of(owner, kind=SessionKind.COOKIE)
    assert (await store.refresh(refresh_of(session, 0), "")).outcome is Rotation.REFUSED
    for stored in (session, cookie):
        await store.create_session(stored, event(owner))
    assert (await store.refresh(refresh_of(session, 7), "")).outcome is Rotation.REFUSED
    assert (await store.refresh(refresh_of(cookie, 0), "")).outcome is Rotation.REFUSED
    assert (await store.refresh(refresh_of(session, 0), "")).outcome is Rotation.ROTATED


async def test_repeat_whose_successor_is_another_is_refused_and_ends_nothing(store: Store) -> None:
    owner = (await founded(store)).owner.user
    session = session_of(owner)
    await store.create_session(session, event(owner))
    await store.refresh(refresh_of(session, 0), "")
    after_key_change = replace(refresh_of(session, 0), successor_hash=b"another")
    assert (await store.refresh(after_key_change, "")).outcome is Rotation.REFUSED
    assert (await store.refresh(refresh_of(session, 1), "")).outcome is Rotation.ROTATED


async def test_a_hundred_uses_at_once_leave_one_head(store: Store) -> None:
    owner = (await founded(store)).owner.user
    session = session_of(owner)
    await store.create_session(session, event(owner))
    rotated = await asyncio.gather(*(store.refresh(refresh_of(session, 0), "") for _ in range(100)))
    outcomes = [result.outcome for result in rotated]
    assert (outcomes.count(Rotation.ROTATED), outcomes.count(Rotation.REPEATED)) == (1, 99)
    present = await store.find_session(session.id)
    assert present is not None
    assert (present.generation, present.secret_hash) == (1, refresh_of(session, 0).successor_hash)


async def test_a_hundred_reuses_at_once_end_the_session_once(store: Store) -> None:
    owner = (await founded(store)).owner.user
    session = session_of(owner)
    await store.create_session(session, event(owner))
    await store.refresh(refresh_of(session, 0), "")
    late = refresh_of(session, 0, at=NOW + 2 * GRACE)
    rotated = await asyncio.gather(*(store.refresh(late, "") for _ in range(100)))
    outcomes = [result.outcome for result in rotated]
    assert (outcomes.count(Rotation.REUSED), outcomes.count(Rotation.REFUSED)) == (1, 99)


async def test_refresh_and_logout_at_once_never_leave_a_living_token(store: Store) -> None:
    owner = (await founded(store)).owner.user
    for _ in range(20):
        session = session_of(owner)
        await store.create_session(session, event(owner))
        await asyncio.gather(store.refresh(refresh_of(session, 0), ""), store.end_session(session, event(owner)))
        assert (await store.refresh(refresh_of(session, 1), "")).outcome is Rotation.REFUSED


async def test_session_is_found_by_every_secret_of_its_family(store: Store) -> None:
    owner = (await founded(store)).owner.user
    session = session_of(owner)
    await store.create_session(session, event(owner))
    await store.refresh(refresh_of(session, 0), "")
    for number, is_known in ((0, True), (1, True), (2, False)):
        found_session = await store.find_session_of(session.id, refresh_of(session, number).presented_hash)
        assert (found_session is not None) == is_known
    assert await store.find_session_of(SessionId(new_id("ses")), session.secret_hash) is None


async def test_session_ends_once(store: Store) -> None:
    owner = (await founded(store)).owner.user
    session = session_of(owner)
    await store.create_session(session, event(owner))
    ends = await gathered(*(store.end_session(session, event(owner)) for _ in range(20)))
    assert ends.count(True) == 1


async def test_oldest_sessions_make_room_for_the_newest(store: Store) -> None:
    owner = (await founded(store)).owner.user
    sessions = [session_of(owner, at=NOW + timedelta(seconds=number)) for number in range(SESSIONS_PER_USER_MAX + 1)]
    ended = [await store.create_session(session, event(owner)) for session in sessions]
    assert [len(one) for one in ended] == [0] * SESSIONS_PER_USER_MAX + [1]
    assert ended[-1][0].id == sessions[0].id


async def test_touching_a_session_moves_its_idle_end_forward_only(store: Store) -> None:
    owner = (await founded(store)).owner.user
    session = session_of(owner)
    await store.create_session(session, event(owner))
    later = session.idle_expires_at + timedelta(hours=1)
    for idle_end in (later, NOW):
        await store.touch_sessions({session.id: idle_end, SessionId(new_id("ses")): later})
    present = await store.find_session(session.id)
    assert present is not None
    assert present.idle_expires_at == later


async def test_sessions_are_forgotten_when_they_are_long_over(store: Store) -> None:
    owner = (await founded(store)).owner.user
    ended, live = session_of(owner), session_of(owner, at=NOW + timedelta(days=60))
    for session in (ended, live):
        await store.create_session(session, event(owner))
    await store.end_session(ended, event(owner))
    await store.forget_sessions(NOW + timedelta(days=1), 100)
    assert await store.find_session(ended.id) is None
    assert await store.find_session(live.id) == live


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


async def test_events_are_listed_newest_first_for_their_organization_only(store: Store) -> None:
    owner, other = (await founded(store)).owner.user, (await founded(store)).owner.user
    caller: Caller = caller_of(owner)
    events = [caller.event(Action.LOGIN_FAILED, f"usr_{number}", NOW) for number in range(3)]
    await store.record(events)
    await store.record([event(other)])
    assert await store.list_events(owner.organization_id, limit=2) == events[:0:-1]


async def test_bootstrap_lock_is_held_by_one_at_a_time(store: Store) -> None:
    inside: list[int] = []

    async def enter() -> int:
        async with store.bootstrap_lock():
            inside.append(1)
            await asyncio.sleep(0)
            together = len(inside)
            inside.pop()
            return together

    assert await asyncio.gather(*(enter() for _ in range(5))) == [1] * 5


async def test_tables_are_those_that_the_migrations_make(postgres_url: str) -> None:
    assert list(await drift(postgres_url, MIGRATIONS)) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE auth.audit_events SET actor_id = 'x'",
        "DELETE FROM auth.audit_events",
        "TRUNCATE auth.audit_events",
    ],
)
async def test_security_log_cannot_be_changed(database: Database, statement: str) -> None:
    with pytest.raises(DBAPIError, match="never changed"):
        async with database.write() as write:
            await write.execute(text(statement))


async def test_session_cannot_name_a_user_of_another_organization(database: Database) -> None:
    store = PostgresStore(database)
    one, other = (await founded(store)).owner.user, (await founded(store)).owner.user
    mixed = replace(one, organization_id=other.organization_id)
    with pytest.raises(DBAPIError):
        await store.create_session(session_of(mixed), event(one))
