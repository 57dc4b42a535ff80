"""Questions that are accepted together, on a real PostgreSQL: as if each had been accepted by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from sqlalchemy import Table, select, text

from services.conversation import tables
from services.conversation.context import PromptReference
from services.conversation.model import (
    ConversationId,
    ConversationSettings,
    FinishReason,
    GenerationParameters,
    OnConflict,
    Owner,
    Repeat,
    RetrievalMode,
    Turn,
    TurnOverrides,
    TurnState,
)
from services.conversation.store.conversations import NewConversation
from services.conversation.store.turns import NewTurn
from services.conversation.store.work import Ending, Fold, TurnRef
from services.conversation.store_postgres import PostgresStore
from services.conversation.store_postgres.intake import Intake
from services.mesh.errors import InvalidArgument
from services.mesh.ids import new_id
from services.mesh.policy import Idempotency, Policy
from services.mesh.positions import NO_POSITION, POSITION_KEY
from services.mesh.postgres.database import Database, open_database
from services.mesh.rpc import CURRENT, Call, Proceed, RpcContext
from tests.support.conversation import ADA, EVE, database_settings, new_conversation, new_turn

FOLD = Fold(last_sequence=1, text="x", citations=(), retrieval=None, usage=None, model="m")
DONE = Ending(TurnState.COMPLETED, FinishReason.STOP)
ALL = (tables.conversations, tables.messages, tables.turns, tables.outbox, tables.idempotency)
NOT_ALIKE = {"organization_id", "create_time", "update_time", "publish_time", "deadline", "start_time", "end_time"}


@dataclass(frozen=True, slots=True)
class Stores:
    """On one database."""

    database: Database
    intake: Intake
    together: PostgresStore
    by_itself: PostgresStore

    async def rows(self, owner: Owner) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Everything of an owner, but when it was and whose it is; Any: columns hold anything."""
        return {table.name: await self._rows(table, owner) for table in ALL}

    async def _rows(self, table: Table, owner: Owner) -> Sequence[Mapping[str, Any]]:
        columns = [column for column in table.c if column.name not in NOT_ALIKE]
        key = [column for column in table.primary_key.columns if column.name != "organization_id"]
        query = select(*columns).where(table.c.organization_id == owner.organization_id).order_by(*key)
        async with self.database.read() as read:
            return [dict(row) for row in (await read.execute(query)).mappings()]


@pytest.fixture
async def stores(migrated_database_url: Callable[..., str]) -> AsyncIterator[Stores]:
    settings = database_settings(migrated_database_url("conversation"))
    async with open_database(settings, application="tests", pool_wait_s=60.0) as database, Intake(database) as intake:
        yield Stores(database, intake, PostgresStore(database, intake=intake), PostgresStore(database))


async def end(store: PostgresStore, owner: Owner, turn: Turn) -> None:
    ref = TurnRef(owner.organization_id, turn.conversation_id, turn.id)
    claim = await store.claim(ref, lease_s=30.0, epoch="e", spend_attempt=True)
    assert claim is not None
    assert await store.finish(claim.hold, FOLD, DONE)


def asked_of(conversation: NewConversation, number: int, **more: Any) -> NewTurn:  # Any: fields by name
    """A question whose ids are those of the other owner's."""
    new = new_turn(conversation.id, f"Question {number}, 'quoted' \\u0041 and \U0001f600?")
    repeat = Repeat(method="CreateTurn", request_id=f"r{number}", body_hash=bytes([number, 255]))
    return replace(new, repeat=repeat, traceparent=f"00-{number}", credential_id="key_1", **more)


async def test_what_is_stored_is_what_each_would_store_by_itself(stores: Stores) -> None:
    prompt = PromptReference(prompt="greeting", variables=(("name", "Ada"),))
    settings = ConversationSettings(model="a/b", knowledge_base_id="kb_1", system_prompt="Be brief.", prompt=prompt)
    wishes = TurnOverrides(
        model="c/d",
        knowledge_base_id="kb_2",
        retrieval_mode=RetrievalMode.ALWAYS,
        parameters=GenerationParameters(temperature=0.5, output_tokens_max=9, stop=("\n", "end"), seed=7),
    )
    conversation = NewConversation(owner=ADA, id=ConversationId(new_id("conv")), settings=settings)
    first = asked_of(conversation, 1)
    wanted = [
        first,
        asked_of(conversation, 2, overrides=wishes),
        asked_of(conversation, 3, parent_id=first.assistant_message_id, revision_of="msg_before"),
        asked_of(conversation, 4, parent_id="", on_conflict=OnConflict.QUEUE),
        replace(asked_of(conversation, 5), repeat=None),
    ]

    turns = []
    for owner, store in ((ADA, stores.together), (EVE, stores.by_itself)):
        await store.create_conversation(replace(conversation, owner=owner))
        for new in wanted:
            turns.append(await store.create_turn(replace(new, owner=owner)))
            await end(store, owner, turns[-1])

    assert await stores.rows(ADA) == await stores.rows(EVE)
    alike = [replace(turn, create_time=turns[0].create_time) for turn in turns]
    assert alike[: len(wanted)] == alike[len(wanted) :]


async def test_the_plain_ones_are_accepted_whatever_stands_beside_them(stores: Stores) -> None:
    free, busy = [await stores.together.create_conversation(new_conversation()) for _ in range(2)]
    other = await stores.together.create_conversation(new_conversation(EVE))
    await stores.together.create_turn(new_turn(busy.id))
    plain = new_turn(free.id)
    passed = [
        new_turn(busy.id),
        new_turn(other.id),
        new_turn(new_id("conv")),
        new_turn(free.id, parent_id=new_id("msg")),
        new_turn(free.id, parent_id="\0"),
        replace(new_turn(free.id), text=None),
        replace(new_turn(free.id), on_conflict=OnConflict.CANCEL_RUNNING),
    ]

    accepted = await asyncio.gather(*(stores.intake.accept(new) for new in (*passed, plain)))

    assert [turn and turn.id for turn in accepted] == [*[None] * len(passed), plain.id]
    assert len(await stores.together.tree(ADA, free.id, size=10, after_id="")) == 2
    assert len(await stores.together.tree(ADA, busy.id, size=10, after_id="")) == 2


@pytest.mark.parametrize("has_replicas", [True, False])
async def test_who_wants_its_position_is_told_it_where_there_are_replicas(
    stores: Stores, *, has_replicas: bool
) -> None:
    conversation = await stores.together.create_conversation(new_conversation())
    call = Call(
        method="/testing/Ask",
        policy=Policy(idempotency=Idempotency.REQUEST_ID),
        is_stream=False,
        context=cast("RpcContext", None),  # nothing is asked of it
        handle=cast("Proceed", None),
        metadata=((POSITION_KEY, NO_POSITION),),
    )
    token = CURRENT.set(call)
    try:
        async with Intake(stores.database, has_replicas=has_replicas) as intake:
            accepted = await intake.accept(new_turn(conversation.id))
    finally:
        CURRENT.reset(token)

    # The transaction tells it, which decides what is not accepted here.
    assert (accepted is None) == has_replicas


async def test_a_character_that_cannot_be_stored_is_told_to_who_sent_it_alone(stores: Stores) -> None:
    conversations = [await stores.together.create_conversation(new_conversation()) for _ in range(2)]

    refused, accepted = await asyncio.gather(
        stores.together.create_turn(replace(new_turn(conversations[0].id), traceparent="\0")),
        stores.together.create_turn(new_turn(conversations[1].id)),
        return_exceptions=True,
    )

    assert isinstance(refused, InvalidArgument)
    assert isinstance(accepted, Turn)


async def test_a_locked_conversation_holds_up_no_other_question(stores: Stores) -> None:
    locked, free = [await stores.together.create_conversation(new_conversation()) for _ in range(2)]
    lock = text("SELECT FROM conversation.conversations WHERE id = :id FOR UPDATE")
    async with asyncio.TaskGroup() as group, stores.database.write() as write:
        await write.execute(lock, {"id": locked.id})
        waiting = group.create_task(stores.together.create_turn(new_turn(locked.id)))
        accepted = await stores.together.create_turn(new_turn(free.id))
        assert not waiting.done()

    assert accepted.conversation_id == free.id
    assert waiting.result().state is TurnState.QUEUED


async def test_one_request_id_sent_twice_at_once_makes_one_turn(stores: Stores) -> None:
    conversations = [await stores.together.create_conversation(new_conversation()) for _ in range(2)]
    repeat = Repeat(method="CreateTurn", request_id="r1", body_hash=b"one")

    one, same, other = await asyncio.gather(
        stores.together.create_turn(new_turn(conversations[0].id, repeat=repeat)),
        stores.together.create_turn(new_turn(conversations[0].id, repeat=repeat)),
        stores.together.create_turn(new_turn(conversations[1].id)),
    )

    assert one.id == same.id != other.id
    assert len((await stores.rows(ADA))["turns"]) == 2
