"""Equal calls at the same time are one call: who gets what, who pays, and when it ends."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

from services.inference.cache.replay import NOTHING
from services.inference.model import CacheHit, Event, HitKind, Started, TextDelta
from services.mesh import deadline
from services.mesh.errors import DeadlineExceeded, ProviderUnavailable, Unavailable
from tests.support.caching import ALICE, BOB, Cached, GatedProvider, cached, finish, text_of, wish
from tests.support.waiting import until

SHARED = CacheHit(HitKind.SHARED)


class Reader:
    """Reads an answer beside the test."""

    def __init__(self, group: asyncio.TaskGroup, cache: Cached, **changes: object) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None
        self._asked = replace(wish(), **changes)  # type: ignore[arg-type] # fields of a wish by name
        self.task = group.create_task(self._read(cache))

    async def _read(self, cache: Cached) -> None:
        try:
            async with aclosing(cache.answers.stream(self._asked, ALICE)) as events:
                async for event in events:
                    self.events.append(event)
        except Exception as error:  # noqa: BLE001 - what the test asks for
            self.error = error

    async def begun(self) -> "Reader":
        await until(lambda: any(isinstance(event, TextDelta) for event in self.events))
        return self


async def test_all_who_ask_the_same_get_one_answer_which_the_first_pays() -> None:
    provider = GatedProvider("a")
    async with cached(provider) as cache, asyncio.TaskGroup() as group:
        first = await Reader(group, cache).begun()
        late = await Reader(group, cache).begun()
        assert text_of(late.events) == "First "
        provider.gate.set()
        await asyncio.wait([first.task, late.task])

    assert len(provider.tasks) == 1
    assert text_of(first.events) == text_of(late.events) == "First second."
    assert finish(first.events).answer.cache is None
    assert finish(first.events).answer.usage.output_tokens > 0
    assert isinstance(late.events[0], Started)
    assert (late.events[0].cache, finish(late.events).answer.cache) == (SHARED, SHARED)
    assert finish(late.events).answer.usage == NOTHING


async def test_many_at_once_make_one_call() -> None:
    provider = GatedProvider("a")
    provider.gate.set()
    async with cached(provider) as cache, asyncio.TaskGroup() as group:
        readers = [Reader(group, cache) for _ in range(50)]
        await asyncio.wait([reader.task for reader in readers])

    assert {text_of(reader.events) for reader in readers} == {"First second."}
    assert len(provider.tasks) == 1


async def test_call_goes_on_when_the_first_reader_leaves() -> None:
    provider = GatedProvider("a")
    async with cached(provider) as cache, asyncio.TaskGroup() as group:
        first = await Reader(group, cache).begun()
        other = await Reader(group, cache).begun()
        first.task.cancel()
        await asyncio.wait([first.task])
        assert provider.closed == 0
        provider.gate.set()
        await asyncio.wait([other.task])

    assert text_of(other.events) == "First second."


async def test_call_ends_with_the_last_reader_and_the_next_one_begins_anew() -> None:
    provider = GatedProvider("a")
    async with cached(provider) as cache, asyncio.TaskGroup() as group:
        readers = [await Reader(group, cache).begun() for _ in range(2)]
        for reader in readers:
            reader.task.cancel()
        await asyncio.wait([reader.task for reader in readers])
        next_one = await Reader(group, cache).begun()
        await until(lambda: provider.closed == 1)
        provider.gate.set()
        await asyncio.wait([next_one.task])

    assert len(provider.tasks) == 2
    assert finish(next_one.events).answer.cache is None


async def test_error_reaches_all_readers_as_it_is_and_nobody_asks_again() -> None:
    failure = ProviderUnavailable("it is down", metadata={"model": "a/m"}, retry_after_s=7.0)
    provider = GatedProvider("a", failure=failure)
    async with cached(provider) as cache, asyncio.TaskGroup() as group:
        readers = [await Reader(group, cache).begun() for _ in range(3)]
        provider.gate.set()
        await asyncio.wait([reader.task for reader in readers])

    assert len(provider.tasks) == 1
    for reader in readers:
        assert isinstance(reader.error, ProviderUnavailable)
        assert reader.error.retry_after_s == 7.0


async def test_reader_that_cannot_take_back_text_shares_with_its_like_only() -> None:
    provider = GatedProvider("a")
    async with cached(provider) as cache, asyncio.TaskGroup() as group:
        readers = [await Reader(group, cache, accepts_restart=accepts).begun() for accepts in (True, False)]
        provider.gate.set()
        await asyncio.wait([reader.task for reader in readers])

    assert len(provider.tasks) == 2


async def test_other_organizations_and_plain_routes_share_nothing() -> None:
    provider = GatedProvider("a")
    async with cached(provider) as cache, asyncio.TaskGroup() as group:
        await Reader(group, cache).begun()
        await Reader(group, cache, model="plain").begun()
        other = group.create_task(cache.events(wish(), BOB))
        await until(lambda: len(provider.tasks) == 3)
        provider.gate.set()
        assert finish(await other).answer.cache is None


async def test_reader_heeds_its_own_deadline_and_no_other() -> None:
    provider = GatedProvider("a")
    async with cached(provider) as cache, asyncio.TaskGroup() as group:
        with deadline.within(2.0):
            hasty = Reader(group, cache)
        patient = await Reader(group, cache).begun()
        await asyncio.wait([hasty.task])
        provider.gate.set()
        await asyncio.wait([patient.task])

    assert isinstance(hasty.error, DeadlineExceeded)
    assert text_of(patient.events) == "First second."
    assert len(provider.tasks) == 1


async def test_end_of_the_process_ends_what_is_under_way() -> None:
    provider = GatedProvider("a")
    async with asyncio.TaskGroup() as group:
        async with cached(provider) as cache:
            reader = await Reader(group, cache).begun()
        await asyncio.wait([reader.task])
        late = Reader(group, cache)
        await asyncio.wait([late.task])

    assert isinstance(reader.error, Unavailable)
    assert isinstance(late.error, Unavailable)
    assert provider.closed == 1
