"""What every store of auth does with its log, its lock and its tables."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.auth.app import MIGRATIONS
from services.auth.model import Action, Caller
from services.auth.store import Store
from services.mesh.postgres.database import Database
from services.mesh.postgres.migrate import drift
from tests.support.auth import caller_of
from tests.support.auth_records import NOW, event, founded


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
