"""What every store does with turns that meet another one of their conversation."""

from dataclasses import replace

import pytest
from sqlalchemy import update

from services.conversation import tables
from services.conversation.model import (
    TURNS_WAITING_MAX,
    FinishReason,
    MessageState,
    OnConflict,
    Repeat,
    Turn,
    TurnState,
)
from services.conversation.store import Store
from services.conversation.store.work import Claim, Ending, Fold, TurnRef
from services.conversation.store_memory import MemoryStore
from services.conversation.store_postgres import PostgresStore
from services.mesh.errors import NotFound, TurnAlreadyRunning
from tests.support.conversation import ADA, BOB, new_conversation, new_turn
from tests.support.conversation_turns import DONE, claimed, ref_of

FOLD = Fold(last_sequence=3, text="Notes", citations=(), retrieval=None, usage=None, model="m")
REPEAT = Repeat(method="CreateTurn", request_id="r1", body_hash=b"one")
QUEUE, CANCEL, REJECT = OnConflict.QUEUE, OnConflict.CANCEL_RUNNING, OnConflict.REJECT


async def opened(store: Store) -> str:
    return (await store.create_conversation(new_conversation())).id


async def asked(store: Store, conversation_id: str, on_conflict: OnConflict, *, deadline_s: float = 600.0) -> Turn:
    return await store.create_turn(replace(new_turn(conversation_id, deadline_s=deadline_s), on_conflict=on_conflict))


async def claim_of(store: Store, turn: Turn, *, lease_s: float = 30.0) -> Claim | None:
    return await store.claim(ref_of(turn), lease_s=lease_s, epoch="e", spend_attempt=True)


async def finished(store: Store, turn: Turn) -> None:
    assert await store.finish((await claimed(store, turn)).hold, FOLD, DONE)


async def published(store: Store) -> list[TurnRef]:
    async with store.outbox(limit=100) as refs:
        return list(refs)


async def states(store: Store, *turns: Turn) -> list[TurnState]:
    return [(await store.turn(ADA, turn.id)).state for turn in turns]


@pytest.mark.parametrize("on_conflict", [REJECT, QUEUE, CANCEL])
async def test_a_turn_that_meets_none_is_queued_at_once(store: Store, on_conflict: OnConflict) -> None:
    turn = await asked(store, await opened(store), on_conflict)

    assert turn.state is TurnState.QUEUED
    assert await published(store) == [ref_of(turn)]


async def test_a_turn_that_waits_is_neither_published_nor_claimed_nor_overdue(store: Store) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, REJECT)
    second = await asked(store, conversation_id, QUEUE, deadline_s=0.0)

    assert (second.state, second.attempt) == (TurnState.WAITING, 0)
    assert await published(store) == [ref_of(first)]
    assert await claim_of(store, second) is None
    assert await store.overdue(limit=10) == []
    assert await store.stale_queued(older_s=0.0, limit=10) == [ref_of(first)]


async def test_turns_that_wait_move_up_in_the_order_in_which_they_came(store: Store) -> None:
    conversation_id = await opened(store)
    turns = [await asked(store, conversation_id, QUEUE) for _ in range(4)]

    for done, following in zip(turns, [*turns[1:], None], strict=True):
        assert await published(store) == [ref_of(done)]
        assert await states(store, *turns[turns.index(done) + 1 :]) == [TurnState.WAITING] * (
            len(turns) - turns.index(done) - 1
        )
        await finished(store, done)
        assert following is None or (await states(store, following)) == [TurnState.QUEUED]

    messages = await store.branch_end(ADA, conversation_id, leaf_id=turns[-1].assistant_message_id, size=10)
    assert [message.turn_id for message in messages] == [turn.id for turn in turns for _ in range(2)]


async def test_the_time_of_a_turn_that_waited_counts_from_when_its_place_came(store: Store) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, QUEUE)
    second = await asked(store, conversation_id, QUEUE, deadline_s=300.0)
    await finished(store, first)

    claim = await claimed(store, second)

    assert 299.0 < claim.deadline_s <= 300.0


@pytest.mark.parametrize("pause_s", [300.0, 0.0])
async def test_a_turn_that_pauses_is_published_to_be_stopped(store: Store, pause_s: float) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, REJECT)
    await published(store)
    await store.release((await claimed(store, first)).hold, spend_attempt=True, pause_s=pause_s)

    await asked(store, conversation_id, CANCEL)

    assert await published(store) == ([ref_of(first)] if pause_s else [])
    assert (await claimed(store, first)).is_cancel_requested


async def test_a_turn_between_two_attempts_keeps_the_others_waiting(store: Store) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, QUEUE)
    second = await asked(store, conversation_id, QUEUE)
    claim = await claimed(store, first)

    assert await store.release(claim.hold, spend_attempt=True)

    assert await states(store, first, second) == [TurnState.QUEUED, TurnState.WAITING]


async def test_a_turn_is_refused_while_others_wait(store: Store) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, QUEUE)
    second = await asked(store, conversation_id, QUEUE)

    with pytest.raises(TurnAlreadyRunning) as refused:
        await asked(store, conversation_id, REJECT)

    assert refused.value.metadata == {"turn_id": first.id}
    await finished(store, first)
    with pytest.raises(TurnAlreadyRunning) as refused:
        await asked(store, conversation_id, REJECT)
    assert refused.value.metadata == {"turn_id": second.id}


async def test_as_many_wait_as_may_and_no_more(store: Store) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, QUEUE)
    for _ in range(TURNS_WAITING_MAX):
        await asked(store, conversation_id, QUEUE)

    with pytest.raises(TurnAlreadyRunning):
        await asked(store, conversation_id, QUEUE)
    await finished(store, first)

    assert (await asked(store, conversation_id, QUEUE)).state is TurnState.WAITING


async def test_a_repeat_of_a_turn_that_waits_gives_it_back(store: Store) -> None:
    conversation_id = await opened(store)
    await asked(store, conversation_id, QUEUE)
    first, again = [
        await store.create_turn(replace(new_turn(conversation_id, repeat=REPEAT), on_conflict=QUEUE)) for _ in range(2)
    ]

    assert again == first
    assert first.state is TurnState.WAITING


async def test_a_turn_that_nobody_has_had_is_cancelled_at_once_and_the_next_one_moves_up(store: Store) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, REJECT)
    second = await asked(store, conversation_id, QUEUE)
    third = await asked(store, conversation_id, QUEUE)

    cancelled = await store.request_cancel(ADA, first.id)

    assert (cancelled.state, cancelled.end_time is None, cancelled.last_sequence) == (TurnState.CANCELLED, False, 1)
    message = await store.message(ADA, first.assistant_message_id)
    assert (message.state, message.finish_reason) == (MessageState.CANCELLED, FinishReason.CANCELLED)
    assert await states(store, second, third) == [TurnState.QUEUED, TurnState.WAITING]
    assert await published(store) == [ref_of(first), ref_of(second)]
    assert await claim_of(store, first) is None
    await finished(store, second)
    await finished(store, third)


async def test_a_turn_that_was_handed_back_is_left_to_a_worker_to_cancel(store: Store) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, REJECT)
    second = await asked(store, conversation_id, QUEUE)
    assert await store.release((await claimed(store, first)).hold, spend_attempt=False)

    assert (await store.request_cancel(ADA, first.id)).state is TurnState.QUEUED

    assert (await claimed(store, first)).is_cancel_requested
    assert await states(store, second) == [TurnState.WAITING]


async def test_a_turn_that_waits_is_cancelled_at_once_and_passed_over(store: Store) -> None:
    conversation_id = await opened(store)
    first, second, third = [await asked(store, conversation_id, QUEUE) for _ in range(3)]

    cancelled = await store.request_cancel(ADA, second.id)

    answer = await store.message(ADA, second.assistant_message_id)
    assert (cancelled.state, cancelled.last_sequence) == (TurnState.CANCELLED, 1)
    assert (answer.state, answer.finish_reason) == (MessageState.CANCELLED, FinishReason.CANCELLED)
    assert cancelled.end_time is not None
    await finished(store, first)
    assert await states(store, second, third) == [TurnState.CANCELLED, TurnState.QUEUED]


async def test_a_turn_that_cancels_takes_the_place_of_those_that_have_not_begun(store: Store) -> None:
    conversation_id = await opened(store)
    others = [await asked(store, conversation_id, QUEUE) for _ in range(3)]

    turn = await asked(store, conversation_id, CANCEL)

    assert turn.state is TurnState.QUEUED
    assert await states(store, *others) == [TurnState.CANCELLED] * 3
    assert await claim_of(store, others[0]) is None
    assert (await claimed(store, turn)).hold.fence == 1


async def test_a_turn_that_cancels_waits_for_the_worker_of_the_one_that_runs(store: Store) -> None:
    conversation_id = await opened(store)
    first, second = [await asked(store, conversation_id, QUEUE) for _ in range(2)]
    hold = (await claimed(store, first)).hold

    turn = await asked(store, conversation_id, CANCEL)

    assert await states(store, first, second, turn) == [
        TurnState.RUNNING,
        TurnState.CANCELLED,
        TurnState.WAITING,
    ]
    assert await store.unwanted([hold]) == {first.id}
    assert await store.finish(hold, FOLD, Ending(TurnState.CANCELLED, FinishReason.CANCELLED))
    assert await states(store, first, turn) == [TurnState.CANCELLED, TurnState.QUEUED]


async def test_a_turn_between_two_attempts_is_left_to_a_worker_to_cancel(store: Store) -> None:
    conversation_id = await opened(store)
    first = await asked(store, conversation_id, QUEUE)
    await store.release((await claimed(store, first)).hold, spend_attempt=True)

    turn = await asked(store, conversation_id, CANCEL)

    assert (await states(store, first, turn)) == [TurnState.QUEUED, TurnState.WAITING]
    assert (await claimed(store, first)).is_cancel_requested


async def test_cancelling_leaves_other_conversations_alone(store: Store) -> None:
    here, there = await opened(store), await opened(store)
    other, waits = [await asked(store, there, QUEUE) for _ in range(2)]

    await asked(store, here, CANCEL)
    with pytest.raises(NotFound):
        await store.create_turn(replace(new_turn(there, owner=BOB), on_conflict=CANCEL))

    assert await states(store, other, waits) == [TurnState.QUEUED, TurnState.WAITING]


async def test_turns_that_wait_go_with_their_conversation(store: Store) -> None:
    conversation_id = await opened(store)
    turns = [await asked(store, conversation_id, QUEUE) for _ in range(2)]
    claim = await claimed(store, turns[0])

    gone = await store.delete_conversation(ADA, conversation_id)

    assert set(gone) == {turn.id for turn in turns}
    assert not await store.finish(claim.hold, FOLD, DONE)
    assert await published(store) == []


async def ended_by_the_release_before(store: Store, turn: Turn) -> None:
    """Ends a turn as a worker does that knows nothing of turns that wait."""
    if isinstance(store, MemoryStore):
        store._change(store.tables.turns[turn.id], state=TurnState.COMPLETED)
        return
    assert isinstance(store, PostgresStore)
    async with store._database.of(ADA.organization_id).write() as write:
        key = (tables.turns.c.organization_id == ADA.organization_id, tables.turns.c.id == turn.id)
        await write.execute(update(tables.turns).where(*key).values(state=TurnState.COMPLETED.value))


async def test_turns_that_wait_for_nobody_move_up(store: Store) -> None:
    conversation_id = await opened(store)
    turns = [await asked(store, conversation_id, QUEUE, deadline_s=300.0) for _ in range(3)]
    await published(store)
    await ended_by_the_release_before(store, turns[0])

    assert await store.move_up_stranded(limit=10) == 1
    assert await store.move_up_stranded(limit=10) == 0

    assert await states(store, *turns[1:]) == [TurnState.QUEUED, TurnState.WAITING]
    assert await published(store) == [ref_of(turns[1])]
    claim = await claimed(store, turns[1])
    assert claim.deadline_s > 200.0


async def test_turns_that_wait_for_others_stay_where_they_are(store: Store) -> None:
    for is_running in (False, True):
        conversation_id = await opened(store)
        first, second = [await asked(store, conversation_id, QUEUE) for _ in range(2)]
        if is_running:
            await claimed(store, first)

        assert await store.move_up_stranded(limit=10) == 0
        assert await states(store, second) == [TurnState.WAITING]


async def test_as_many_move_up_as_are_asked_for(store: Store) -> None:
    for _ in range(3):
        conversation_id = await opened(store)
        first, _second = [await asked(store, conversation_id, QUEUE) for _ in range(2)]
        await ended_by_the_release_before(store, first)

    assert await store.move_up_stranded(limit=2) == 2
    assert await store.move_up_stranded(limit=2) == 1
