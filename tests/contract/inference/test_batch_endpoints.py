"""What every vendor's batch endpoint keeps to, over real HTTP in the vendors' own formats."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

import pytest

from services.inference.model import FinishReason
from services.inference.providers.anthropic import AnthropicProvider
from services.inference.providers.anthropic_batches import AnthropicBatches
from services.inference.providers.base import Ended, TokenCounts
from services.inference.providers.batching import (
    ID_CHARS_MAX,
    LANDING_S,
    UNSURE,
    Answered,
    BatchEndpoint,
    BatchItem,
    BatchTerms,
    Fate,
    Found,
    ItemOutcome,
    Progress,
    State,
    Submission,
    Unrun,
)
from services.inference.providers.failures import Failure, Kind
from services.inference.providers.openai import OpenAIProvider
from services.inference.providers.openai_batches import OpenAIBatches
from services.mesh.clock import ManualClock
from tests.support.inference import said, task
from tests.support.provider_batch_bodies import Outcome, Spoilt
from tests.support.provider_batches import BatchDouble, Trouble, running_batches
from tests.support.provider_double import SECRET_WORDS

KEY: Final = "sk-operator-secret"
TERMS: Final = BatchTerms(
    price_factor=Decimal("0.5"), items_max=100, bytes_max=1_000_000, source="a test", date=date(2026, 11, 23)
)
SETTLED: Final = TokenCounts(input_tokens=120, output_tokens=30, cached_input_tokens=20, reasoning_tokens=5)
ITEMS: Final = tuple(BatchItem(id=f"bti_{number}", task=task("m")) for number in range(3))
PAST_LANDING_S: Final = LANDING_S + 301


@dataclass(frozen=True, slots=True)
class Rig:
    """An endpoint, and the vendor behind it."""

    endpoint: BatchEndpoint
    double: BatchDouble
    clock: ManualClock
    is_openai: bool

    def submission(self, marker: str = "btv_1", items_count: int = len(ITEMS)) -> Submission:
        return Submission(marker=marker, model="v/m", submitted_at=self.clock.now(), items_count=items_count)

    async def outcomes(self, batch_id: str, submission: Submission) -> Mapping[str, ItemOutcome]:
        async with aclosing(self.endpoint.results(batch_id, submission)) as results:
            return {result.item_id: result.outcome async for result in results}

    async def failure_of(self, submission: Submission) -> Failure:
        with pytest.raises(Failure) as caught:
            await self.endpoint.submit(submission, ITEMS)
        return caught.value


@pytest.fixture(params=["openai", "anthropic"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    clock = ManualClock()
    async with running_batches(clock) as double:
        if request.param == "openai":
            openai = OpenAIProvider(api_key=KEY, base_url=double.openai_url)
            yield Rig(OpenAIBatches(openai, TERMS, clock=clock), double, clock, is_openai=True)
            await openai.close()
        else:
            anthropic = AnthropicProvider(api_key=KEY, base_url=double.anthropic_url)
            yield Rig(AnthropicBatches(anthropic, TERMS, clock=clock), double, clock, is_openai=False)
            await anthropic.close()


async def test_a_batch_goes_from_running_to_its_results(rig: Rig) -> None:
    submission = rig.submission()

    batch_id = await rig.endpoint.submit(submission, ITEMS)
    before = await rig.endpoint.progress(batch_id)
    rig.double.finish()
    after = await rig.endpoint.progress(batch_id)
    outcomes = await rig.outcomes(batch_id, submission)

    assert before == Progress(state=State.RUNNING)
    assert after == Progress(state=State.ENDED, finished_count=3)
    assert outcomes.keys() == {item.id for item in ITEMS}
    for item_id, outcome in outcomes.items():
        assert isinstance(outcome, Answered)
        assert said(outcome.events) == f"Answer to {item_id}."
        assert outcome.events[-1] == Ended(FinishReason.STOP, SETTLED)


async def test_the_vendor_is_asked_for_whole_answers_under_ids_of_ours(rig: Rig) -> None:
    batch_id = await rig.endpoint.submit(rig.submission(), ITEMS)

    requests = rig.double.batches[batch_id].requests
    assert list(requests) == [f"btv_1-{item.id}" for item in ITEMS]
    for body in requests.values():
        assert body["model"] == "m"
        assert "Why is the sky blue?" in str(body["messages"])
        assert "stream" not in body


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Spoilt.CONTEXT_LENGTH, Kind.CONTEXT_LENGTH),
        (Spoilt.RATE_LIMITED, Kind.RATE_LIMITED),
        (Spoilt.SERVER_ERROR, Kind.SERVER_ERROR),
        (Spoilt.HEADLESS, Kind.CORRUPT),
        (Spoilt.ENDLESS, Kind.CORRUPT),
    ],
)
async def test_an_item_that_failed_says_by_its_kind_why(rig: Rig, outcome: Outcome, kind: Kind) -> None:
    submission = rig.submission()
    batch_id = await rig.endpoint.submit(submission, ITEMS)
    rig.double.finish({"bti_1": outcome})

    outcomes = await rig.outcomes(batch_id, submission)

    failure = outcomes["bti_1"]
    assert isinstance(failure, Failure)
    assert failure.kind is kind
    assert SECRET_WORDS not in f"{failure.error} {failure.error!r}"
    assert failure.error.metadata["model"] == "v/m"
    assert isinstance(outcomes["bti_0"], Answered)
    assert isinstance(outcomes["bti_2"], Answered)


@pytest.mark.parametrize(("outcome", "unrun"), [(Spoilt.EXPIRED, Unrun.EXPIRED), (Spoilt.CANCELLED, Unrun.CANCELLED)])
async def test_an_item_that_was_not_run_is_told_from_one_that_failed(rig: Rig, outcome: Outcome, unrun: Unrun) -> None:
    submission = rig.submission()
    batch_id = await rig.endpoint.submit(submission, ITEMS)
    rig.double.finish({"bti_2": outcome})

    outcomes = await rig.outcomes(batch_id, submission)

    assert (await rig.endpoint.progress(batch_id)).state is State.ENDED
    assert outcomes["bti_2"] is unrun
    assert isinstance(outcomes["bti_0"], Answered)


@pytest.mark.parametrize("outcome", [Spoilt.GARBLED, Spoilt.TOO_LONG, Spoilt.MISSING])
async def test_a_garbled_line_spoils_no_item_but_its_own(rig: Rig, outcome: Outcome) -> None:
    submission = rig.submission()
    batch_id = await rig.endpoint.submit(submission, ITEMS)
    rig.double.finish({"bti_1": outcome})

    outcomes = await rig.outcomes(batch_id, submission)

    assert outcomes.keys() == {"bti_0", "bti_2"}
    assert all(isinstance(outcome, Answered) for outcome in outcomes.values())


async def test_results_of_another_submission_are_not_ones_own(rig: Rig) -> None:
    batch_id = await rig.endpoint.submit(rig.submission(), ITEMS)
    rig.double.finish()

    assert await rig.outcomes(batch_id, rig.submission("btv_2")) == {}


async def test_results_that_break_off_are_a_failure_and_whole_the_next_time(rig: Rig) -> None:
    submission = rig.submission()
    batch_id = await rig.endpoint.submit(submission, ITEMS)
    rig.double.finish()
    rig.double.results_cut_at = 900

    with pytest.raises(Failure) as caught:
        await rig.outcomes(batch_id, submission)
    rig.double.results_cut_at = None

    assert caught.value.kind is Kind.CUT
    assert (await rig.outcomes(batch_id, submission)).keys() == {item.id for item in ITEMS}


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.RATE_LIMITED, Kind.RATE_LIMITED),
        (Trouble.REFUSED, Kind.REFUSED),
        (Trouble.KEY_REFUSED, Kind.KEY_REFUSED),
    ],
)
async def test_a_submission_that_is_refused_was_not_taken(rig: Rig, trouble: Trouble, kind: Kind) -> None:
    rig.double.trouble, rig.double.retry_after = trouble, {"retry-after": "7"}

    failure = await rig.failure_of(rig.submission())

    assert failure.kind is kind
    assert failure.kind not in UNSURE
    assert failure.error.retry_after_s == 7.0
    assert SECRET_WORDS not in f"{failure.error} {failure.error!r} {failure.__cause__!r}"
    assert rig.double.batches == {}
    assert rig.double.files == {}, "the requests of a batch that is none stay with nobody"


@pytest.mark.parametrize("trouble", [Trouble.LOST_REPLY, Trouble.SERVER_ERROR, Trouble.HTML])
async def test_a_submission_without_a_proper_reply_may_have_been_taken(rig: Rig, trouble: Trouble) -> None:
    rig.double.trouble = trouble

    failure = await rig.failure_of(rig.submission())

    assert failure.kind in UNSURE


async def test_a_submission_whose_reply_was_lost_is_found(rig: Rig) -> None:
    rig.double.trouble = Trouble.LOST_REPLY
    submission = rig.submission()
    await rig.failure_of(submission)
    rig.double.finish()

    found = await rig.endpoint.find(submission)

    assert found == Found(Fate.TAKEN, next(iter(rig.double.batches)))
    assert len(await rig.outcomes(found.batch_id, submission)) == 3


async def test_a_submission_that_did_not_arrive_is_known_not_to_have_once_it_cannot_arrive_any_more(rig: Rig) -> None:
    rig.double.trouble = Trouble.SERVER_ERROR
    submission = rig.submission()
    await rig.failure_of(submission)

    at_once = await rig.endpoint.find(submission)
    rig.clock.advance(PAST_LANDING_S)
    later = await rig.endpoint.find(submission)

    assert at_once == Found(Fate.UNKNOWN)
    assert later == Found(Fate.NOT_TAKEN)


async def test_a_submission_is_told_from_others_that_look_like_it(rig: Rig) -> None:
    rig.double.page_max = 1
    names = ("btv_9-bti_0", "btv_9-bti_1", "btv_9-bti_2")
    rig.double.add(*names, is_openai=rig.is_openai, created_at=rig.clock.now())
    submission = rig.submission()
    batch_id = await rig.endpoint.submit(submission, ITEMS)
    rig.double.add(*names, is_openai=rig.is_openai, created_at=rig.clock.now())
    rig.double.finish()

    found = await rig.endpoint.find(submission)
    rig.clock.advance(PAST_LANDING_S)
    unfound = await rig.endpoint.find(rig.submission("btv_3"))

    assert found == Found(Fate.TAKEN, batch_id)
    assert unfound == Found(Fate.UNKNOWN), "it was begun just now"


async def test_the_search_ends_where_batches_are_too_old(rig: Rig) -> None:
    rig.double.page_max = 2
    for number in range(10):
        rig.double.add(f"btv_{number}-bti_0", is_openai=rig.is_openai, created_at=rig.clock.now())
    rig.clock.advance(86_400)
    submission = rig.submission()
    rig.clock.advance(PAST_LANDING_S)

    assert await rig.endpoint.find(submission) == Found(Fate.NOT_TAKEN)
    assert len(rig.double.asked) == 1


async def test_a_batch_that_is_cancelled_ends_with_what_was_answered_by_then(rig: Rig) -> None:
    submission = rig.submission()
    batch_id = await rig.endpoint.submit(submission, ITEMS)

    await rig.endpoint.cancel(batch_id)
    state = (await rig.endpoint.progress(batch_id)).state
    rig.double.finish({"bti_0": Spoilt.SERVER_ERROR})

    assert state is State.RUNNING
    assert (await rig.endpoint.progress(batch_id)).state is State.ENDED
    assert (await rig.outcomes(batch_id, submission))["bti_1"] is Unrun.CANCELLED


async def test_the_end_of_a_batch_that_is_at_its_end_is_nothing(rig: Rig) -> None:
    submission = rig.submission()
    batch_id = await rig.endpoint.submit(submission, ITEMS)
    rig.double.finish()

    await rig.endpoint.cancel(batch_id)

    assert len(await rig.outcomes(batch_id, submission)) == 3


async def test_a_batch_that_nobody_knows_is_gone(rig: Rig) -> None:
    await rig.endpoint.cancel("batch_none")
    await rig.endpoint.discard("batch_none")

    assert await rig.endpoint.progress("batch_none") == Progress(state=State.GONE)


async def test_an_id_is_never_more_than_one_step_of_a_path(rig: Rig) -> None:
    await rig.endpoint.progress("../files")

    assert rig.double.asked[-1].endswith("/batches/../files"), "decoded by the server, sent as one step"


async def test_a_batch_that_is_discarded_leaves_no_requests_with_the_vendor(rig: Rig) -> None:
    batch_id = await rig.endpoint.submit(rig.submission(), ITEMS)
    rig.double.finish()

    await rig.endpoint.discard(batch_id)
    await rig.endpoint.discard(batch_id)

    assert rig.double.files == {}
    assert rig.is_openai or rig.double.batches == {}


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.RATE_LIMITED, Kind.RATE_LIMITED),
        (Trouble.KEY_REFUSED, Kind.KEY_REFUSED),
        (Trouble.SERVER_ERROR, Kind.SERVER_ERROR),
        (Trouble.HTML, Kind.CORRUPT),
    ],
)
async def test_trouble_is_a_failure_of_every_request(rig: Rig, trouble: Trouble, kind: Kind) -> None:
    submission = rig.submission()
    batch_id = await rig.endpoint.submit(submission, ITEMS)
    rig.double.trouble_everywhere = trouble
    requests: list[Callable[[], Awaitable[object]]] = [
        lambda: rig.endpoint.find(submission),
        lambda: rig.endpoint.progress(batch_id),
        lambda: rig.endpoint.submit(submission, ITEMS),
    ]

    for request in requests:
        with pytest.raises(Failure) as caught:
            await request()
        assert caught.value.kind is kind


async def test_one_layer_repeats_and_it_is_not_this_one(rig: Rig) -> None:
    rig.double.trouble = Trouble.SERVER_ERROR

    await rig.failure_of(rig.submission())

    assert sum(asked.endswith("/batches") for asked in rig.double.asked) == 1


async def test_the_size_of_requests_is_not_understated(rig: Rig) -> None:
    submission = rig.submission("m" * ID_CHARS_MAX, items_count=1)
    item = BatchItem(id="i" * ID_CHARS_MAX, task=task("m"))

    batch_id = await rig.endpoint.submit(submission, [item])

    frame_bytes = 0 if rig.is_openai else len('{"requests":[]}')
    assert 0 < rig.double.batches[batch_id].size_bytes <= rig.endpoint.size_of(item) + frame_bytes
