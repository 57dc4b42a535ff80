"""Items in a vendor's batch: what becomes of them when it goes well, and when it does not."""

from datetime import timedelta

import pytest

from services.inference.batches.model import ATTEMPTS_MAX, VENDOR_ATTEMPTS_MAX, BatchState, ItemState
from services.inference.batches.vendors import LATE_S_MAX
from services.inference.model import FinishReason
from services.inference.money.model import Limits
from services.inference.providers.base import Ended, Text
from services.inference.providers.batching import Answered, State, Unrun
from services.inference.providers.failures import Failure, Kind
from services.mesh.errors import ContentFiltered, MeshError, ProviderRejected, ProviderUnavailable, RateLimited
from tests.support.batches import COST_NANOS, KEY_ID, World, entry, text_of
from tests.support.money import ORGANIZATION, PAYER, standing


def failure(kind: Kind, error: MeshError | None = None) -> Failure:
    return Failure(kind, error or ProviderUnavailable("not now"))


async def test_items_are_answered_at_batch_price_and_the_vendor_keeps_nothing() -> None:
    world = World()
    batch = await world.create("one?", "two?")
    items = await world.finish(batch)
    (sent,) = world.vendor.sent.values()
    assert [(item.custom_id, text_of(item), item.is_batched) for item in items] == [
        ("item-0", "Answer to one?", True),
        ("item-1", "Answer to two?", True),
    ]
    assert [item.request for item in items] == [b"", b""]
    assert world.paid() == [COST_NANOS] * 2
    assert world.ordinary.tasks == []
    assert sent.is_discarded


async def test_items_without_a_batch_endpoint_are_answered_the_ordinary_way() -> None:
    world = World()
    batch = await world.create("one?", "two?", model="plain/m")
    items = await world.finish(batch)
    assert [(text_of(item), item.is_batched, item.attempts) for item in items] == [("Fine.", False, 1)] * 2
    assert world.vendor.sent == {}


async def test_items_go_into_as_many_batches_as_the_vendor_wants() -> None:
    world = World()
    batch = await world.create(*(f"question {number}?" for number in range(205)))
    items = await world.finish(batch)
    assert [len(sent.items) for sent in world.vendor.sent.values()] == [100, 100, 5]
    assert {item.state for item in items} == {ItemState.SUCCEEDED}


@pytest.mark.parametrize("kind", [Kind.SERVER_ERROR, Kind.OVERLOADED])
async def test_item_that_fails_in_passing_is_tried_in_another_batch(kind: Kind) -> None:
    world = World()
    world.vendor.outcomes["one?"] = failure(kind)
    batch = await world.create("one?", "two?")
    (item, other) = await world.finish(batch)
    assert world.vendor.asked() == ["one?"] * VENDOR_ATTEMPTS_MAX + ["two?"]
    assert (text_of(item), item.is_batched, item.attempts) == ("Fine.", False, VENDOR_ATTEMPTS_MAX + 1)
    assert other.attempts == 1
    assert world.paid() == [COST_NANOS]


async def test_item_that_the_vendor_filters_has_failed_and_costs_nothing() -> None:
    world = World()
    world.vendor.outcomes["one?"] = failure(Kind.CONTENT_FILTERED, ContentFiltered("no"))
    batch = await world.create("one?")
    (item,) = await world.finish(batch)
    assert (item.state, item.reason, item.attempts) == (ItemState.FAILED, "CONTENT_FILTERED", 1)
    assert world.paid() == []


async def test_item_that_the_vendor_refuses_is_asked_of_others() -> None:
    world = World()
    world.vendor.outcomes["one?"] = failure(Kind.REFUSED, ProviderRejected("no"))
    (item,) = await world.finish(await world.create("one?"))
    assert (text_of(item), item.is_batched, world.vendor.asked()) == ("Fine.", False, ["one?"])


async def test_item_that_expired_at_the_vendor_is_answered_the_ordinary_way() -> None:
    world = World()
    world.vendor.outcomes["one?"] = Unrun.EXPIRED
    (item,) = await world.finish(await world.create("one?"))
    assert (text_of(item), item.is_batched) == ("Fine.", False)


async def test_item_that_fails_always_fails_at_last() -> None:
    world = World()
    world.vendor.outcomes["one?"] = failure(Kind.SERVER_ERROR)
    world.ordinary.steps = [ProviderUnavailable("down")]
    (item,) = await world.finish(await world.create("one?"))
    assert (item.state, item.reason, item.attempts) == (ItemState.FAILED, "PROVIDER_UNAVAILABLE", ATTEMPTS_MAX)


async def test_answer_without_counts_is_counted_here() -> None:
    world = World()
    world.vendor.outcomes["one?"] = Answered((Text("Yes."), Ended(FinishReason.STOP)))
    await world.finish(await world.create("one?"))
    (line,) = world.ledger.lines.values()
    assert line.consumed.is_estimated
    assert line.consumed.output_tokens == 4


@pytest.mark.parametrize("kind", [Kind.RATE_LIMITED, Kind.QUOTA_SPENT])
async def test_batch_that_the_vendor_does_not_take_now_is_submitted_later(kind: Kind) -> None:
    world = World()
    world.vendor.refusals = [failure(kind, RateLimited("later", retry_after_s=30.0))]
    (item,) = await world.finish(await world.create("one?"))
    assert item.state is ItemState.SUCCEEDED
    assert world.vendor.asked() == (["one?"] if kind is Kind.RATE_LIMITED else [])


async def test_batch_whose_reply_was_lost_is_found_and_not_submitted_again() -> None:
    world = World()
    world.vendor.refusals, world.vendor.loses_reply = [failure(Kind.UNREACHABLE)], True
    (item,) = await world.finish(await world.create("one?"))
    assert (item.is_batched, item.attempts) == (True, 1)
    assert world.vendor.asked() == ["one?"]


async def test_batch_that_did_not_arrive_is_submitted_again_once_that_is_certain() -> None:
    world = World()
    world.vendor.refusals = [failure(Kind.UNREACHABLE)]
    (item,) = await world.finish(await world.create("one?"))
    assert (item.is_batched, item.attempts) == (True, 2)
    assert world.vendor.asked() == ["one?"]


async def test_batch_that_the_vendor_looked_at_and_refused_costs_nothing() -> None:
    world = World()
    world.vendor.final_state, world.vendor.failure = State.REFUSED, failure(Kind.REFUSED, ProviderRejected("no"))
    (item,) = await world.finish(await world.create("one?"))
    assert (text_of(item), item.is_batched) == ("Fine.", False)
    assert world.paid() == []


@pytest.mark.parametrize("is_gone", [True, False])
async def test_what_nobody_can_tell_of_counts_as_spent(*, is_gone: bool) -> None:
    world = World()
    await world.ledger.set_budget(ORGANIZATION, ORGANIZATION, Limits(cost_nanos_per_day=10**12), world.clock.now())
    day = world.clock.now()
    batch = await world.create("one?")
    await world.runner().step()
    if is_gone:
        world.vendor.sent.clear()
    else:
        world.vendor.silent = {"one?"}
    (item,) = await world.finish(batch)
    held = await world.ledger.get_budget(ORGANIZATION, ORGANIZATION, day)
    assert (text_of(item), item.call_id) == ("Fine.", "")
    assert standing(held)[1] > 0


async def test_handover_whose_key_is_gone_waits_for_it() -> None:
    world = World()
    batch = await world.create("one?")
    await world.runner().step()
    world.offers_batches = False
    for _ in range(20):
        world.clock.advance(60.0)
        await world.runner().step()
    before = await world.results(batch)
    world.offers_batches = True
    (item,) = await world.finish(batch)
    assert before == []
    assert item.is_batched


async def test_provider_that_offers_batches_no_more_is_asked_the_ordinary_way() -> None:
    world = World()
    batch = await world.create("one?")
    world.offers_batches = False
    (item,) = await world.finish(batch)
    assert (text_of(item), item.is_batched) == ("Fine.", False)


async def test_vendor_that_cannot_be_asked_is_asked_again() -> None:
    world = World()
    batch = await world.create("one?")
    await world.runner().step()
    world.vendor.failure = failure(Kind.KEY_REFUSED)
    for _ in range(3):
        world.clock.advance(600.0)
        await world.runner().step()
    world.vendor.failure = None
    (item,) = await world.finish(batch)
    assert item.is_batched


async def test_batch_is_due_and_what_was_answered_by_then_is_kept() -> None:
    world = World()
    world.vendor.looks = 10_000
    batch = await world.create("one?", window_s=3_600.0)
    await world.runner().step()
    world.clock.advance(3_600.0)
    (item,) = await world.finish(batch)
    (sent,) = world.vendor.sent.values()
    assert sent.is_cancelled
    assert (item.state, item.reason) == (ItemState.FAILED, "DEADLINE_EXCEEDED")
    ended = await world.store.find(batch.owner, batch.id)
    assert ended is not None
    assert ended.state is BatchState.ENDED


async def test_vendor_that_never_answers_does_not_keep_a_batch_open() -> None:
    world = World()
    batch = await world.create("one?", window_s=3_600.0)
    await world.runner().step()
    world.vendor.failure = failure(Kind.SERVER_ERROR)
    (item,) = await world.finish(batch)
    assert item.state is ItemState.FAILED
    assert world.clock.now() >= batch.due_at + timedelta(seconds=LATE_S_MAX)


async def test_answer_is_bounded_by_what_is_reserved_for_it() -> None:
    world = World()
    unbound = await world.create("one?")
    await world.finish(unbound)
    await world.ledger.set_budget(ORGANIZATION, ORGANIZATION, Limits(cost_nanos_per_day=10**12), world.clock.now())
    await world.finish(await world.create("two?"))
    tasks = [item.task for sent in world.vendor.sent.values() for item in sent.items]
    assert [task.output_tokens_max for task in tasks] == [None, 2_500]


async def test_models_of_one_batch_go_their_own_ways() -> None:
    world = World()
    mixed = [entry("a", "one?"), entry("b", "two?", model="plain/m")]
    batch = await world.batches().create(PAYER, mixed, None)
    items = await world.finish(batch)
    (sent,) = world.vendor.sent.values()
    assert [(item.custom_id, item.is_batched) for item in items] == [("a", True), ("b", False)]
    assert (sent.submission.model, KEY_ID) == ("openai/m", "openai/operator")
