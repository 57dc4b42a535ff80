"""Batches through both vendors' adapters, over HTTP."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from services.inference.batches.model import ItemState
from services.inference.providers.anthropic import AnthropicProvider
from services.inference.providers.anthropic_batches import AnthropicBatches
from services.inference.providers.openai import OpenAIProvider
from services.inference.providers.openai_batches import OpenAIBatches
from tests.support.batches import TERMS, World, text_of
from tests.support.provider_batches import BatchDouble, Trouble, running_batches


@dataclass(frozen=True, slots=True)
class Vendor:
    """A world whose batches go to a double."""

    world: World
    double: BatchDouble

    @property
    def submissions(self) -> int:
        """How many arrived."""
        return sum(asked.startswith("POST") and asked.endswith("/batches") for asked in self.double.asked)


@pytest.fixture(params=["openai", "anthropic"])
async def vendor(request: pytest.FixtureRequest) -> AsyncIterator[Vendor]:
    world = World()
    async with running_batches(world.clock) as double:
        if request.param == "openai":
            openai = OpenAIProvider(api_key="sk-test", base_url=double.openai_url)
            world.endpoint = OpenAIBatches(openai, TERMS, clock=world.clock)
            yield Vendor(world, double)
            await openai.close()
        else:
            anthropic = AnthropicProvider(api_key="sk-test", base_url=double.anthropic_url)
            world.endpoint = AnthropicBatches(anthropic, TERMS, clock=world.clock)
            yield Vendor(world, double)
            await anthropic.close()


async def test_items_are_submitted_collected_and_settled_by_the_vendors_counts(vendor: Vendor) -> None:
    world, double = vendor.world, vendor.double
    batch = await world.create("one?", "two?", "three?")
    await world.runner().step()
    double.finish()
    items = await world.finish(batch)
    assert vendor.submissions == 1
    assert [(item.state, item.is_batched, item.attempts) for item in items] == [(ItemState.SUCCEEDED, True, 1)] * 3
    assert all(text_of(item) for item in items)
    lines = list(world.ledger.lines.values())
    assert len(lines) == 3
    assert not any(line.consumed.is_estimated for line in lines)
    assert world.ordinary.tasks == []


async def test_submission_whose_reply_was_lost_is_made_once(vendor: Vendor) -> None:
    world, double = vendor.world, vendor.double
    double.trouble = Trouble.LOST_REPLY
    batch = await world.create("one?", "two?")
    await world.runner().step()
    double.trouble = Trouble.NONE
    double.finish()
    items = await world.finish(batch)
    assert vendor.submissions == 1
    assert [(item.state, item.is_batched, item.attempts) for item in items] == [(ItemState.SUCCEEDED, True, 1)] * 2
    assert len(world.ledger.lines) == 2


async def test_submission_that_the_vendor_limits_is_made_later(vendor: Vendor) -> None:
    world, double = vendor.world, vendor.double
    double.trouble = Trouble.RATE_LIMITED
    batch = await world.create("one?")
    await world.runner().step()
    double.trouble = Trouble.NONE
    world.clock.advance(600.0)
    await world.runner().step()
    double.finish()
    (item,) = await world.finish(batch)
    assert (item.state, item.is_batched, item.attempts) == (ItemState.SUCCEEDED, True, 2)


async def test_cancelled_batch_is_cancelled_at_the_vendor(vendor: Vendor) -> None:
    world, double = vendor.world, vendor.double
    batch = await world.create("one?")
    await world.runner().step()
    await world.batches().cancel(batch.owner, batch.id)
    await world.runner().step()
    double.finish()
    (item,) = await world.finish(batch)
    assert any(asked.endswith("/cancel") for asked in double.asked)
    assert item.state in {ItemState.CANCELLED, ItemState.SUCCEEDED}
