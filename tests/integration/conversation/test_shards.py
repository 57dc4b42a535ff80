"""Conversations on two PostgreSQL databases: what goes through all of them, and turns of a shard that moves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from services.conversation import tables
from services.conversation.app import MIGRATIONS
from services.conversation.model import Owner, TurnState
from services.conversation.store_postgres import PostgresStore
from services.conversation.store_postgres.handling import Handling
from services.conversation.store_postgres.intake import Intake
from services.mesh.postgres.shards.instances import Shards
from services.mesh.postgres.shards.numbers import MAIN, shard_of
from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.postgres.shards.setup import migrate_instances
from tests.support.conversation import new_conversation, new_turn
from tests.support.conversation_turns import DONE, FOLD, asked, ref_of
from tests.support.shards import OTHER, mover, opened_shards

EVEN = Owner("org_d", "usr_a")
ODD = Owner("org_a", "usr_a")
"""Their shards differ in parity, so that a new installation puts them on different instances."""
TALKS = 6


@dataclass(frozen=True, slots=True)
class Pair:
    """A store on two instances."""

    settings: ShardSettings
    shards: Shards
    store: PostgresStore


@pytest.fixture
async def pair(migrated_database_url: Callable[..., str]) -> AsyncIterator[Pair]:
    urls = [SecretStr(migrated_database_url("conversation")) for _ in range(2)]
    settings = ShardSettings(database_url=urls[0], database_shards={OTHER: urls[1]})
    await migrate_instances(settings.instances(), MIGRATIONS)
    async with (
        opened_shards(settings, service=tables.SCHEMA) as shards,
        Intake(shards) as intake,
        Handling(shards) as handling,
    ):
        yield Pair(settings, shards, PostgresStore(shards, intake=intake, handling=handling))


def test_the_two_organizations_are_on_different_instances() -> None:
    assert [shard_of(owner.organization_id) % 2 for owner in (EVEN, ODD)] == [0, 1]


async def test_what_goes_through_everything_finds_what_each_instance_has(pair: Pair) -> None:
    turns = [await asked(pair.store, EVEN), await asked(pair.store, ODD)]
    assert (await pair.store.backlog()).queued == 2
    async with pair.store.outbox(limit=10) as refs:
        assert {ref.turn_id for ref in refs} == {turn.id for turn in turns}
    async with pair.store.outbox(limit=10) as refs:
        assert refs == []
    stale = await pair.store.stale_queued(older_s=0.0, limit=10)
    assert {ref.turn_id for ref in stale} == {turn.id for turn in turns}


async def test_each_instance_alone_finds_its_own(pair: Pair) -> None:
    turns = {MAIN: await asked(pair.store, EVEN), OTHER: await asked(pair.store, ODD)}
    for instance in pair.shards.alone():
        async with PostgresStore(instance).outbox(limit=10) as refs:
            assert [ref.turn_id for ref in refs] == [turns[instance.name].id]


async def talk(store: PostgresStore, owner: Owner, stopped: asyncio.Event) -> list[str]:
    """Asks and answers in one conversation until it is stopped; gives the turns that were acknowledged."""
    conversation = await store.create_conversation(new_conversation(owner))
    turns: list[str] = []
    while not stopped.is_set():
        turn = await store.create_turn(new_turn(conversation.id, owner=owner))
        turns.append(turn.id)
        claim = await store.claim(ref_of(turn, owner), lease_s=30.0, epoch="e", spend_attempt=True)
        assert claim is not None
        assert await store.fold(claim.hold, FOLD, lease_s=30.0, sequence_limit=100, epoch="e")
        assert await store.finish(claim.hold, FOLD, DONE)
        assert (await store.turn(owner, turn.id)).state is TurnState.COMPLETED
    return turns


async def test_no_turn_is_lost_or_refused_while_its_shard_moves(pair: Pair) -> None:
    stopped = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        talks = [group.create_task(talk(pair.store, EVEN, stopped)) for _ in range(TALKS)]
        async with mover(pair.settings, MIGRATIONS) as move:
            await move.run([shard_of(EVEN.organization_id)])
        stopped.set()
    asked_for = [turn for each in talks for turn in each.result()]
    assert await states(pair, OTHER) == dict.fromkeys(asked_for, TurnState.COMPLETED.value)
    assert await states(pair, MAIN) == {}


async def test_nobody_waits_for_an_organization_that_is_on_the_move(pair: Pair) -> None:
    even, odd = [await pair.store.create_conversation(new_conversation(owner)) for owner in (EVEN, ODD)]
    moved = [shard_of(EVEN.organization_id)]
    async with mover(pair.settings, MIGRATIONS, dies_at="writes wait") as move:
        with pytest.raises(InterruptedError):
            await move.run(moved)
    await pair.shards.look()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(pair.store.create_turn(new_turn(even.id, owner=EVEN)))
        turn = await pair.store.create_turn(new_turn(odd.id, owner=ODD))
        claim = await pair.store.claim(ref_of(turn, ODD), lease_s=30.0, epoch="e", spend_attempt=True)
        assert claim is not None
        assert await pair.store.finish(claim.hold, FOLD, DONE)
        assert not waiting.done()
        async with mover(pair.settings, MIGRATIONS) as move:
            await move.run(moved)

    assert await states(pair, OTHER) == {
        waiting.result().id: TurnState.QUEUED.value,
        turn.id: TurnState.COMPLETED.value,
    }


async def states(pair: Pair, instance: str) -> dict[str, str]:
    async with pair.shards.instances[instance].database.read() as read:
        rows = await read.execute(select(tables.turns.c.id, tables.turns.c.state))
        return {row.id: row.state for row in rows}


async def test_everything_of_a_conversation_moves(pair: Pair) -> None:
    turn = await asked(pair.store, EVEN)
    await pair.store.delete_conversation(EVEN, (await asked(pair.store, EVEN)).conversation_id)
    async with mover(pair.settings, MIGRATIONS) as move:
        await move.run([shard_of(EVEN.organization_id)])
    assert await pair.store.turn(EVEN, turn.id) == turn
    async with pair.store.leftovers(older_s=0.0, limit=10) as left:
        assert len(left) == 1
    async with pair.shards.instances[MAIN].database.read() as read:
        for table in tables.metadata.sorted_tables:
            assert (await read.execute(select(func.count()).select_from(table))).scalar_one() == 0
