"""What every store does with turns, as their owners, workers, relay and reaper see them."""

from dataclasses import replace

import pytest

from services.conversation.events import Draft
from services.conversation.model import (
    Citation,
    ConversationSettings,
    FinishReason,
    MessageState,
    Owner,
    Repeat,
    RetrievalDecision,
    RetrievalTrace,
    TracePassage,
    Turn,
    TurnError,
    TurnState,
    Usage,
)
from services.conversation.store import Claim, Ending, Fold, Hold, Lapsed, Store, TurnRef
from services.mesh.errors import IdempotencyMismatch, NotFound, TurnAlreadyRunning
from services.mesh.ids import new_id
from tests.support.conversation import ADA, BOB, EVE, new_conversation, new_turn

REPEAT = Repeat(method="CreateTurn", request_id="r1", body_hash=b"one")
DONE = Ending(TurnState.COMPLETED, FinishReason.STOP)
CITATION = Citation(
    document_id="doc_1", document_version=2, document_name="n", knowledge_base_id="kb_1", chunk_id="chk_1",
    part_id="p1", start=0, end=3, source_start=5, source_end=8, quote="Ada", locator="p. 1", score=0.5, number=1,
)  # fmt: skip
FOLD = Fold(
    last_sequence=7,
    text="Ada 🙂",
    citations=(CITATION,),
    retrieval=RetrievalTrace(
        decision=RetrievalDecision.WEAK,
        probability=0.5,
        passages=(TracePassage(chunk_id="chk_1", document_id="doc_1", document_name="n", score=0.5, number=1),),
    ),
    usage=Usage(input_tokens=1, cost_micros=None),
    model="scripted/one",
)


async def asked(store: Store, owner: Owner = ADA) -> Turn:
    conversation = await store.create_conversation(new_conversation(owner))
    return await store.create_turn(new_turn(conversation.id, owner=owner))


def ref_of(turn: Turn, owner: Owner = ADA) -> TurnRef:
    return TurnRef(owner.organization_id, turn.conversation_id, turn.id)


async def claimed(store: Store, turn: Turn, *, lease_s: float = 30.0) -> Claim:
    claim = await store.claim(ref_of(turn), lease_s=lease_s, epoch="e1", spend_attempt=True)
    assert claim is not None
    return claim


async def fold(store: Store, hold: Hold, *, lease_s: float = 30.0, limit: int = 100) -> bool:
    return await store.fold(hold, FOLD, lease_s=lease_s, sequence_limit=limit, epoch="e2")


async def test_a_turn_comes_with_its_messages_and_its_place_in_the_outbox(store: Store) -> None:
    turn = await asked(store)

    question = await store.message(ADA, turn.user_message_id)
    answer = await store.message(ADA, turn.assistant_message_id)
    async with store.outbox(limit=10) as waiting:
        assert waiting == [ref_of(turn)]
    assert (turn.state, turn.attempt, turn.last_sequence) == (TurnState.QUEUED, 0, 0)
    assert (question.state, question.text) == (MessageState.COMPLETE, "What did Ada write?")
    assert (answer.state, answer.text, answer.parent_id) == (MessageState.IN_PROGRESS, None, question.id)
    assert (await store.conversation(ADA, turn.conversation_id)).leaf_message_id == answer.id


async def test_the_first_question_gives_the_title(store: Store) -> None:
    turn = await asked(store)

    assert (await store.conversation(ADA, turn.conversation_id)).settings.title == "What did Ada write?"


async def test_a_given_title_stays(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation(title="Mine"))
    await store.create_turn(new_turn(conversation.id))

    assert (await store.conversation(ADA, conversation.id)).settings.title == "Mine"


async def test_a_claim_tells_with_which_credential_the_turn_was_asked_for(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(replace(new_turn(conversation.id), credential_id="key_1"))

    assert (await claimed(store, turn)).credential_id == "key_1"
    assert (await claimed(store, await asked(store))).credential_id == ""


async def test_a_repeat_gives_the_same_turn(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))

    again = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))

    assert again == first
    assert len(await store.tree(ADA, conversation.id, size=10, after_id="")) == 2


async def test_a_repeat_after_the_end_gives_the_ended_turn(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))
    await store.finish((await claimed(store, first)).hold, FOLD, DONE)

    again = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))

    assert (again.id, again.state) == (first.id, TurnState.COMPLETED)


async def test_a_request_id_with_another_body_is_refused(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    await store.create_turn(new_turn(conversation.id, repeat=REPEAT))

    with pytest.raises(IdempotencyMismatch):
        await store.create_turn(new_turn(conversation.id, repeat=replace(REPEAT, body_hash=b"two")))


async def test_a_second_turn_is_refused_while_one_is_active(store: Store) -> None:
    turn = await asked(store)
    for _ in ("queued", "running"):
        with pytest.raises(TurnAlreadyRunning) as refused:
            await store.create_turn(new_turn(turn.conversation_id, repeat=REPEAT))
        assert refused.value.metadata["turn_id"] == turn.id
        await store.claim(ref_of(turn), lease_s=30.0, epoch="", spend_attempt=True)


async def test_a_refused_turn_leaves_nothing_behind(store: Store) -> None:
    turn = await asked(store)
    with pytest.raises(TurnAlreadyRunning):
        await store.create_turn(new_turn(turn.conversation_id, repeat=REPEAT))
    await store.finish((await claimed(store, turn)).hold, FOLD, DONE)

    accepted = await store.create_turn(new_turn(turn.conversation_id, repeat=REPEAT))

    assert accepted.id != turn.id
    assert len(await store.tree(ADA, turn.conversation_id, size=10, after_id="")) == 4


async def test_options_are_settled_when_the_turn_is_accepted(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation(model="a/b", knowledge_base_id="kb_1"))
    turn = await store.create_turn(new_turn(conversation.id))
    await store.update_conversation(ADA, conversation.id, ConversationSettings(model="c/d"), etag=conversation.etag)

    claim = await claimed(store, turn)

    assert (claim.turn.options.model, claim.turn.options.knowledge_base_id) == ("a/b", "kb_1")


async def test_an_unknown_parent_is_not_found(store: Store) -> None:
    first, second = await asked(store), await asked(store)
    await store.finish((await claimed(store, first)).hold, FOLD, DONE)

    for parent_id in (new_id("msg"), second.user_message_id):
        with pytest.raises(NotFound) as refused:
            await store.create_turn(new_turn(first.conversation_id, parent_id=parent_id))
        assert refused.value.metadata["resource"] == "message"


async def test_an_empty_parent_begins_a_new_first_branch(store: Store) -> None:
    first = await asked(store)
    await store.finish((await claimed(store, first)).hold, FOLD, DONE)

    second = await store.create_turn(new_turn(first.conversation_id, parent_id=""))

    assert (await store.message(ADA, second.user_message_id)).parent_id == ""


async def test_pages_of_turns_hold_each_once_newest_first(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    created = []
    for _ in range(3):
        turn = await store.create_turn(new_turn(conversation.id))
        await store.finish((await claimed(store, turn)).hold, FOLD, DONE)
        created.append(turn.id)

    first = await store.list_turns(ADA, conversation.id, size=2, before_id="")
    rest = await store.list_turns(ADA, conversation.id, size=2, before_id=first[-1].id)

    # Ids sort by their millisecond, and several of these turns share one.
    assert [turn.id for turn in [*first, *rest]] == sorted(created, reverse=True)


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


async def test_a_cancelled_turn_is_unwanted(store: Store) -> None:
    turn, other = await asked(store), await asked(store)
    holds = [(await claimed(store, each)).hold for each in (turn, other)]
    assert await store.unwanted(holds) == set()

    await store.request_cancel(ADA, turn.id)

    assert await store.unwanted(holds) == {turn.id}
    assert await store.unwanted([]) == set()


async def test_cancelling_an_ended_turn_changes_nothing(store: Store) -> None:
    turn = await asked(store)
    await store.finish((await claimed(store, turn)).hold, FOLD, DONE)

    assert (await store.request_cancel(ADA, turn.id)).state is TurnState.COMPLETED


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


async def test_old_request_ids_are_forgotten(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id, repeat=REPEAT))
    await store.finish((await claimed(store, turn)).hold, FOLD, DONE)

    assert await store.prune(older_s=60.0, limit=10) == 0
    assert await store.prune(older_s=0.0, limit=10) == 1

    assert (await store.create_turn(new_turn(conversation.id, repeat=REPEAT))).id != turn.id


@pytest.mark.parametrize("other", [BOB, EVE], ids=["colleague", "stranger"])
async def test_nobody_else_sees_or_stops_a_turn(store: Store, other: Owner) -> None:
    turn = await asked(store)
    await claimed(store, turn)

    for turn_id in (turn.id, new_id("turn")):
        for attempt in (
            store.turn(other, turn_id),
            store.answer(other, turn_id),
            store.request_cancel(other, turn_id),
        ):
            with pytest.raises(NotFound) as refused:
                await attempt
            assert refused.value.metadata == {"resource": "turn"}
    assert not (await store.unwanted([Hold(ref_of(turn), 1)]))
