"""What every store does with turns, as workers, relay and reaper see them."""

from dataclasses import replace

import pytest

from services.conversation.events import Draft
from services.conversation.model import FinishReason, MessageState, TurnError, TurnState
from services.conversation.store import Store
from services.conversation.store.work import Ending, Fold, Lapsed
from tests.support.conversation import ADA, EVE, new_conversation, new_turn
from tests.support.conversation_turns import DONE, FOLD, asked, claimed, fold, ref_of


async def test_a_claim_tells_with_which_credential_the_turn_was_asked_for(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(replace(new_turn(conversation.id), credential_id="key_1"))

    assert (await claimed(store, turn)).credential_id == "key_1"
    assert (await claimed(store, await asked(store))).credential_id == ""


async def test_a_claim_tells_all_that_a_worker_needs(store: Store) -> None:
    turn = await asked(store)

    claim = await claimed(store, turn)

    assert (claim.owner, claim.turn.state, claim.turn.attempt, claim.hold.fence) == (ADA, TurnState.RUNNING, 1, 1)
    assert (claim.question.text, claim.answer.id) == ("What did Ada write?", turn.assistant_message_id)
    assert claim.journal_epoch == "e1"
    assert 590 < claim.deadline_s <= 600


async def test_a_claimed_turn_is_not_claimed_again(store: Store) -> None:
    turn = await asked(store)
    await claimed(store, turn)

    assert await store.claim(ref_of(turn), lease_s=30.0, epoch="", spend_attempt=True) is None


async def test_a_turn_is_claimed_in_its_own_organization_only(store: Store) -> None:
    turn = await asked(store)

    assert await store.claim(ref_of(turn, EVE), lease_s=30.0, epoch="", spend_attempt=True) is None


async def test_a_lapsed_turn_is_claimed_with_a_higher_fence_and_its_first_epoch(store: Store) -> None:
    turn = await asked(store)
    await claimed(store, turn, lease_s=0.0)

    claim = await store.claim(ref_of(turn), lease_s=30.0, epoch="e9", spend_attempt=True)

    assert claim is not None
    assert (claim.hold.fence, claim.turn.attempt, claim.journal_epoch) == (2, 2, "e1")


async def test_a_first_claim_without_a_journal_stays_without_an_epoch(store: Store) -> None:
    turn = await asked(store)
    await store.claim(ref_of(turn), lease_s=0.0, epoch="", spend_attempt=True)

    claim = await store.claim(ref_of(turn), lease_s=0.0, epoch="e9", spend_attempt=True)

    assert claim is not None
    assert claim.journal_epoch == ""


async def test_a_fold_stores_everything_together(store: Store) -> None:
    turn = await asked(store)
    claim = await claimed(store, turn)

    assert await fold(store, claim.hold)

    found = await store.answer(ADA, turn.id)
    assert Fold.of(Draft.of(found.message)) == FOLD
    assert (found.turn.last_sequence, found.sequence_limit, found.journal_epoch) == (7, 100, "e2")
    assert found.message.state is MessageState.IN_PROGRESS


async def test_a_finished_turn_has_its_answer_and_its_end(store: Store) -> None:
    turn = await asked(store)
    before = await store.conversation(ADA, turn.conversation_id)
    error = TurnError("PROVIDER_TIMEOUT", "too slow")

    assert await store.finish(
        (await claimed(store, turn)).hold, FOLD, Ending(TurnState.FAILED, FinishReason.ERROR, error)
    )

    found = await store.answer(ADA, turn.id)
    assert (found.turn.state, found.turn.error, found.message.error) == (TurnState.FAILED, error, error)
    assert (found.message.state, found.message.finish_reason) == (MessageState.FAILED, FinishReason.ERROR)
    assert found.message.text == FOLD.text
    assert found.turn.end_time is not None
    assert (await store.conversation(ADA, turn.conversation_id)).update_time > before.update_time


@pytest.mark.parametrize("how", ["taken", "ended", "released", "deleted"])
async def test_a_worker_that_lost_its_turn_changes_nothing(store: Store, how: str) -> None:
    turn = await asked(store)
    stale = (await claimed(store, turn, lease_s=0.0)).hold
    match how:
        case "taken":
            await claimed(store, turn)
        case "ended":
            await store.finish((await claimed(store, turn)).hold, replace(FOLD, text="the end"), DONE)
        case "released":
            await store.release(stale, spend_attempt=True)
        case _:
            await store.delete_conversation(ADA, turn.conversation_id)
    before = None if how == "deleted" else await store.answer(ADA, turn.id)

    assert not await fold(store, stale)
    assert not await store.renew(stale, lease_s=30.0)
    assert not await store.finish(stale, FOLD, DONE)
    assert not await store.release(stale, spend_attempt=False)
    assert await store.unwanted([stale]) == {turn.id}
    assert before is None or await store.answer(ADA, turn.id) == before


@pytest.mark.parametrize(("spend_attempt", "attempt"), [(True, 1), (False, 0)])
async def test_a_released_turn_waits_again(store: Store, *, spend_attempt: bool, attempt: int) -> None:
    turn = await asked(store)
    claim = await claimed(store, turn)

    assert await store.release(claim.hold, spend_attempt=spend_attempt)

    found = await store.turn(ADA, turn.id)
    assert (found.state, found.attempt) == (TurnState.QUEUED, attempt)


async def test_lapsed_turns_are_queued_again_while_attempts_are_left(store: Store) -> None:
    lapsed, spent, alive = await asked(store), await asked(store), await asked(store)
    await claimed(store, lapsed, lease_s=0.0)
    await claimed(store, spent, lease_s=0.0)
    await claimed(store, spent, lease_s=0.0)
    await claimed(store, alive)

    requeued, left = await store.requeue_lapsed(attempts_max=2, limit=10)

    assert requeued == [Lapsed(ref_of(lapsed), attempt=1, fence=1)]
    assert left == [Lapsed(ref_of(spent), attempt=2, fence=2)]
    assert (await store.turn(ADA, lapsed.id)).state is TurnState.QUEUED
    assert (await store.turn(ADA, alive.id)).state is TurnState.RUNNING


async def test_a_renewed_lease_does_not_lapse(store: Store) -> None:
    turn = await asked(store)
    claim = await claimed(store, turn, lease_s=0.0)

    assert await store.renew(claim.hold, lease_s=30.0)

    assert await store.requeue_lapsed(attempts_max=5, limit=10) == ([], [])


async def test_a_turn_that_pauses_does_not_count_as_one_that_waits(store: Store) -> None:
    pausing, waiting = await asked(store), await asked(store)
    for turn, pause_s in ((pausing, 300.0), (waiting, 0.0)):
        assert await store.release((await claimed(store, turn)).hold, spend_attempt=True, pause_s=pause_s)

    assert await store.stale_queued(older_s=0.0, limit=10) == [ref_of(waiting)]
    assert (await claimed(store, pausing)).turn.attempt == 2


async def test_a_turn_whose_worker_leaves_while_it_pauses_is_found_when_the_pause_ends(store: Store) -> None:
    pausing, others, running = await asked(store), await asked(store), await asked(store)
    for turn in (pausing, others):
        assert await store.release((await claimed(store, turn)).hold, spend_attempt=True, pause_s=300.0)
    await claimed(store, running)

    await store.leave_paused([ref_of(pausing), ref_of(running)], older_s=300.0)

    assert await store.stale_queued(older_s=300.0, limit=10) == []
    assert await store.stale_queued(older_s=0.0, limit=10) == [ref_of(pausing)]


async def test_turns_that_wait_long_are_found_once_per_wait(store: Store) -> None:
    turn, running = await asked(store), await asked(store)
    await claimed(store, running)

    assert await store.stale_queued(older_s=60.0, limit=10) == []
    assert await store.stale_queued(older_s=0.0, limit=10) == [ref_of(turn)]
    assert await store.stale_queued(older_s=60.0, limit=10) == []


async def test_turns_past_their_deadline_are_found_unless_somebody_works_on_them(store: Store) -> None:
    conversations = [await store.create_conversation(new_conversation()) for _ in range(4)]
    waits, works, lapsed = [await store.create_turn(new_turn(c.id, deadline_s=0.0)) for c in conversations[:3]]
    await store.create_turn(new_turn(conversations[3].id))
    await claimed(store, works)
    await claimed(store, lapsed, lease_s=0.0)

    assert set(await store.overdue(limit=10)) == {ref_of(waits), ref_of(lapsed)}


async def test_the_outbox_keeps_what_was_not_published(store: Store) -> None:
    turn = await asked(store)

    with pytest.raises(ValueError, match="broker"):
        async with store.outbox(limit=10):
            raise ValueError("broker away")
    async with store.outbox(limit=10) as waiting:
        assert waiting == [ref_of(turn)]
    async with store.outbox(limit=10) as waiting:
        assert waiting == []


async def test_what_was_published_leaves_the_outbox_alone(store: Store) -> None:
    published, waiting = await asked(store), await asked(store)

    await store.relayed([ref_of(published)])
    await store.relayed([ref_of(published)])

    async with store.outbox(limit=10) as left:
        assert left == [ref_of(waiting)]
