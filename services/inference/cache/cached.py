"""What stands before the generator on routes with a cache: an answer that is there is told again instead of made anew.

First the very same request is looked for, then a running one, then, where the route says so, one of the same meaning;
what is still missing is made by one call for all who ask the same. A hit costs nothing: no budget is reserved and no
provider is called.
"""

import math
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

from services.inference import genai
from services.inference.cache import metrics
from services.inference.cache.archive import Archive, Entry, Known, Neighbour, Place
from services.inference.cache.flights import Flights
from services.inference.cache.key import exact_name, question_of, scope_name
from services.inference.cache.replay import replayed, shared
from services.inference.cache.semantic import Meaning, Meanings
from services.inference.cache.stale import LastGood
from services.inference.generating.answering import Answers
from services.inference.generating.generator import TokenCount
from services.inference.model import (
    Answer,
    CacheHit,
    CacheUse,
    Event,
    Finished,
    Generation,
    HitKind,
)
from services.inference.money.purse import NOBODY, Payer
from services.inference.routing import Caching, Router
from services.mesh import deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A wish on a route with a cache.

    Attributes:
        scope: what questions of the same meaning have in common with this one; None when it has none.
        known: what was known when the call began.
        meaning: of the question, where it was looked for.
    """

    wish: Generation
    payer: Payer
    caching: Caching
    place: Place
    scope: str | None
    known: Known
    meaning: Meaning | None = None

    @property
    def flight(self) -> str:
        """Who shares its name shares the call. What was made void meanwhile is not shared with who asks afterwards."""
        epochs = self.known.epochs or {}
        since = ",".join(epochs.get(name, "") for name in ("", self.place.asked))
        return f"{self.place.organization_id}/{self.place.name}/{self.wish.accepts_restart}/{since}"


class CachedAnswers:
    """Implements `answering.Answers`. A call of a route without a cache passes through untouched.

    Args:
        answers: who makes what is not there.
        router: knows which routes have a cache.
        archive: stored answers.
        flights: running calls.
        meanings: of questions.
    """

    def __init__(
        self, answers: Answers, router: Router, archive: Archive, flights: Flights, meanings: Meanings
    ) -> None:
        self._answers = answers
        self._router = router
        self._archive = archive
        self._flights = flights
        self._meanings = meanings

    def stream(self, wish: Generation, payer: Payer = NOBODY) -> AsyncGenerator[Event, None]:
        """See `Answers.stream`."""
        caching = self._router.caching(wish.model)
        if caching is None:
            return self._answers.stream(wish, payer)
        return self._stream(wish, payer, caching)

    async def answer(self, wish: Generation, payer: Payer = NOBODY) -> Answer:
        """See `Answers.answer`."""
        caching = self._router.caching(wish.model)
        if caching is None:
            return await self._answers.answer(wish, payer)
        found: Answer | None = None
        async with aclosing(self._stream(replace(wish, accepts_restart=True), payer, caching)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    found = event.answer
        if found is None:
            raise AssertionError("a stream ends with Finished or raises")
        return found

    async def count_tokens(self, wish: Generation, payer: Payer) -> TokenCount:
        """See `Answers.count_tokens`."""
        return await self._answers.count_tokens(wish, payer)

    async def _stream(self, wish: Generation, payer: Payer, caching: Caching) -> AsyncGenerator[Event, None]:
        if not _may_look(wish, payer):
            metrics.CALLS.labels("bypassed").inc()
            source = self._answers.stream(wish, payer)
        else:
            source = self._looked_up(await self._call(wish, payer, caching))
        async with aclosing(source) as events:
            async for event in events:
                yield event

    async def _call(self, wish: Generation, payer: Payer, caching: Caching) -> _Call:
        lineages = self._router.lineages(wish.model, wish.fallback_models)
        organization_id = payer.organization_id
        place = Place(organization_id, lineages[0][0], exact_name(organization_id, lineages, wish))
        is_semantic = caching.similarity_min is not None
        return _Call(
            wish=wish,
            payer=payer,
            caching=caching,
            place=place,
            scope=scope_name(organization_id, lineages, wish) if is_semantic else None,
            known=await self._archive.look(place),
        )

    async def _looked_up(self, call: _Call) -> AsyncGenerator[Event, None]:
        """The answer, from wherever it comes."""
        started = time.monotonic()
        hit: tuple[Entry, CacheHit] | None = None
        if call.wish.cache is CacheUse.REFRESH:
            source = self._made(call, shown=None)
        else:
            hit = self._exact(call)
            if hit is None and not self._flights.has(call.flight):
                call, hit = await self._similar(call)
            source = self._ridden(call, started) if hit is None else _each(replayed(*hit))
        if hit is not None:
            _tell(call, hit[1], hit[0].model, started)
            metrics.SAVED.inc(hit[0].usage.cost_micros or 0)
        async with aclosing(source) as events:
            async for event in events:
                yield event

    def _exact(self, call: _Call) -> tuple[Entry, CacheHit] | None:
        """The stored answer, while it is fresh."""
        entry = call.known.entry
        if entry is None or self._archive.age_s(entry) >= call.caching.exact_s:
            return None
        return entry, CacheHit(HitKind.EXACT, self._archive.age_s(entry))

    async def _similar(self, call: _Call) -> tuple[_Call, tuple[Entry, CacheHit] | None]:
        """The call with the meaning of its question, and a fresh answer to another one of the same meaning."""
        question, scope, similarity_min = question_of(call.wish.prompt), call.scope, call.caching.similarity_min
        if question is None or scope is None or similarity_min is None or call.known.epochs is None:
            return call, None
        meaning = await self._meanings.of(question, call.payer)
        if meaning is None:
            return call, None
        call = replace(call, meaning=meaning)
        neighbours = await self._archive.neighbours(call.place.organization_id, scope)
        for near in meaning.nearest(neighbours, similarity_min=similarity_min):
            entry = (await self._archive.look(replace(call.place, name=near.name))).entry
            if entry is not None and self._archive.age_s(entry) < call.caching.exact_s:
                return call, (entry, CacheHit(HitKind.SEMANTIC, self._archive.age_s(entry)))
        return call, None

    async def _ridden(self, call: _Call, started: float) -> AsyncGenerator[Event, None]:
        """The answer as it is made for all who ask the same."""
        left_s = deadline.budget_s(math.inf)
        with self._flights.boarded(call.flight, lambda: self._made(call, shown=self._last_good(call))) as seat:
            async with aclosing(seat.flight.events(left_s)) as events:
                async for event in events:
                    told = event if seat.is_first else shared(event)
                    if isinstance(told, Finished):
                        _tell_made(call, told.answer, started)
                    yield told

    async def _made(self, call: _Call, *, shown: LastGood | None) -> AsyncGenerator[Event, None]:
        """The answer as it is made, and stored in the end."""
        source = self._answers.stream(call.wish, call.payer)
        async with aclosing(source if shown is None else shown.instead_of(source)) as events:
            async for event in events:
                yield event
                if isinstance(event, Finished) and event.answer.cache is None:
                    await self._keep(call, event.answer)

    def _last_good(self, call: _Call) -> LastGood | None:
        """The stored answer that may stand in for one that nobody can make."""
        entry = call.known.entry
        if entry is None or not call.caching.stale_if_error_s:
            return None
        age_s = self._archive.age_s(entry)
        if age_s >= call.caching.keep_s:
            return None
        return LastGood(entry, CacheHit(HitKind.STALE, age_s), accepts_restart=call.wish.accepts_restart)

    async def _keep(self, call: _Call, answer: Answer) -> None:
        epochs, keep_s = call.known.epochs, call.caching.keep_s
        if epochs is None or not keep_s:
            return
        is_kept = await self._archive.keep(call.place, answer, epochs, keep_s=keep_s)
        if is_kept and call.scope is not None and call.meaning is not None:
            meaning = call.meaning
            near = Neighbour(name=call.place.name, gist=meaning.gist, vector=meaning.vector, encoder=meaning.encoder)
            await self._archive.add_neighbour(call.place.organization_id, call.scope, near, keep_s=call.caching.exact_s)


def _may_look(wish: Generation, payer: Payer) -> bool:
    """Whether the cache has to do with a wish. An answer that goes on with what its reader has is nobody else's."""
    return wish.cache is not CacheUse.OFF and bool(payer.organization_id) and not wish.continue_from


async def _each(events: Iterable[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


def _tell_made(call: _Call, answer: Answer, started: float) -> None:
    if answer.cache is None:
        metrics.CALLS.labels("made").inc()
    else:
        _tell(call, answer.cache, answer.model, started)


def _tell(call: _Call, hit: CacheHit, model: str, started: float) -> None:
    metrics.CALLS.labels(hit.kind.value).inc()
    genai.tell_hit(asked=call.wish.model, hit=hit, model=model, seconds=time.monotonic() - started)
