"""What every store of auth does with sessions and their tokens."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from services.auth.model import Rotation, SessionId, SessionKind
from services.auth.store import SESSIONS_PER_USER_MAX, Store
from services.auth.store_postgres import PostgresStore
from services.mesh.ids import new_id
from services.mesh.postgres.database import Database
from tests.support.auth_records import GRACE, NOW, event, founded, gathered, refresh_of, session_of


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


async def test_all_sessions_of_everybody_end_at_once(store: Store) -> None:
    first, second = [(await founded(store)).owner.user for _ in range(2)]
    sessions = [session_of(first), session_of(first), session_of(second)]
    for session in sessions:
        await store.create_session(session, event(first))
    await store.end_session(sessions[0], event(first))
    assert await store.end_all_sessions(NOW) >= 2  # other tests may have left some
    assert await store.end_all_sessions(NOW) == 0
    outcomes = [(await store.refresh(refresh_of(session, 0), "")).outcome for session in sessions]
    assert outcomes == [Rotation.REFUSED] * 3


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


async def test_session_cannot_name_a_user_of_another_organization(database: Database) -> None:
    store = PostgresStore(database)
    one, other = (await founded(store)).owner.user, (await founded(store)).owner.user
    mixed = replace(one, organization_id=other.organization_id)
    with pytest.raises(DBAPIError):
        await store.create_session(session_of(mixed), event(one))
