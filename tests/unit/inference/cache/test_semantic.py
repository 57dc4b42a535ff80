"""Questions of the same meaning, and what keeps other ones apart."""

from dataclasses import replace

import pytest

from services.inference.cache.key import QUESTION_CHARS_MAX
from services.inference.model import CacheHit, Generation, HitKind, Message, Parameters, Prompt, Role
from services.inference.parts import Image, TextPart
from services.inference.routing import Caching
from tests.support.caching import ALICE, BOB, HOUR_S, FakeEmbeds, cached, finish, text_of, wish
from tests.support.inference import SEA, FakeProvider, assistant, prompt, user

MEANT = Caching(exact_s=HOUR_S, similarity_min=0.9)
ASKED, AGAIN, NEAR = "How do I reset my password?", "How can I reset the password?", "How do I not reset my password?"
FAR = "How can we reset passwords?"
VECTORS = {ASKED: (1.0, 0.0), AGAIN: (0.95, 0.3122), NEAR: (0.99, 0.141), FAR: (0.89, 0.456)}


def embeds(encoder: str = "fake@1") -> FakeEmbeds:
    return FakeEmbeds(VECTORS, encoder=encoder)


async def test_question_of_the_same_meaning_is_served_by_its_answer() -> None:
    provider = FakeProvider("a")
    async with cached(provider, caching=MEANT, embeds=embeds()) as cache:
        made = await cache.events(wish(ASKED))
        cache.clock.advance(5)
        told = await cache.events(wish(AGAIN))

    assert text_of(told) == text_of(made)
    assert finish(told).answer.cache == CacheHit(HitKind.SEMANTIC, 5.0)
    assert len(provider.tasks) == 1


@pytest.mark.parametrize("other", [NEAR, FAR, "Nobody knows a vector of this?"])
async def test_question_that_says_another_thing_is_not(other: str) -> None:
    provider = FakeProvider("a")
    async with cached(provider, caching=MEANT, embeds=embeds()) as cache:
        await cache.events(wish(ASKED))
        told = await cache.events(wish(other))

    assert finish(told).answer.cache is None


async def test_nothing_goes_by_meaning_unless_the_route_says_so() -> None:
    asked = embeds()
    async with cached(FakeProvider("a"), embeds=asked) as cache:
        await cache.events(wish(ASKED))
        told = await cache.events(wish(AGAIN))

    assert finish(told).answer.cache is None
    assert asked.asked == []


async def test_nothing_goes_by_meaning_without_vectors() -> None:
    async with cached(FakeProvider("a"), caching=MEANT) as cache:
        await cache.events(wish(ASKED))
        told = await cache.events(wish(AGAIN))

    assert finish(told).answer.cache is None


async def test_vectors_of_another_encoder_are_not_compared() -> None:
    vectors = embeds()
    async with cached(FakeProvider("a"), caching=MEANT, embeds=vectors) as cache:
        await cache.events(wish(ASKED))
        vectors.encoder = "fake@2"
        told = await cache.events(wish(AGAIN))

    assert finish(told).answer.cache is None


HISTORY = (user("Hello"), assistant("Hello, how can I help?"))
DIFFERENT: list[Generation] = [
    replace(wish(AGAIN), parameters=Parameters(temperature=0.5)),
    replace(wish(AGAIN), prompt=replace(prompt(AGAIN), system="Be rude.")),
    replace(wish(AGAIN), prompt=prompt(AGAIN, SEA)),
    replace(wish(AGAIN), prompt=Prompt(messages=(*HISTORY, user(AGAIN)), passages=prompt(AGAIN).passages)),
    replace(
        wish(AGAIN),
        prompt=replace(
            prompt(AGAIN),
            messages=(Message.of(Role.USER, (TextPart(AGAIN), Image(url="https://example.org/a.png"))),),
        ),
    ),
]


@pytest.mark.parametrize("other", DIFFERENT, ids=("parameters", "system", "passages", "history", "image"))
async def test_all_but_the_question_has_to_be_the_same(other: Generation) -> None:
    async with cached(FakeProvider("a"), caching=MEANT, embeds=embeds()) as cache:
        await cache.events(wish(ASKED))
        told = await cache.events(other)

    assert finish(told).answer.cache is None


async def test_meaning_does_not_cross_organizations() -> None:
    async with cached(FakeProvider("a"), caching=MEANT, embeds=embeds()) as cache:
        await cache.events(wish(ASKED), ALICE)
        told = await cache.events(wish(AGAIN), BOB)

    assert finish(told).answer.cache is None


async def test_void_answer_serves_no_other_question() -> None:
    async with cached(FakeProvider("a"), caching=MEANT, embeds=embeds()) as cache:
        await cache.events(wish(ASKED))
        await cache.archive.void(ALICE.organization_id, "")
        told = await cache.events(wish(AGAIN))

    assert finish(told).answer.cache is None


@pytest.mark.parametrize(("more", "is_hit"), [(-1, True), (0, True), (1, False)])
async def test_question_that_the_encoder_may_not_read_to_its_end_is_not_compared(more: int, is_hit: bool) -> None:  # noqa: FBT001 - a parameter of a table
    ending = " now" * ((QUESTION_CHARS_MAX - len(ASKED)) // 4)
    first = (ASKED + ending).ljust(QUESTION_CHARS_MAX + more, "!")
    second = first.replace("my", "an", 1)
    vectors = FakeEmbeds({first: (1.0, 0.0), second: (1.0, 0.0)})
    async with cached(FakeProvider("a"), caching=MEANT, embeds=vectors) as cache:
        await cache.events(wish(first))
        told = await cache.events(wish(second))

    assert (finish(told).answer.cache is not None) == is_hit
