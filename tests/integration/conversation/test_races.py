"""Calls that race, on a real PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from sqlalchemy import select

from services.conversation import tables
from services.conversation.model import (
    TURNS_WAITING_MAX,
    FinishReason,
    OnConflict,
    Repeat,
    Role,
    Turn,
    TurnState,
)
from services.conversation.store.work import Ending, Fold, Folding, TurnRef
from services.conversation.store_postgres import PostgresStore
from services.conversation.store_postgres.intake import Intake
from services.mesh.errors import TurnAlreadyRunning
from services.mesh.postgres.database import open_database
from tests.support.conversation import ADA, database_settings, new_conversation, new_turn

PARALLEL = 50
CROWD = 20
"""All that are accepted one after the other: no more than there are connections, so that none waits for one in vain."""
FOLD = Fold(last_sequence=1, text="x", citations=(), retrieval=None, usage=None, model="m")
DONE = Ending(TurnState.COMPLETED, FinishReason.STOP)


@pytest.fixture(params=["each by itself", "together"])
async def store(
    request: pytest.FixtureRequest, migrated_database_url: Callable[..., str]
) -> AsyncIterator[PostgresStore]:
    settings = database_settings(migrated_database_url("conversation")).model_copy(update={"database_pool_size": CROWD})
    async with open_database(settings, application="tests", pool_wait_s=60.0) as database:
        if request.param == "together":
            async with Intake(database) as intake:
                yield PostgresStore(database, intake=intake)
        else:
            yield PostgresStore(database)


async def test_fifty_repeats_of_one_call_make_one_turn(store: PostgresStore) -> None:
    conversation = await store.create_conversation(new_conversation())
    repeat = Repeat(method="CreateTurn", request_id="r1", body_hash=b"one")

    turns = await asyncio.gather(
        *(store.create_turn(new_turn(conversation.id, repeat=repeat)) for _ in range(PARALLEL))
    )

    assert len({turn.id for turn in turns}) == 1
    messages = await store.tree(ADA, conversation.id, size=200, after_id="")
    assert Counter(message.role for message in messages) == {Role.USER: 1, Role.ASSISTANT: 1}
    async with store.outbox(limit=200) as waiting:
        assert len(waiting) == 1


async def test_of_fifty_questions_at_once_one_is_accepted(store: PostgresStore) -> None:
    conversation = await store.create_conversation(new_conversation())
    repeats = [Repeat(method="CreateTurn", request_id=f"r{n}", body_hash=b"one") for n in range(PARALLEL)]

    results = await asyncio.gather(
        *(store.create_turn(new_turn(conversation.id, repeat=repeat)) for repeat in repeats), return_exceptions=True
    )

    accepted = [result for result in results if not isinstance(result, BaseException)]
    refused = [result for result in results if isinstance(result, TurnAlreadyRunning)]
    assert (len(accepted), len(refused)) == (1, PARALLEL - 1)
    assert {error.metadata["turn_id"] for error in refused} == {accepted[0].id}
    assert len(await store.tree(ADA, conversation.id, size=200, after_id="")) == 2


async def test_questions_that_queue_at_once_run_one_at_a_time_in_the_order_of_the_tree(store: PostgresStore) -> None:
    conversation = await store.create_conversation(new_conversation())
    count = TURNS_WAITING_MAX + 1

    results = await asyncio.gather(
        *(store.create_turn(replace(new_turn(conversation.id), on_conflict=OnConflict.QUEUE)) for _ in range(CROWD)),
        return_exceptions=True,
    )

    accepted = [result for result in results if not isinstance(result, BaseException)]
    assert Counter(turn.state for turn in accepted) == {TurnState.QUEUED: 1, TurnState.WAITING: TURNS_WAITING_MAX}
    assert sum(isinstance(result, TurnAlreadyRunning) for result in results) == CROWD - count
    ran = [await run_next(store) for _ in range(count)]
    assert await run_next(store) is None
    leaf_id = (await store.conversation(ADA, conversation.id)).leaf_message_id
    branch = await store.branch_end(ADA, conversation.id, leaf_id=leaf_id, size=200)
    assert [message.turn_id for message in branch] == [turn_id for turn_id in ran for _ in range(2)]
    assert set(ran) == {turn.id for turn in accepted}


async def test_of_a_crowd_that_cancels_at_once_the_last_one_runs(store: PostgresStore) -> None:
    conversation = await store.create_conversation(new_conversation())
    running = await store.create_turn(new_turn(conversation.id))
    ref = TurnRef(ADA.organization_id, conversation.id, running.id)
    claim = await store.claim(ref, lease_s=30.0, epoch="e", spend_attempt=True)
    assert claim is not None

    async with asyncio.timeout(60):
        turns = await asyncio.gather(
            *(
                store.create_turn(replace(new_turn(conversation.id), on_conflict=OnConflict.CANCEL_RUNNING))
                for _ in range(CROWD)
            )
        )

    states = Counter([(await store.turn(ADA, turn.id)).state for turn in turns])
    assert states == {TurnState.CANCELLED: CROWD - 1, TurnState.WAITING: 1}
    assert await store.unwanted([claim.hold]) == {running.id}
    assert await store.finish(claim.hold, FOLD, Ending(TurnState.CANCELLED, FinishReason.CANCELLED))
    leaf_id = (await store.conversation(ADA, conversation.id)).leaf_message_id
    last = (await store.message(ADA, leaf_id)).turn_id
    async with store.outbox(limit=200) as waiting:
        assert waiting[-1].turn_id == last


async def test_nobody_waits_for_ever_behind_turns_that_end_and_are_cancelled_meanwhile(store: PostgresStore) -> None:
    async def live() -> None:
        conversation = await store.create_conversation(new_conversation())
        for _ in range(6):
            new = [replace(new_turn(conversation.id), on_conflict=OnConflict.QUEUE) for _ in range(3)]
            turns = await asyncio.gather(*(store.create_turn(each) for each in new), ended(conversation.id))
            await asyncio.gather(
                ended(conversation.id), *(store.request_cancel(ADA, turn.id) for turn in turns[1:3] if turn is not None)
            )
        while await ended(conversation.id):
            pass
        turns_left = await store.list_turns(ADA, conversation.id, size=50, before_id="")
        assert all(turn.state.has_ended for turn in turns_left)
        assert len(turns_left) == 18

    async def ended(conversation_id: str) -> Turn | None:
        """Ends the turn that is queued or runs, whoever claimed it."""
        turns = await store.list_turns(ADA, conversation_id, size=50, before_id="")
        for turn in turns:
            if turn.state in {TurnState.QUEUED, TurnState.RUNNING}:
                ref = TurnRef(ADA.organization_id, turn.conversation_id, turn.id)
                claim = await store.claim(ref, lease_s=0.0, epoch="e", spend_attempt=True)
                if claim is not None:
                    await store.finish(claim.hold, FOLD, DONE)
                    return turn
        return None

    async with asyncio.timeout(60):
        await asyncio.gather(*(live() for _ in range(10)))


async def run_next(store: PostgresStore) -> str | None:
    """Answers what stands in the outbox, which is one turn at most."""
    async with store.outbox(limit=10) as waiting:
        refs = list(waiting)
    if not refs:
        return None
    (ref,) = refs
    claim = await store.claim(ref, lease_s=30.0, epoch="e", spend_attempt=True)
    assert claim is not None
    assert await store.finish(claim.hold, FOLD, DONE)
    return ref.turn_id


async def test_fifty_workers_that_want_one_turn_share_it_out_to_one(store: PostgresStore) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id))
    ref = TurnRef(ADA.organization_id, conversation.id, turn.id)

    claims = await asyncio.gather(
        *(store.claim(ref, lease_s=30.0, epoch="e", spend_attempt=True) for _ in range(PARALLEL))
    )

    assert [claim.hold.fence for claim in claims if claim is not None] == [1]


async def test_asking_ending_and_deleting_at_once_never_blocks_for_ever(store: PostgresStore) -> None:
    async def live(number: int) -> None:
        conversation = await store.create_conversation(new_conversation())
        for _ in range(5):
            turn = await store.create_turn(new_turn(conversation.id))
            ref = TurnRef(ADA.organization_id, conversation.id, turn.id)
            claim = await store.claim(ref, lease_s=30.0, epoch="e", spend_attempt=True)
            assert claim is not None
            await asyncio.gather(
                store.finish(claim.hold, FOLD, DONE),
                store.create_turn(new_turn(conversation.id)),
                store.update_conversation(
                    ADA, conversation.id, replace(conversation.settings, title=str(number)), etag="1"
                ),
                return_exceptions=True,
            )
            active = (await store.list_turns(ADA, conversation.id, size=1, before_id=""))[0]
            if not active.state.has_ended:
                claim = await store.claim(replace(ref, turn_id=active.id), lease_s=1.0, epoch="", spend_attempt=True)
                assert claim is not None
                await asyncio.gather(
                    store.finish(claim.hold, FOLD, DONE),
                    store.fold(claim.hold, FOLD, lease_s=1.0, sequence_limit=9, epoch=""),
                )
        await asyncio.gather(
            store.delete_conversation(ADA, conversation.id),
            store.create_turn(new_turn(conversation.id)),
            return_exceptions=True,
        )

    async with asyncio.timeout(60):
        await asyncio.gather(*(live(number) for number in range(10)))

    assert await store.list_conversations(ADA, size=50, after=None) == []


async def test_a_turn_that_somebody_changes_holds_up_no_other_fold(store: PostgresStore) -> None:
    busy, free = [
        await store.create_turn(new_turn((await store.create_conversation(new_conversation())).id)) for _ in "ab"
    ]
    foldings = []
    for turn in (busy, free):
        ref = TurnRef(ADA.organization_id, turn.conversation_id, turn.id)
        claim = await store.claim(ref, lease_s=30.0, epoch="e", spend_attempt=True)
        assert claim is not None
        foldings.append(Folding(claim.hold, FOLD, sequence_limit=9, epoch="e"))

    table = tables.turns
    lock = select(table.c.id).where(table.c.organization_id == ADA.organization_id, table.c.id == busy.id)
    async with store._database.of(ADA.organization_id).write() as write:
        await write.execute(lock.with_for_update())
        folded = await store.fold_all(foldings, lease_s=30.0)

    assert folded == [False, True]
    assert await store.fold(foldings[0].hold, FOLD, lease_s=30.0, sequence_limit=9, epoch="e")
