"""Caches, gates and vectors for tests of inference's cache."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from services.inference.cache.archive import Archive
from services.inference.cache.cached import CachedAnswers
from services.inference.cache.entries import Entries
from services.inference.cache.entries_memory import MemoryEntries
from services.inference.cache.flights import Flights
from services.inference.cache.semantic import Meanings
from services.inference.embedding import Embedded
from services.inference.model import Event, Finished, FinishReason, Generation, TextDelta
from services.inference.money.purse import Payer
from services.inference.providers.base import Ended, Profile, ProviderEvent, Task, Text
from services.inference.routing import Book, Caching, Choice, Router
from services.mesh.clock import ManualClock
from services.mesh.errors import RetrievalUnavailable
from tests.support.inference import FakeProvider, generator, prompt, router

HOUR_S: Final = 3_600.0
KEPT: Final = Caching(exact_s=HOUR_S)
ALICE: Final = Payer(organization_id="org_a", user_id="usr_a", credential_id="key_a")
BOB: Final = Payer(organization_id="org_b", user_id="usr_b", credential_id="key_b")


@dataclass
class GatedProvider(FakeProvider):
    """Says its first text at once, and the rest when the gate is opened."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None

    @property
    def profile(self) -> Profile:
        return replace(super().profile)

    async def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        self.tasks.append(task)
        try:
            yield Text("First ")
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            yield Text("second.")
            yield Ended(FinishReason.STOP)
        finally:
            self.closed += 1


class FakeEmbeds:
    """Vectors by question; a question that is not known is one that nobody can tell of."""

    def __init__(self, vectors: Mapping[str, tuple[float, ...]], *, encoder: str = "fake@1") -> None:
        self.vectors = dict(vectors)
        self.encoder = encoder
        self.asked: list[str] = []

    async def embed(self, payer: Payer, texts: Sequence[str]) -> Embedded:
        self.asked += texts
        if any(text not in self.vectors for text in texts):
            raise RetrievalUnavailable("the encoder cannot be asked now")
        return Embedded(tuple(self.vectors[text] for text in texts), self.encoder)


@dataclass(slots=True, kw_only=True)
class Cached:
    """A cache before a generator, and what stands behind both."""

    answers: CachedAnswers
    router: Router
    archive: Archive
    clock: ManualClock

    async def events(self, wish: Generation, payer: Payer = ALICE) -> list[Event]:
        return [event async for event in self.answers.stream(wish, payer)]


def routed(*providers: FakeProvider, caching: Caching = KEPT) -> Router:
    """A route named `kept` over the fakes, with a cache, and a route `plain` without one."""
    known = router(*providers)
    choices = tuple(Choice(model=f"{one.name}/m", order=order) for order, one in enumerate(providers))
    known.replace(recached(replace(known.book, routes={"kept": choices, "plain": choices}), caching))
    return known


def recached(book: Book, caching: Caching) -> Book:
    return replace(book, caching={"kept": caching})


@asynccontextmanager
async def cached(
    *providers: FakeProvider,
    caching: Caching = KEPT,
    entries: Entries | None = None,
    embeds: FakeEmbeds | None = None,
    clock: ManualClock | None = None,
) -> AsyncIterator[Cached]:
    """A cache over the fakes."""
    clock = clock or ManualClock()
    known = routed(*providers, caching=caching)
    archive = Archive(entries or MemoryEntries(clock), clock, timeout_s=60.0)
    async with Flights() as flights:
        answers = CachedAnswers(generator(known), known, archive, flights, Meanings(embeds))
        yield Cached(answers=answers, router=known, archive=archive, clock=clock)


def wish(question: str = "Why is the sky blue?", *, model: str = "kept") -> Generation:
    return Generation(prompt=prompt(question), model=model)


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def finish(events: Sequence[Event]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last
