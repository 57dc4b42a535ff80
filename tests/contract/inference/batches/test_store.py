"""Batches as they are kept: for their owners, and for runners that may die."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.inference.batches.model import (
    BATCH_PREFIX,
    HANDOVER_PREFIX,
    ITEM_PREFIX,
    Batch,
    BatchState,
    Claim,
    Counts,
    Handover,
    Item,
    ItemState,
    Owner,
)
from services.inference.batches.store import BatchStore, LeaseLostError
from services.inference.money.purse import Purpose
from services.inference.prompts.model import Repeat
from services.mesh.errors import IdempotencyMismatch, QuotaExhausted
from services.mesh.ids import new_id
from tests.contract.inference.batches.conftest import OPEN_MAX
from tests.support.money import API_KEY, NOON, ORGANIZATION, OTHER_ORGANIZATION, OTHER_USER, USER

OWNER = Owner(ORGANIZATION, USER)
MINUTE = timedelta(minutes=1)
LATER = NOON + MINUTE
LEASE_ENDS = NOON + 10 * MINUTE


def batch(**changes: Any) -> Batch:
    """Any: fields by name."""
    fields: dict[str, Any] = {
        "id": new_id(BATCH_PREFIX),
        "organization_id": ORGANIZATION,
        "user_id": USER,
        "credential_id": API_KEY,
        "state": BatchState.PREPARING,
        "created_at": NOON,
        "due_at": NOON + 100 * MINUTE,
    }
    return Batch(**(fields | changes))


def item(number: int = 0, **changes: Any) -> Item:
    """Any: fields by name."""
    fields: dict[str, Any] = {
        "id": new_id(ITEM_PREFIX),
        "number": number,
        "custom_id": f"item-{number}",
        "request": b"request",
        "model": "openai/m",
        "purpose": Purpose.SUMMARY,
        "call_id": new_id("call"),
        "ready_at": NOON,
        "output_tokens_max": 7,
        "is_batched": True,
    }
    return Item(**(fields | changes))


def handover(**changes: Any) -> Handover:
    """Any: fields by name."""
    fields: dict[str, Any] = {
        "id": new_id(HANDOVER_PREFIX),
        "model": "openai/m",
        "key_id": "openai/operator",
        "items_count": 1,
        "submitted_at": NOON,
    }
    return Handover(**(fields | changes))


async def kept(store: BatchStore, *items: Item, repeat: Repeat | None = None, **changes: Any) -> Batch:
    """A batch that was started; Any: its fields by name."""
    made = await store.create(batch(**changes), items or (item(),), repeat, given_up_at=LEASE_ENDS)
    assert await store.start(made, NOON)
    return replace(made, state=BatchState.RUNNING)


async def claimed(store: BatchStore, lease: str = "lease") -> Claim:
    claim = await store.claim(lease=lease, until=LEASE_ENDS, now=NOON)
    assert claim is not None
    return claim


async def test_batch_is_seen_when_it_was_started(store: BatchStore) -> None:
    made = await store.create(batch(), [item(0), item(1)], None, given_up_at=LEASE_ENDS)
    unseen = await store.find(OWNER, made.id), await store.page(OWNER, before="", limit=9)
    unclaimed = await store.claim(lease="a", until=LEASE_ENDS, now=NOON)
    assert await store.start(made, NOON)
    assert unseen == (None, [])
    assert unclaimed is None
    assert await store.find(OWNER, made.id) == replace(made, state=BatchState.RUNNING)
    assert made.counts == Counts(waiting=2)


async def test_batch_that_nobody_started_is_claimed_at_last_and_started_no_more(store: BatchStore) -> None:
    made = await store.create(batch(), [item()], None, given_up_at=LATER)
    claim = await store.claim(lease="a", until=LEASE_ENDS, now=LATER)
    assert claim is not None
    assert claim.batch == made
    assert not await store.start(made, NOON)
    await store.discard(made)
    await store.purge(claim)
    assert await store.claim(lease="b", until=LEASE_ENDS, now=LEASE_ENDS) is None


async def test_batch_that_was_taken_back_is_gone(store: BatchStore) -> None:
    made = await store.create(batch(), [item()], None, given_up_at=LATER)
    await store.discard(made)
    assert not await store.start(made, NOON)
    started = await kept(store)
    await store.discard(started)
    assert await store.find(OWNER, started.id) is not None


async def test_batches_are_listed_newest_first_in_pages(store: BatchStore) -> None:
    made = [await kept(store) for _ in range(3)]
    first = await store.page(OWNER, before="", limit=2)
    rest = await store.page(OWNER, before=first[-1].id, limit=2)
    assert [one.id for one in (*first, *rest)] == sorted((one.id for one in made), reverse=True)
    assert {one.counts for one in first} == {Counts(waiting=1)}


@pytest.mark.parametrize("owner", [Owner(OTHER_ORGANIZATION, USER), Owner(ORGANIZATION, OTHER_USER)])
async def test_others_see_and_change_nothing(store: BatchStore, owner: Owner) -> None:
    made = await kept(store)
    claim = await claimed(store)
    await store.write(claim, [item(0, state=ItemState.SUCCEEDED)])
    assert await store.find(owner, made.id) is None
    assert await store.page(owner, before="", limit=9) == []
    assert await store.results(owner, made.id, after=-1, limit=9) == []
    assert not await store.cancel(owner, made.id, NOON)
    assert not await store.delete(owner, made.id, NOON)
    assert await store.find(OWNER, made.id) is not None


async def test_repeated_creation_gives_the_first_batch(store: BatchStore) -> None:
    repeat = Repeat("request-1", b"body")
    made = await kept(store, repeat=repeat)
    again = await store.create(batch(), [item()], repeat, given_up_at=LEASE_ENDS)
    elsewhere = await store.create(batch(user_id=OTHER_USER), [item()], repeat, given_up_at=LEASE_ENDS)
    assert again == made
    assert elsewhere.id != made.id
    with pytest.raises(IdempotencyMismatch):
        await store.create(batch(), [item()], Repeat("request-1", b"other"), given_up_at=LEASE_ENDS)


async def test_equal_creations_at_once_make_one_batch(store: BatchStore) -> None:
    repeat = Repeat("request-1", b"body")
    calls = (store.create(batch(), [item()], repeat, given_up_at=LEASE_ENDS) for _ in range(4))
    made = await asyncio.gather(*calls)
    assert len({one.id for one in made}) == 1


async def test_organization_has_so_many_open_batches_whoever_makes_them(store: BatchStore) -> None:
    calls = (store.create(batch(), [item()], None, given_up_at=LEASE_ENDS) for _ in range(OPEN_MAX + 2))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, QuotaExhausted) for one in outcomes) == 2
    await kept(store, organization_id=OTHER_ORGANIZATION)


async def test_ended_batch_makes_room(store: BatchStore) -> None:
    for _ in range(OPEN_MAX):
        await kept(store)
    await store.end(await claimed(store), at=LATER)
    await kept(store)


async def test_batch_is_claimed_by_one_until_its_lease_lapses(store: BatchStore) -> None:
    made = await kept(store)
    claims = await asyncio.gather(*(store.claim(lease=f"{n}", until=LEASE_ENDS, now=NOON) for n in range(4)))
    (first,) = [one for one in claims if one is not None]
    second = await store.claim(lease="next", until=LEASE_ENDS + MINUTE, now=LEASE_ENDS)
    assert second is not None
    assert (first.batch.id, second.batch.id, second.lease) == (made.id, made.id, "next")


async def test_lease_that_is_renewed_lasts_longer(store: BatchStore) -> None:
    await kept(store)
    claim = await claimed(store)
    await store.renew(claim, until=LEASE_ENDS + MINUTE)
    assert await store.claim(lease="b", until=LEASE_ENDS, now=LEASE_ENDS) is None


Write = Callable[[BatchStore, Claim], Awaitable[None]]


@pytest.mark.parametrize(
    "write",
    [
        lambda store, claim: store.renew(claim, until=LEASE_ENDS),
        lambda store, claim: store.write(claim, [item()]),
        lambda store, claim: store.hand_over(claim, handover(), [item()]),
        lambda store, claim: store.taken(claim, handover()),
        lambda store, claim: store.close(claim, "bts_x", NOON),
        lambda store, claim: store.release(claim, at=NOON, now=NOON),
        lambda store, claim: store.end(claim, at=NOON),
        lambda store, claim: store.purge(claim),
    ],
    ids=["renew", "write", "hand_over", "taken", "close", "release", "end", "purge"],
)
async def test_lost_lease_is_good_for_no_write(store: BatchStore, write: Write) -> None:
    await kept(store)
    lost = await claimed(store, "lost")
    present = await store.claim(lease="present", until=LEASE_ENDS + MINUTE, now=LEASE_ENDS)
    with pytest.raises(LeaseLostError):
        await write(store, lost)
    assert present is not None
    await store.renew(present, until=LEASE_ENDS)


async def test_items_wait_until_they_are_ready(store: BatchStore) -> None:
    ready, later, ordinary = item(0), item(1, ready_at=LATER), item(2, is_batched=False)
    await kept(store, ready, later, ordinary)
    claim = await claimed(store)
    assert await store.waiting(claim, now=NOON, is_batched=True, limit=9) == [ready]
    assert await store.waiting(claim, now=LATER, is_batched=True, limit=9) == [ready, later]
    assert await store.waiting(claim, now=LATER, is_batched=True, limit=1) == [ready]
    assert await store.waiting(claim, now=NOON, is_batched=False, limit=9) == [ordinary]
    assert await store.unfinished(claim, limit=2) == [ready, later]
    assert await store.next_ready(claim) == NOON
    await store.write(claim, [replace(one, state=ItemState.FAILED) for one in (ready, later, ordinary)])
    assert await store.next_ready(claim) is None


async def test_item_with_a_result_has_lost_its_request(store: BatchStore) -> None:
    first, second = item(0), item(1)
    made = await kept(store, first, second)
    claim = await claimed(store)
    answered = replace(first, state=ItemState.SUCCEEDED, answer=b"answer", attempts=2)
    tried = replace(second, attempts=1, reason="OVERLOADED", message="later", call_id="", ready_at=LATER)
    await store.write(claim, [answered, tried])
    assert await store.results(OWNER, made.id, after=-1, limit=9) == [replace(answered, request=b"")]
    assert await store.unfinished(claim, limit=9) == [tried]
    found = await store.find(OWNER, made.id)
    assert found is not None
    assert found.counts == Counts(waiting=1, succeeded=1)


async def test_results_come_by_number_in_pages(store: BatchStore) -> None:
    items = [item(number) for number in range(4)]
    made = await kept(store, *items)
    claim = await claimed(store)
    await store.write(claim, [replace(one, state=ItemState.CANCELLED) for one in (items[3], items[0], items[2])])
    first = await store.results(OWNER, made.id, after=-1, limit=2)
    rest = await store.results(OWNER, made.id, after=2, limit=2)
    assert [one.number for one in (*first, *rest)] == [0, 2, 3]


async def test_handover_is_written_down_named_and_closed(store: BatchStore) -> None:
    one, other = item(0), item(1)
    await kept(store, one, other)
    claim = await claimed(store)
    planned = handover()
    begun = replace(one, state=ItemState.SUBMITTED, attempts=1, handover_id=planned.id)
    await store.hand_over(claim, planned, [begun])
    before = await store.handovers(claim), await store.vendor_ids(planned.key_id, since=NOON)
    named = replace(planned, vendor_id="batch_1", cancelled_at=LATER)
    await store.taken(claim, named)
    assert before == ([planned], [])
    assert await store.handovers(claim) == [named]
    assert await store.submitted(claim, planned.id) == [begun]
    assert await store.unfinished(claim, limit=9) == [other]
    await store.close(claim, planned.id, LATER)
    assert await store.handovers(claim) == []
    assert await store.vendor_ids(planned.key_id, since=NOON) == ["batch_1"]
    assert await store.vendor_ids(planned.key_id, since=LATER) == []
    assert await store.vendor_ids("another/key", since=NOON) == []


async def test_released_batch_is_claimed_when_it_is_time(store: BatchStore) -> None:
    await kept(store)
    await store.release(await claimed(store), at=LATER, now=NOON)
    assert await store.claim(lease="b", until=LEASE_ENDS, now=NOON) is None
    assert await store.claim(lease="b", until=LEASE_ENDS, now=LATER) is not None


@pytest.mark.parametrize("is_deleted", [True, False])
@pytest.mark.parametrize("is_claimed", [True, False])
async def test_cancelled_or_deleted_batch_is_looked_at_now(
    store: BatchStore, *, is_deleted: bool, is_claimed: bool
) -> None:
    made = await kept(store)
    claim = await claimed(store)
    if not is_claimed:
        await store.release(claim, at=LEASE_ENDS, now=NOON)
    assert await (store.delete if is_deleted else store.cancel)(OWNER, made.id, NOON)
    if is_claimed:
        assert await store.claim(lease="b", until=LEASE_ENDS, now=NOON) is None
        await store.release(claim, at=LEASE_ENDS, now=NOON)
    again = await store.claim(lease="b", until=LEASE_ENDS, now=NOON)
    assert again is not None
    assert (again.batch.deleted_at == NOON, again.batch.state is BatchState.CANCELLING) == (is_deleted, not is_deleted)


async def test_deleted_batch_has_no_texts_and_gets_none(store: BatchStore) -> None:
    one, other = item(0), item(1)
    made = await kept(store, one, other)
    claim = await claimed(store)
    await store.write(claim, [replace(one, state=ItemState.SUCCEEDED, answer=b"answer")])
    assert await store.delete(OWNER, made.id, NOON)
    gone = await store.find(OWNER, made.id), await store.results(OWNER, made.id, after=-1, limit=9)
    await store.write(claim, [replace(other, answer=b"answer")])
    (left,) = await store.unfinished(claim, limit=9)
    assert gone == (None, [])
    assert (left.request, left.answer) == (b"", b"")
    assert not await store.delete(OWNER, made.id, NOON)
    await store.end(claim, at=LATER)
    assert (await store.backlog()).batches == 0
    assert await store.forget(LATER + MINUTE, 9) == 0


async def test_ended_batch_stays_for_its_owner(store: BatchStore) -> None:
    made = await kept(store)
    await store.end(await claimed(store), at=LATER)
    found = await store.find(OWNER, made.id)
    assert found is not None
    assert (found.state, found.ended_at) == (BatchState.ENDED, LATER)
    assert await store.cancel(OWNER, made.id, LATER)
    assert await store.find(OWNER, made.id) == found
    assert await store.claim(lease="b", until=LEASE_ENDS, now=LEASE_ENDS) is None
    assert await store.delete(OWNER, made.id, LATER)
    assert await store.find(OWNER, made.id) is None


async def test_batches_that_ended_long_ago_are_forgotten(store: BatchStore) -> None:
    for minutes in (1, 2, 3):
        await kept(store)
        await store.end(await claimed(store), at=NOON + minutes * MINUTE)
    await kept(store)
    assert await store.forget(NOON + 3 * MINUTE, 1) == 1
    assert await store.forget(NOON + 3 * MINUTE, 9) == 1
    assert {one.ended_at for one in await store.page(OWNER, before="", limit=9)} == {None, NOON + 3 * MINUTE}


async def test_backlog_tells_how_much_is_open_and_since_when(store: BatchStore) -> None:
    nothing = await store.backlog()
    await kept(store, created_at=LATER)
    await kept(store, created_at=NOON, organization_id=OTHER_ORGANIZATION)
    backlog = await store.backlog()
    assert (nothing.batches, nothing.oldest_at) == (0, None)
    assert (backlog.batches, backlog.oldest_at) == (2, NOON)
