"""Answers that need not be made anew: what is told again, how it is marked, and what is not stored."""

from dataclasses import replace

import pytest

from services.inference.cache.replay import NOTHING
from services.inference.model import (
    CacheHit,
    CacheUse,
    FinishReason,
    HitKind,
    PassageCitation,
    ProviderSwitched,
    Started,
)
from services.inference.parts import PartDelta, Reasoning, ToolCall
from services.inference.providers.base import Ended, ProviderEvent, TokenCounts
from services.inference.routing import Caching
from services.mesh.errors import ContentFiltered, MeshError, ProviderUnavailable, QuotaExhausted, RateLimited
from tests.support.caching import ALICE, BOB, HOUR_S, KEPT, cached, finish, text_of, wish
from tests.support.inference import SKY, FakeProvider

STOP = Ended(FinishReason.STOP, TokenCounts(input_tokens=7, output_tokens=3))
LASTING = Caching(exact_s=HOUR_S, stale_if_error_s=HOUR_S)
DOWN = ProviderUnavailable("it is down", metadata={"model": "a/m"})


async def test_second_call_is_told_the_same_and_nobody_is_asked() -> None:
    provider = FakeProvider("a", ("The sky is blue", " [1].", STOP))
    async with cached(provider) as cache:
        made = await cache.events(wish())
        cache.clock.advance(90)
        told = await cache.events(wish())

    assert len(provider.tasks) == 1
    assert text_of(told) == text_of(made) == "The sky is blue [1]."
    hit = CacheHit(HitKind.EXACT, 90.0)
    assert isinstance(told[0], Started)
    assert told[0].cache == hit
    assert [event for event in told if isinstance(event, PassageCitation)] == [
        PassageCitation(passage=1, start=0, end=15, source_start=0, source_end=SKY.text.index(" At dusk"))
    ]
    first, second = finish(made).answer, finish(told).answer
    assert first.cache is None
    assert second == replace(first, usage=NOTHING, cache=hit)


async def test_whole_answer_is_stored_and_found_as_well() -> None:
    provider = FakeProvider("a")
    async with cached(provider) as cache:
        made = await cache.answers.answer(wish(), ALICE)
        told = await cache.answers.answer(wish(), ALICE)

    assert (made.cache, told.cache) == (None, CacheHit(HitKind.EXACT, 0.0))
    assert told.text == made.text
    assert len(provider.tasks) == 1


@pytest.mark.parametrize("age_s", [HOUR_S, HOUR_S + 1])
async def test_answer_past_its_time_is_made_anew(age_s: float) -> None:
    provider = FakeProvider("a")
    async with cached(provider) as cache:
        await cache.events(wish())
        cache.clock.advance(age_s)
        told = await cache.events(wish())

    assert finish(told).answer.cache is None
    assert len(provider.tasks) == 2


async def test_answer_serves_until_its_time_is_over() -> None:
    provider = FakeProvider("a")
    async with cached(provider) as cache:
        await cache.events(wish())
        cache.clock.advance(HOUR_S - 1)
        told = await cache.events(wish())

    assert finish(told).answer.cache == CacheHit(HitKind.EXACT, HOUR_S - 1)


async def test_another_organization_finds_nothing() -> None:
    provider = FakeProvider("a")
    async with cached(provider) as cache:
        await cache.events(wish(), ALICE)
        told = await cache.events(wish(), BOB)

    assert finish(told).answer.cache is None
    assert len(provider.tasks) == 2


async def test_route_without_a_cache_stores_nothing() -> None:
    provider = FakeProvider("a")
    async with cached(provider) as cache:
        for _ in range(2):
            assert finish(await cache.events(wish(model="plain"))).answer.cache is None

    assert len(provider.tasks) == 2


async def test_caller_may_refuse_the_cache_or_ask_for_a_new_answer() -> None:
    provider = FakeProvider("a")
    async with cached(provider) as cache:
        await cache.events(replace(wish(), cache=CacheUse.OFF))
        made = await cache.events(wish())
        anew = await cache.events(replace(wish(), cache=CacheUse.REFRESH))
        cache.clock.advance(5)
        told = await cache.events(wish())

    assert [finish(events).answer.cache for events in (made, anew)] == [None, None]
    assert finish(told).answer.cache == CacheHit(HitKind.EXACT, 5.0)
    assert len(provider.tasks) == 3


@pytest.mark.parametrize(
    "steps",
    [
        ("Half of", Ended(FinishReason.LENGTH)),
        ("Bad words", Ended(FinishReason.CONTENT_FILTER)),
        ("I will not.", Ended(FinishReason.STOP, refusal_category="cyber")),
        ("Let me look.", PartDelta(0, ToolCall(id="1", name="f", arguments="{}")), Ended(FinishReason.TOOL_CALLS)),
        ("Let me look.", PartDelta(0, ToolCall(id="1", name="f", arguments="{}")), Ended(FinishReason.STOP)),
        ("   ", Ended(FinishReason.STOP)),
    ],
)
async def test_what_is_not_a_whole_answer_is_not_stored(steps: tuple[str | ProviderEvent, ...]) -> None:
    provider = FakeProvider("a", steps)
    async with cached(provider) as cache:
        for _ in range(2):
            assert finish(await cache.events(wish())).answer.cache is None

    assert len(provider.tasks) == 2


async def test_thoughts_are_told_again_where_they_stood() -> None:
    thought = PartDelta(0, Reasoning(text="Hm.", signature="s"))
    async with cached(FakeProvider("a", (thought, "Blue.", Ended(FinishReason.STOP)))) as cache:
        await cache.events(wish())
        told = await cache.events(wish())

    assert told[1] == thought
    assert text_of(told) == "Blue."
    assert finish(told).answer.parts == (*[thought.piece], *finish(told).answer.parts[1:])


async def test_last_good_answer_stands_in_when_everybody_fails() -> None:
    provider = FakeProvider("a", ("Blue.", STOP))
    async with cached(provider, caching=LASTING) as cache:
        await cache.events(wish())
        cache.clock.advance(HOUR_S + 60)
        provider.steps = (DOWN,)
        told = await cache.events(wish())

    hit = CacheHit(HitKind.STALE, HOUR_S + 60)
    assert [event.cache for event in told if isinstance(event, Started)] == [hit]
    assert text_of(told) == "Blue."
    assert finish(told).answer.cache == hit
    assert finish(told).answer.usage == NOTHING
    assert len(provider.tasks) == 2


@pytest.mark.parametrize(
    ("caching", "age_s", "failure"),
    [
        (KEPT, HOUR_S + 1, DOWN),
        (LASTING, 2 * HOUR_S, DOWN),
        (LASTING, HOUR_S + 1, ContentFiltered("no", metadata={"model": "a/m"})),
    ],
)
async def test_error_stays_an_error_where_no_answer_may_stand_in(
    caching: Caching, age_s: float, failure: MeshError
) -> None:
    provider = FakeProvider("a", ("Blue.", STOP))
    async with cached(provider, caching=caching) as cache:
        await cache.events(wish())
        cache.clock.advance(age_s)
        provider.steps = (failure,)
        with pytest.raises(MeshError) as error:
            await cache.events(wish())

    assert error.value.reason is failure.reason


async def test_answer_of_another_question_never_stands_in() -> None:
    provider = FakeProvider("a", ("Blue.", STOP))
    async with cached(provider, caching=LASTING) as cache:
        await cache.events(wish())
        provider.steps = (DOWN,)
        with pytest.raises(ProviderUnavailable) as error:
            await cache.events(wish("Why is the sea salty?"))

    assert error.value.retry_after_s is not None


@pytest.mark.parametrize("accepts_restart", [True, False])
async def test_text_that_broke_off_is_taken_back_only_where_the_reader_can(*, accepts_restart: bool) -> None:
    provider = FakeProvider("a", ("Blue.", STOP))
    asked = replace(wish(), accepts_restart=accepts_restart)
    async with cached(provider, caching=LASTING) as cache:
        await cache.events(asked)
        cache.clock.advance(HOUR_S + 60)
        provider.steps = ("Gre", DOWN)
        if not accepts_restart:
            with pytest.raises(ProviderUnavailable):
                await cache.events(asked)
            return
        told = await cache.events(asked)

    switch = next(event for event in told if isinstance(event, ProviderSwitched))
    assert switch.offset == 0
    assert text_of(told[told.index(switch) :]) == "Blue."
    assert finish(told).answer.cache == CacheHit(HitKind.STALE, HOUR_S + 60)


@pytest.mark.parametrize("refusal", [QuotaExhausted("spent"), RateLimited("slowly", metadata={"limit": "x"})])
async def test_budget_that_is_spent_is_no_outage(refusal: MeshError) -> None:
    provider = FakeProvider("a", ("Blue.", STOP))
    async with cached(provider, caching=LASTING) as cache:
        await cache.events(wish())
        cache.clock.advance(HOUR_S + 60)
        provider.steps = (refusal,)
        with pytest.raises(MeshError):
            await cache.events(wish())


async def test_changed_route_finds_nothing_of_before() -> None:
    provider, other = FakeProvider("a"), FakeProvider("b")
    async with cached(provider, other) as cache:
        await cache.events(wish())
        book = cache.router.book
        cache.router.replace(replace(book, routes={**book.routes, "kept": tuple(reversed(book.routes["kept"]))}))
        told = await cache.events(wish())

    assert finish(told).answer.cache is None


async def test_server_that_moved_finds_nothing_of_before() -> None:
    provider = FakeProvider("a")
    async with cached(provider) as cache:
        await cache.events(wish())
        book = cache.router.book
        moved = replace(book.sources["a"], served_by="somewhere else")
        cache.router.replace(replace(book, sources={**book.sources, "a": moved}))
        told = await cache.events(wish())

    assert finish(told).answer.cache is None
