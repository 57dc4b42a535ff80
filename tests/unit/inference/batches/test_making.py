"""Batches as their owners make, see, cancel and delete them."""

from dataclasses import replace

import pytest

from services.inference.batches.making import RESULT_BYTES_MAX, TOLD_MAX, Entry
from services.inference.batches.model import ITEMS_MAX, OPEN_MAX, BatchState, ItemState
from services.inference.model import FinishReason
from services.inference.money.metered import HELD_RETRY_S
from services.inference.money.model import Limits
from services.inference.prompts.model import Repeat
from services.inference.providers.base import Ended, Text
from services.inference.providers.batching import Answered, State
from services.inference.retention import Retention
from services.mesh.errors import (
    IdempotencyMismatch,
    InvalidArgument,
    ModelUnpriced,
    NotFound,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Unavailable,
)
from services.mesh.ids import new_id
from tests.support.batches import COST_NANOS, OWNER, Fuse, World, entries, entry, text_of
from tests.support.money import ORGANIZATION, PAYER, USER, hold, standing, unused

# Of one question of `ESTIMATE`'s kind: 2,500 tokens of an answer at 1,000 nanos, and its prompt.
ROOM = 6_000_000


async def limit(world: World, subject: str, nanos: int) -> None:
    await world.ledger.set_budget(ORGANIZATION, subject, Limits(cost_nanos_per_day=nanos), world.clock.now())


async def test_every_fault_of_every_item_is_told() -> None:
    world = World()
    wrong = [
        entry("a", "one?", model="nobody/m"),
        entry("b", "two?"),
        Entry("c", b""),
        entry("d", "three?", purpose=77),
    ]
    with pytest.raises(InvalidArgument) as refused:
        await world.batches().create(PAYER, wrong, None)
    assert [fault.field for fault in refused.value.fields] == [
        "items[0].request",
        "items[2].request.prompt.messages",
        "items[3].request.purpose",
    ]
    assert (await world.store.backlog()).batches == 0


async def test_faults_are_told_as_far_as_there_is_room() -> None:
    world = World()
    with pytest.raises(InvalidArgument) as refused:
        await world.batches().create(PAYER, entries(*["?"] * 30, model="nobody/m"), None)
    assert len(refused.value.fields) == TOLD_MAX
    assert f"the first {TOLD_MAX} of 30 faults" in refused.value.message


@pytest.mark.parametrize("count", [0, ITEMS_MAX + 1])
async def test_batch_has_some_items_and_not_too_many(count: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await World().batches().create(PAYER, entries(*["?"] * count), None)
    assert [fault.field for fault in refused.value.fields] == ["items"]


async def test_batch_has_as_many_items_as_it_may() -> None:
    batch = await World().create(*["?"] * ITEMS_MAX)
    assert batch.counts.waiting == ITEMS_MAX


@pytest.mark.parametrize("custom_id", ["", "a b", "ü", "x" * 65])
async def test_name_of_an_item_is_of_few_characters(custom_id: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await World().batches().create(PAYER, [entry("ok", "?"), entry(custom_id, "?")], None)
    assert [fault.field for fault in refused.value.fields] == ["items[1].custom_id"]


async def test_name_of_an_item_is_its_own() -> None:
    longest = "x" * 64
    with pytest.raises(InvalidArgument) as refused:
        await World().batches().create(PAYER, [entry(longest, "?"), entry(longest, "?")], None)
    assert [(one.field, one.description) for one in refused.value.fields] == [
        ("items[1].custom_id", "is that of items[0] already")
    ]


async def test_prompt_that_fits_no_window_is_told() -> None:
    with pytest.raises(InvalidArgument) as refused:
        await World().batches().create(PAYER, [entry("a", "word " * 10_000)], None)
    assert [fault.field for fault in refused.value.fields] == ["items[0].request"]


@pytest.mark.parametrize("subject", [ORGANIZATION, USER, PAYER.credential_id])
async def test_batch_that_a_budget_has_no_room_for_is_refused_before_anything_is_sent(subject: str) -> None:
    world = World()
    await limit(world, subject, ROOM)
    with pytest.raises(QuotaExhausted) as refused:
        await world.create("one?", "two?", "three?")
    metadata = refused.value.metadata
    assert (metadata["subject_id"], metadata["limit_nanos"], metadata["reserved_nanos"]) == (subject, str(ROOM), "0")
    assert int(metadata["wanted_nanos"]) > ROOM
    assert refused.value.retry_after_s == 86_400.0
    found = await world.ledger.get_budget(ORGANIZATION, subject, world.clock.now())
    assert standing(found) == (0, 0)
    assert (await world.store.backlog()).batches == 0


async def test_batch_waits_for_what_others_hold() -> None:
    world = World()
    await limit(world, ORGANIZATION, ROOM)
    await world.create("one?", "two?")
    with pytest.raises(QuotaExhausted) as refused:
        await world.create("three?")
    assert refused.value.retry_after_s == HELD_RETRY_S
    assert int(refused.value.metadata["reserved_nanos"]) > 0


async def test_what_calls_hold_that_are_over_does_not_stand_in_the_way() -> None:
    world = World()
    await limit(world, ORGANIZATION, ROOM)
    over, books = hold(ROOM, at=world.clock.now()), world.books(Fuse())
    await world.ledger.reserve([over])
    books.post(unused(over))
    batch = await world.create("one?", books=books)
    assert batch.state is BatchState.RUNNING


async def test_what_was_reserved_and_not_used_is_free_when_the_batch_has_ended() -> None:
    world = World()
    await limit(world, ORGANIZATION, ROOM)
    day = world.clock.now()
    await world.finish(await world.create("one?", "two?"))
    assert standing(await world.ledger.get_budget(ORGANIZATION, ORGANIZATION, day)) == (2 * COST_NANOS, 0)


async def test_model_without_a_price_is_refused_under_a_budget_of_money() -> None:
    world = World()
    await limit(world, ORGANIZATION, ROOM)
    with pytest.raises(ModelUnpriced):
        await world.create("one?", model="plain/m")


async def test_organization_has_so_many_open_batches() -> None:
    world = World()
    for _ in range(OPEN_MAX):
        await world.create("?")
    with pytest.raises(QuotaExhausted):
        await world.create("?")


async def test_repeated_call_gives_the_first_batch() -> None:
    world = World()
    repeat = Repeat("once", b"body")
    first = await world.batches().create(PAYER, entries("one?"), repeat)
    again = await world.batches().create(PAYER, entries("one?"), repeat)
    assert again == first
    with pytest.raises(IdempotencyMismatch):
        await world.batches().create(PAYER, entries("two?"), replace(repeat, body_hash=b"other"))


async def test_call_whose_twin_is_at_it_is_told_to_come_again() -> None:
    world = World()
    repeat = Repeat("once", b"body")
    first = await world.batches().create(PAYER, entries("one?"), repeat)
    kept = world.store._kept[first.id]
    kept.batch = replace(kept.batch, state=BatchState.PREPARING)
    with pytest.raises(Unavailable):
        await world.batches().create(PAYER, entries("one?"), repeat)


async def test_others_see_no_batch_of_mine() -> None:
    world = World()
    batch = await world.create("one?")
    for owner in (replace(OWNER, user_id="usr_other"), replace(OWNER, organization_id="org_other")):
        for call in (world.batches().get, world.batches().cancel, world.batches().delete):
            with pytest.raises(NotFound):
                await call(owner, batch.id)
        with pytest.raises(NotFound):
            await world.batches().results(owner, batch.id, after=-1, limit=1)
        assert await world.batches().page(owner, before="", limit=9) == []
    with pytest.raises(NotFound):
        await world.batches().get(OWNER, new_id("bat"))


async def test_cancelled_batch_keeps_what_was_answered_and_begins_nothing() -> None:
    world = World()
    mixed = [entry("a", "one?"), *entries(*["?"] * 9, model="plain/m")]
    batch = await world.batches().create(PAYER, mixed, None)
    await world.runner(answers=3).step()
    next(iter(world.vendor.sent.values())).state = State.ENDED
    cancelled = await world.batches().cancel(OWNER, batch.id)
    items = await world.finish(batch)
    assert cancelled.state is BatchState.CANCELLING
    assert sum(item.state is ItemState.SUCCEEDED for item in items) == 4
    assert {item.reason for item in items if item.state is not ItemState.SUCCEEDED} == {"CANCELLED"}
    assert len(world.plain.tasks) == 3


async def test_ended_batch_cannot_be_cancelled() -> None:
    world = World()
    batch = await world.create("one?")
    await world.finish(batch)
    assert (await world.batches().cancel(OWNER, batch.id)).state is BatchState.ENDED


@pytest.mark.parametrize("is_submitted", [True, False])
async def test_deleted_batch_is_gone_at_once_and_settled_later(*, is_submitted: bool) -> None:
    world = World()
    await limit(world, ORGANIZATION, ROOM)
    day = world.clock.now()
    batch = await world.create("one?")
    if is_submitted:
        await world.runner().step()
        next(iter(world.vendor.sent.values())).state = State.ENDED
    await world.batches().delete(OWNER, batch.id)
    with pytest.raises(NotFound):
        await world.batches().get(OWNER, batch.id)
    assert [(item.request, item.answer) for item in world.store._kept[batch.id].items.values()] == [(b"", b"")]
    await world.finish(batch)
    spent = COST_NANOS if is_submitted else 0
    while await world.runner().step():
        pass
    assert (await world.store.backlog()).batches == 0
    assert standing(await world.ledger.get_budget(ORGANIZATION, ORGANIZATION, day)) == (spent, 0)


async def test_ended_batch_is_deleted_with_its_answers() -> None:
    world = World()
    batch = await world.create("one?")
    await world.finish(batch)
    await world.batches().delete(OWNER, batch.id)
    assert world.store._kept == {}


async def test_results_come_in_pages_that_are_not_too_large() -> None:
    world = World()
    batch = await world.create(*(f"{number}?" for number in range(25)))
    world.vendor.outcomes["3?"] = Answered((Text("x" * RESULT_BYTES_MAX), Ended(FinishReason.STOP)))
    await world.finish(batch)
    sizes, after = [], -1
    while True:
        page = await world.batches().results(OWNER, batch.id, after=after, limit=10)
        sizes.append(len(page.items))
        after = page.items[-1].number
        if not page.has_more:
            break
    assert sizes == [3, 1, 10, 10, 1]


async def test_results_are_kept_for_so_many_days() -> None:
    world = World()
    batch = await world.create("one?")
    await world.finish(batch)
    retention = Retention(world.store, "batches", days=30, at_once=1, clock=world.clock)
    world.clock.advance(29 * 86_400)
    await retention.forget()
    kept = await world.results(batch)
    world.clock.advance(2 * 86_400)
    await retention.forget()
    assert (len(kept), await world.results(batch)) == (1, [])


@pytest.mark.parametrize(
    ("error", "attempts"), [(RateLimited("later", retry_after_s=90.0), 1), (ProviderUnavailable("down"), 2)]
)
async def test_answer_that_cannot_be_made_now_is_made_later(error: Exception, attempts: int) -> None:
    world = World()
    batch = await world.create("one?", model="plain/m")
    world.plain.steps = [error]
    await world.runner().step()
    world.plain.steps = ("Fine.", Ended(FinishReason.STOP))
    (item,) = await world.finish(batch)
    assert (text_of(item), item.attempts) == ("Fine.", attempts)


async def test_item_that_breaks_the_runner_is_told_as_failed_and_the_others_are_answered() -> None:
    world = World()
    batch = await world.create("one?", model="plain/m")
    world.plain.steps = [ZeroDivisionError("a bug")]
    (item,) = await world.finish(batch)
    assert (item.state, item.reason) == (ItemState.FAILED, "INTERNAL")
