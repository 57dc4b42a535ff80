"""Turns that begin and end at the same time: each as if it were alone."""

import asyncio
from dataclasses import replace

from services.conversation.model import OnConflict, TurnState
from services.conversation.store import Store
from services.conversation.store.work import Finished
from tests.support.conversation import ADA, EVE, new_turn
from tests.support.conversation_turns import DONE, FOLD, asked, claimed, ref_of

TURNS = 12


async def test_turns_that_are_claimed_at_once_are_claimed_once(store: Store) -> None:
    turns = [await asked(store) for _ in range(TURNS)]
    refs = [ref_of(turn) for turn in turns]
    foreign = replace(refs[0], organization_id=EVE.organization_id)

    claims = await asyncio.gather(
        *(store.claim(ref, lease_s=30.0, epoch=ref.turn_id, spend_attempt=True) for ref in [foreign, *refs, *refs])
    )

    taken = [claim for claim in claims if claim is not None]
    assert claims[0] is None
    assert sorted(claim.turn.id for claim in taken) == sorted(turn.id for turn in turns)
    assert {(claim.hold.fence, claim.turn.attempt, claim.turn.state) for claim in taken} == {(1, 1, TurnState.RUNNING)}
    assert all(claim.journal_epoch == claim.turn.id == claim.hold.ref.turn_id for claim in taken)


async def test_a_turn_that_had_a_worker_is_claimed_beside_new_ones(store: Store) -> None:
    old, new = await asked(store), await asked(store)
    first = await claimed(store, old)
    await store.fold(first.hold, FOLD, lease_s=30.0, sequence_limit=100, epoch="e1")
    await store.release(first.hold, spend_attempt=True)

    again, other = await asyncio.gather(*(claimed(store, turn) for turn in (old, new)))

    assert (again.hold.fence, again.turn.attempt, again.answer.text) == (2, 2, FOLD.text)
    assert (other.hold.fence, other.turn.attempt, other.answer.text) == (1, 1, None)


async def test_turns_that_end_at_once_end_each_with_its_own_answer(store: Store) -> None:
    turns = [await asked(store) for _ in range(TURNS)]
    holds = [(await claimed(store, turn)).hold for turn in turns]
    folds = [replace(FOLD, text=f'"{number}" \\ é', last_sequence=number + 5) for number in range(TURNS)]
    lapsed = await asked(store)
    stale = (await claimed(store, lapsed, lease_s=0.0)).hold
    await claimed(store, lapsed)

    ended = await asyncio.gather(
        store.finish(stale, FOLD, DONE),
        *(store.finish(hold, fold, DONE) for hold, fold in zip(holds, folds, strict=True)),
    )

    assert ended == [Finished.LOST, *[Finished.DONE] * TURNS]
    answers = [await store.answer(ADA, turn.id) for turn in turns]
    assert [(answer.message.text, answer.message.last_sequence) for answer in answers] == [
        (fold.text, fold.last_sequence) for fold in folds
    ]
    assert {answer.turn.state for answer in answers} == {TurnState.COMPLETED}
    assert (await store.turn(ADA, lapsed.id)).state is TurnState.RUNNING


async def test_a_turn_that_ends_a_second_time_stays_as_it_is(store: Store) -> None:
    turn = await asked(store)
    hold = (await claimed(store, turn)).hold

    assert await store.finish(hold, FOLD, DONE) is Finished.DONE
    assert await store.finish(hold, replace(FOLD, text="later"), DONE) is Finished.LOST
    assert (await store.answer(ADA, turn.id)).message.text == FOLD.text


async def test_an_end_tells_whether_another_turn_stands_in_the_outbox_now(store: Store) -> None:
    first = await asked(store)
    hold = (await claimed(store, first)).hold
    second = await store.create_turn(replace(new_turn(first.conversation_id), on_conflict=OnConflict.QUEUE))
    async with store.outbox(limit=10):
        pass  # what stands there before

    assert await store.finish(hold, FOLD, DONE) is Finished.MOVED_UP
    async with store.outbox(limit=10) as waiting:
        assert waiting == [ref_of(second)]
    assert await store.finish((await claimed(store, second)).hold, FOLD, DONE) is Finished.DONE
