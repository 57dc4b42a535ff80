"""In what the vendors' batch endpoints differ."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

import pytest

from services.inference.providers.anthropic import AnthropicProvider
from services.inference.providers.anthropic_batches import AnthropicBatches
from services.inference.providers.batching import LANDING_S, BatchItem, BatchTerms, Fate, Found, State, Submission
from services.inference.providers.failures import Kind
from services.inference.providers.openai import OpenAIProvider
from services.inference.providers.openai_batches import OUTPUT_KEPT_S, OpenAIBatches
from services.mesh.clock import ManualClock
from tests.support.inference import task
from tests.support.provider_batches import BatchDouble, running_batches
from tests.support.provider_double import SECRET_WORDS

TERMS: Final = BatchTerms(
    price_factor=Decimal("0.5"), items_max=100, bytes_max=1_000_000, source="a test", date=date(2026, 11, 23)
)
ITEMS: Final = (BatchItem(id="bti_0", task=task("m")),)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def batches(clock: ManualClock) -> AsyncIterator[BatchDouble]:
    async with running_batches(clock) as double:
        yield double


@pytest.fixture
async def openai(batches: BatchDouble, clock: ManualClock) -> AsyncIterator[OpenAIBatches]:
    provider = OpenAIProvider(api_key="sk-test", base_url=batches.openai_url)
    yield OpenAIBatches(provider, TERMS, clock=clock)
    await provider.close()


@pytest.fixture
async def anthropic(batches: BatchDouble, clock: ManualClock) -> AsyncIterator[AnthropicBatches]:
    provider = AnthropicProvider(api_key="sk-test", base_url=batches.anthropic_url)
    yield AnthropicBatches(provider, TERMS, clock=clock)
    await provider.close()


def submission(clock: ManualClock) -> Submission:
    return Submission(marker="btv_1", model="v/m", submitted_at=clock.now(), items_count=1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("token_limit_exceeded", Kind.RATE_LIMITED),
        ("billing_hard_limit_reached", Kind.QUOTA_SPENT),
        ("model_not_found", Kind.MODEL_UNKNOWN),
        ("invalid_json_line", Kind.REFUSED),
    ],
)
async def test_openai_says_after_a_look_why_it_runs_nothing(
    openai: OpenAIBatches, batches: BatchDouble, clock: ManualClock, code: str, kind: Kind
) -> None:
    batch_id = await openai.submit(submission(clock), ITEMS)
    batches.refuse(code)

    progress = await openai.progress(batch_id)

    assert progress.state is State.REFUSED
    assert progress.failure is not None
    assert progress.failure.kind is kind
    assert SECRET_WORDS not in f"{progress.failure.error!r}"


async def test_results_that_openai_no_longer_keeps_are_gone(
    openai: OpenAIBatches, batches: BatchDouble, clock: ManualClock
) -> None:
    batch_id = await openai.submit(submission(clock), ITEMS)
    batches.finish()

    clock.advance(OUTPUT_KEPT_S - 1)
    before = await openai.progress(batch_id)
    clock.advance(1)
    after = await openai.progress(batch_id)

    assert (before.state, after.state) == (State.ENDED, State.GONE)


async def test_openai_shows_whose_a_batch_is_while_it_runs(openai: OpenAIBatches, clock: ManualClock) -> None:
    wanted = submission(clock)
    batch_id = await openai.submit(wanted, ITEMS)

    assert await openai.find(wanted) == Found(Fate.TAKEN, batch_id)


async def test_a_list_that_openai_gives_the_oldest_first_is_read_to_its_end(
    openai: OpenAIBatches, batches: BatchDouble, clock: ManualClock
) -> None:
    batches.page_max = 2
    wanted = submission(clock)
    batch_id = await openai.submit(wanted, ITEMS)
    for days in (3, 4):  # the double gives what was added last first
        batches.add("btv_9-bti_0", is_openai=True, created_at=clock.now() - timedelta(days=days))

    assert await openai.find(wanted) == Found(Fate.TAKEN, batch_id)


async def test_anthropic_shows_whose_a_batch_is_only_when_it_has_ended(
    anthropic: AnthropicBatches, batches: BatchDouble, clock: ManualClock
) -> None:
    wanted = submission(clock)
    batch_id = await anthropic.submit(wanted, ITEMS)
    clock.advance(2 * LANDING_S + 1)

    running = await anthropic.find(wanted)
    batches.finish()
    ended = await anthropic.find(wanted)

    assert running == Found(Fate.UNKNOWN)
    assert ended == Found(Fate.TAKEN, batch_id)


async def test_a_batch_at_anthropic_that_is_known_to_be_another_leaves_no_doubt(
    anthropic: AnthropicBatches, batches: BatchDouble, clock: ManualClock
) -> None:
    wanted = submission(clock)
    other = batches.add("btv_9-bti_0", is_openai=False, created_at=clock.now())
    clock.advance(2 * LANDING_S + 1)

    in_doubt = await anthropic.find(wanted)
    known = await anthropic.find(wanted, others={other.id})

    assert (in_doubt.fate, known.fate) == (Fate.UNKNOWN, Fate.NOT_TAKEN)


async def test_a_batch_of_another_size_or_time_at_anthropic_leaves_no_doubt(
    anthropic: AnthropicBatches, batches: BatchDouble, clock: ManualClock
) -> None:
    wanted = submission(clock)
    batches.add("btv_9-bti_0", "btv_9-bti_1", is_openai=False, created_at=clock.now())
    clock.advance(2 * LANDING_S + 1)
    batches.add("btv_8-bti_0", is_openai=False, created_at=clock.now())

    assert await anthropic.find(wanted) == Found(Fate.NOT_TAKEN)


async def test_results_that_anthropic_no_longer_keeps_are_gone(
    anthropic: AnthropicBatches, batches: BatchDouble, clock: ManualClock
) -> None:
    batch_id = await anthropic.submit(submission(clock), ITEMS)
    batches.finish()
    batches.batches[batch_id].is_archived = True

    assert (await anthropic.progress(batch_id)).state is State.GONE


async def test_ordinary_requests_are_answered_beside_batches(batches: BatchDouble) -> None:
    provider = OpenAIProvider(api_key="sk-test", base_url=batches.openai_url)

    events = [event async for event in provider.generate(task("m"))]

    assert len(events) > 1
    await provider.close()
