"""Reads on a real streaming replica: never older than what the caller has seen, whatever becomes of the replica."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from pydantic import SecretStr
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, text

from services.mesh import deadline
from services.mesh.errors import NotFound
from services.mesh.policy import Idempotency, Policy
from services.mesh.positions import POSITION_KEY, parse, written
from services.mesh.postgres.database import Database, ReadOnly
from services.mesh.postgres.replicas import Replicas
from services.mesh.postgres.shards.instances import open_places
from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.rpc import CURRENT, Call, RpcContext
from tests.support.replication import Pair, running_pair
from tests.support.retrieval import until

NOTES = Table("notes", MetaData(), Column("id", Integer, primary_key=True))
PATIENCE_S = 90.0
DEADLINE_S = 12.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running_pair() as both:
        yield both


@dataclass
class Rig:
    """A process with a replica, and its callers."""

    database: Database
    pair: Pair

    @property
    def replicas(self) -> Replicas:
        return cast("Replicas", self.database.elsewhere)  # it is nothing else here

    async def is_used(self) -> bool:
        return self.replicas.replicas[0].lag_s <= 1.0

    async def is_left_out(self) -> bool:
        return self.replicas.replicas[0].lag_s > 1.0

    async def settled(self, holds: Callable[[], Awaitable[bool]]) -> None:
        await until(holds, within_s=PATIENCE_S)


@dataclass
class Caller:
    """Keeps its position, as clients do."""

    position: str = "none"
    told: list[str] = field(default_factory=list)

    @contextmanager
    def calls(self, idempotency: Idempotency = Idempotency.READ) -> Iterator[None]:
        call = Call(
            method="/testing.Notes/Get",
            policy=Policy(idempotency=idempotency),
            is_stream=False,
            context=cast("RpcContext", self),  # all that is asked of it is below
            handle=_nothing,
            metadata=((POSITION_KEY, self.position),) if self.position else (),
        )
        token = CURRENT.set(call)
        try:
            yield
        finally:
            CURRENT.reset(token)
            self.position = written(parse([self.position, *self.told]))

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.told.append(dict(metadata)[POSITION_KEY])

    async def writes(self, rig: Rig, number: int) -> None:
        with self.calls(Idempotency.NONE):
            async with rig.database.write() as write:
                await write.execute(insert(NOTES).values(id=number))

    async def reads(self, rig: Rig, **options: Any) -> tuple[bool, int]:
        """Whether a replica answered, and the latest note."""
        with self.calls():
            return await rig.database.view(_latest, **options)


async def _nothing(_: Call) -> None:
    """There is nothing behind the interceptors."""


async def _latest(read: ReadOnly) -> tuple[bool, int]:
    query = select(func.pg_is_in_recovery(), func.coalesce(func.max(NOTES.c.id), 0))
    is_replica, latest = (await read.execute(query)).one()
    return is_replica, latest


@pytest.fixture
async def rig(pair: Pair) -> AsyncIterator[Rig]:
    url = pair.primary.create()
    settings = ShardSettings(
        database_url=SecretStr(url),
        database_replicas={"main": [SecretStr(pair.replica_url(url))]},
        database_replica_lag_s_max=1.0,
    )
    async with open_places(settings, application="test", service="testing", pool_wait_s=60.0) as places:
        database = cast("Database", places)  # one instance
        async with database.write() as write:
            await write.execute(text("CREATE TABLE notes (id int PRIMARY KEY)"))
        made = Rig(database, pair)
        await made.settled(made.is_used)
        yield made
    pair.primary.drop(url)


async def test_caller_reads_on_the_replica_what_it_wrote(rig: Rig) -> None:
    caller = Caller()
    for number in range(1, 20):
        await caller.writes(rig, number)
        assert (await caller.reads(rig))[1] == number

    async def is_far_enough() -> bool:
        return (await caller.reads(rig))[0]

    await rig.settled(is_far_enough)


async def test_caller_that_sends_no_position_reads_on_the_primary(rig: Rig) -> None:
    caller = Caller(position="")
    await caller.writes(rig, 1)
    assert await caller.reads(rig) == (False, 1)
    assert caller.told == []


async def test_reader_learns_its_position_by_reading(rig: Rig) -> None:
    caller = Caller()
    assert await caller.reads(rig) == (False, 0)

    async def is_far_enough() -> bool:
        return (await caller.reads(rig))[0]

    await rig.settled(is_far_enough)


async def test_call_that_may_write_reads_on_the_primary(rig: Rig) -> None:
    caller = Caller()
    await caller.reads(rig)
    with caller.calls(Idempotency.REQUEST_ID):
        assert await rig.database.view(_latest) == (False, 0)


async def test_replica_that_lags_answers_nobody_who_has_seen_more(rig: Rig) -> None:
    caller = Caller()
    await rig.pair.tell_replica("SELECT pg_wal_replay_pause()")
    try:
        await caller.writes(rig, 1)
        assert await caller.reads(rig) == (False, 1)
        await rig.settled(rig.is_left_out)
        assert await caller.reads(rig) == (False, 1)
    finally:
        await rig.pair.tell_replica("SELECT pg_wal_replay_resume()")
    await rig.settled(rig.is_used)


async def test_what_is_not_there_or_not_finished_is_asked_of_the_primary(rig: Rig) -> None:
    caller = Caller()
    await caller.reads(rig)

    async def missing(read: ReadOnly) -> bool:
        if (await _latest(read))[0]:
            raise NotFound.of("note")
        return True

    with caller.calls():
        assert await rig.database.view(missing)
    assert await caller.reads(rig, is_settled=lambda found: not found[0]) == (False, 0)


async def test_second_query_of_a_call_is_not_answered_by_who_is_behind_the_first(rig: Rig) -> None:
    caller = Caller()
    await caller.reads(rig)
    await rig.pair.tell_replica("SELECT pg_wal_replay_pause()")
    try:
        with caller.calls():
            stranger = Caller(position="")
            await stranger.writes(rig, 1)
            assert await rig.database.view(_latest, is_settled=lambda found: not found[0]) == (False, 1)
            assert await rig.database.view(_latest) == (False, 1)
    finally:
        await rig.pair.tell_replica("SELECT pg_wal_replay_resume()")
    await rig.settled(rig.is_used)


async def test_position_of_another_timeline_says_nothing(rig: Rig) -> None:
    caller = Caller()
    await caller.reads(rig)
    (place, position), *_ = parse([caller.position]).items()
    stranger = Caller(written({place: position._replace(timeline=position.timeline + 1)}))
    assert await stranger.reads(rig) == (False, 0)


async def test_replica_that_is_away_is_left_out_until_it_is_back(rig: Rig) -> None:
    caller = Caller()
    rig.pair.replica.stop()
    try:
        await caller.writes(rig, 1)
        assert await caller.reads(rig) == (False, 1)
        await rig.settled(rig.is_left_out)
    finally:
        rig.pair.replica.start()
    await rig.settled(rig.is_used)
    assert (await caller.reads(rig))[1] == 1


async def test_replica_that_is_frozen_leaves_its_caller_time_for_the_primary(rig: Rig) -> None:
    caller = Caller()
    assert await caller.reads(rig) == (False, 0)

    async def is_far_enough() -> bool:
        return (await caller.reads(rig))[0]

    await rig.settled(is_far_enough)
    with rig.pair.frozen_replica():
        async with asyncio.timeout(DEADLINE_S):
            with deadline.within(DEADLINE_S):
                assert await caller.reads(rig) == (False, 0)
        await rig.settled(rig.is_left_out)
    await rig.settled(rig.is_used)


async def test_replica_that_is_promoted_is_none_any_more(rig: Rig) -> None:
    """The last one: the replica does not follow its primary again."""
    caller = Caller()
    await rig.pair.tell_replica("SELECT pg_promote()")
    await rig.settled(rig.is_left_out)
    await caller.writes(rig, 1)
    assert await caller.reads(rig) == (False, 1)
