"""What every provider keeps to, whoever is behind it; the vendors' adapters speak to a server with the real formats."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from services.inference.model import FinishReason, Parameters
from services.inference.providers.anthropic import AnthropicProvider
from services.inference.providers.base import Cited, Ended, Provider, Task, Text
from services.inference.providers.extractive import ExtractiveProvider
from services.inference.providers.openai import OpenAIProvider
from services.inference.providers.scripted import Script, ScriptedProvider
from tests.support.inference import collect, said, task
from tests.support.provider_double import running_double


@asynccontextmanager
async def openai_provider() -> AsyncIterator[Provider]:
    async with running_double() as double:
        provider = OpenAIProvider(api_key="sk-test", base_url=double.openai_url)
        yield provider
        await provider.close()


@asynccontextmanager
async def anthropic_provider() -> AsyncIterator[Provider]:
    async with running_double() as double:
        provider = AnthropicProvider(api_key="sk-test", base_url=double.anthropic_url)
        yield provider
        await provider.close()


@asynccontextmanager
async def extractive_provider() -> AsyncIterator[Provider]:
    provider = ExtractiveProvider()
    yield provider
    await provider.close()


@asynccontextmanager
async def scripted_provider() -> AsyncIterator[Provider]:
    yield ScriptedProvider({"some-model": Script(deltas=("One. ", "Two [1]."))})


@pytest.fixture(params=[openai_provider, anthropic_provider, extractive_provider, scripted_provider])
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    async with request.param() as opened:
        yield opened


async def test_answer_is_text_and_then_one_end(provider: Provider) -> None:
    events = await collect(provider, task())

    assert isinstance(events[-1], Ended)
    assert sum(isinstance(event, Ended) for event in events) == 1
    assert said(events)
    assert all(event.text for event in events if isinstance(event, Text))


async def test_end_says_why(provider: Provider) -> None:
    events = await collect(provider, task())

    assert isinstance(events[-1], Ended)
    assert events[-1].finish_reason is FinishReason.STOP


async def test_citation_comes_after_the_text_that_it_cites(provider: Provider) -> None:
    sent = 0
    for event in await collect(provider, task()):
        match event:
            case Text(text):
                sent += len(text)
            case Cited(citation):
                assert 0 <= citation.start < citation.end <= sent
            case Ended():
                pass


async def test_citations_come_only_from_a_provider_whose_profile_says_so(provider: Provider) -> None:
    events = await collect(provider, task())

    assert any(isinstance(event, Cited) for event in events) == provider.profile.cites


async def test_answers_at_the_same_time_do_not_mix(provider: Provider) -> None:
    alone = said(await collect(provider, task()))

    together = await asyncio.gather(*(collect(provider, task()) for _ in range(5)))

    assert [said(events) for events in together] == [alone] * 5


async def test_provider_answers_again_after_it_was_left_early(provider: Provider) -> None:
    async with aclosing(provider.generate(task())) as events:
        await anext(events)

    assert said(await collect(provider, task()))


async def test_provider_answers_again_after_it_was_cancelled(provider: Provider) -> None:
    begun = asyncio.Event()

    async def read(wanted: Task, after_first: Callable[[], Awaitable[object]]) -> None:
        async with aclosing(provider.generate(wanted)) as events:
            await anext(events)
            begun.set()
            await after_first()

    reading = asyncio.create_task(read(task(), asyncio.Event().wait))
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert said(await collect(provider, task()))


async def test_every_parameter_is_taken(provider: Provider) -> None:
    wanted = Parameters(temperature=0.5, top_p=0.9, output_tokens_max=500, stop=("never said",), seed=7)

    events = await collect(provider, task(parameters=wanted, output_tokens_max=500))

    assert isinstance(events[-1], Ended)
