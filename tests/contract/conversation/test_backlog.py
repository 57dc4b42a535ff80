"""What every store tells of turns that have not ended, and of how long they waited."""

from dataclasses import replace

from services.conversation.model import OnConflict
from services.conversation.store import Store
from tests.support.conversation import new_conversation, new_turn
from tests.support.conversation_turns import DONE, FOLD, asked, claimed


async def test_empty_backlog_has_no_ages(store: Store) -> None:
    backlog = await store.backlog()

    assert (backlog.outbox_oldest_s, backlog.overdue_s, backlog.queued, backlog.running) == (0.0, 0.0, 0, 0)


async def test_backlog_counts_turns_by_state_and_forgets_those_that_ended(store: Store) -> None:
    first, _ = await asked(store), await asked(store)
    claim = await claimed(store, first)
    before = await store.backlog()
    await store.finish(claim.hold, FOLD, DONE)

    assert (before.queued, before.running) == (1, 1)
    assert ((await store.backlog()).queued, (await store.backlog()).running) == (1, 0)


async def test_outbox_grows_old_until_it_is_relayed(store: Store) -> None:
    await asked(store)
    first = (await store.backlog()).outbox_oldest_s
    second = (await store.backlog()).outbox_oldest_s
    async with store.outbox(limit=10):
        pass

    assert 0 <= first < second
    assert (await store.backlog()).outbox_oldest_s == 0.0


async def test_turn_past_its_time_is_overdue_until_it_ends(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(replace(new_turn(conversation.id), deadline_s=-60.0))
    claim = await claimed(store, turn)
    overdue_s = (await store.backlog()).overdue_s
    await store.finish(claim.hold, FOLD, DONE)

    assert 60 <= overdue_s < 180
    assert (await store.backlog()).overdue_s == 0.0


async def test_claim_tells_how_long_the_turn_was_queued(store: Store) -> None:
    claim = await claimed(store, await asked(store))

    assert claim.queued_s is not None
    assert 0 <= claim.queued_s < 60


async def test_claim_tells_the_trace_that_the_turn_was_asked_for_in(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(replace(new_turn(conversation.id), traceparent="00-a-b-01"))

    assert (await claimed(store, turn)).traceparent == "00-a-b-01"
    assert (await claimed(store, await asked(store))).traceparent == ""


async def test_wait_for_another_turn_is_not_told_as_time_in_the_queue(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    first = await claimed(store, await store.create_turn(new_turn(conversation.id)))
    second = await store.create_turn(replace(new_turn(conversation.id), on_conflict=OnConflict.QUEUE))
    await store.finish(first.hold, FOLD, DONE)

    assert (await claimed(store, second)).queued_s is None
