"""Calls that race, on a real PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from services.conversation.model import FinishReason, Repeat, Role, TurnState
from services.conversation.store import Ending, Fold, TurnRef
from services.conversation.store_postgres import PostgresStore
from services.mesh.database import open_database
from services.mesh.errors import TurnAlreadyRunning
from tests.support.conversation import ADA, database_settings, new_conversation, new_turn

PARALLEL = 50
FOLD = Fold(last_sequence=1, text="x", citations=(), retrieval=None, usage=None, model="m")
DONE = Ending(TurnState.COMPLETED, FinishReason.STOP)


@pytest.fixture
async def store(migrated_database_url: Callable[..., str]) -> AsyncIterator[PostgresStore]:
    settings = database_settings(migrated_database_url("conversation")).model_copy(update={"database_pool_size": 20})
    async with open_database(settings, application="tests") as database:
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
