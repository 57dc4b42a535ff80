"""The ledger's writer: what happens to lines when the database is away, or refuses one of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import pytest

from services.inference.money.books import BATCH_MAX, PENDING_MAX, Books
from services.inference.money.model import Alert, Posting
from services.inference.money.rates import LocalRates
from services.inference.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from services.mesh.tasks import Loop, supervised
from tests.support.money import ORGANIZATION, OTHER_ORGANIZATION, call, spent
from tests.support.waiting import until


class Stubborn(MemoryStore):
    """Is away for some tries, and never takes a line of a certain model."""

    def __init__(self, *, away: int = 0, refused_model: str = "") -> None:
        super().__init__()
        self.away = away
        self.refused_model = refused_model
        self.tries: list[int] = []

    async def settle(self, postings: Sequence[Posting], at: datetime) -> list[Alert]:
        self.tries.append(len(postings))
        if self.away:
            self.away -= 1
            raise Unavailable
        if any(posting.call.model == self.refused_model for posting in postings):
            raise ValueError("a line that no table takes")
        return await super().settle(postings, at)


NEVER_S: Final = 3_600.0
"""A pace at which nothing is stored while a test runs unless somebody asks for it."""


def books(store: Stubborn, *, pending_max: int = 100, pace_s: float = 0.0) -> Books:
    return Books(store, LocalRates(), clock=ManualClock(), pending_max=pending_max, pace_s=pace_s)


@asynccontextmanager
async def paced(store: Stubborn) -> AsyncIterator[Books]:
    """Books that have stored a first line and let others gather."""
    kept = books(store, pending_max=PENDING_MAX, pace_s=NEVER_S)
    async with supervised((Loop("books", kept.run),), drain_s=1, jitter=lambda: 0.0):
        kept.post(spent(call()))
        await until(lambda: store.tries == [1], within_s=100)
        yield kept


async def stored(kept: Books) -> None:
    """Runs the writer as the process does, until every line is stored."""
    async with supervised((Loop("books", kept.run),), drain_s=1, jitter=lambda: 0.0):
        async with asyncio.timeout(100):
            await kept.drain()


async def test_lines_wait_while_the_database_is_away_and_none_is_lost() -> None:
    store = Stubborn(away=2)
    kept = books(store)
    for _ in range(3):
        kept.post(spent(call()))
    await stored(kept)
    assert len(store.lines) == 3


async def test_lines_that_wait_are_stored_together() -> None:
    store = Stubborn()
    kept = books(store)
    for _ in range(50):
        kept.post(spent(call()))
    await stored(kept)
    assert store.tries == [50]


async def test_line_that_cannot_be_stored_keeps_no_other_out() -> None:
    store = Stubborn(refused_model="openai/bad")
    kept = books(store)
    for model in ("openai/a", "openai/bad", "openai/b"):
        kept.post(spent(call(model=model)))
    await stored(kept)
    assert sorted(line.call.model for line in store.lines.values()) == ["openai/a", "openai/b"]


@pytest.mark.parametrize(("lines", "kept_lines"), [(4, 4), (5, 5), (6, 5)])
async def test_so_many_lines_wait_and_no_more(lines: int, kept_lines: int) -> None:
    store = Stubborn()
    kept = books(store, pending_max=5)
    for _ in range(lines):
        kept.post(spent(call()))
    await stored(kept)
    assert len(store.lines) == kept_lines


async def test_nothing_to_store_is_stored() -> None:
    await stored(books(Stubborn()))


async def test_lines_gather_between_two_batches_until_somebody_waits_for_them() -> None:
    store = Stubborn()
    async with paced(store) as kept:
        for _ in range(5):
            kept.post(spent(call()))
            await asyncio.sleep(0)
        assert store.tries == [1]
        await kept.drain()
        assert store.tries == [1, 5]


async def test_full_batch_is_stored_at_once() -> None:
    store = Stubborn()
    async with paced(store) as kept:
        for _ in range(BATCH_MAX):
            kept.post(spent(call()))
        await until(lambda: store.tries == [1, BATCH_MAX], within_s=100)


async def test_flush_stores_what_waits_and_leaves_the_rest_to_the_pace() -> None:
    store = Stubborn()
    async with paced(store) as kept:
        kept.post(spent(call()))
        assert kept.owes({ORGANIZATION})
        assert not kept.owes({OTHER_ORGANIZATION})
        await kept.flush()
        assert not kept.owes({ORGANIZATION})
        kept.post(spent(call()))
        await asyncio.sleep(0)
        assert store.tries == [1, 1]
        await kept.drain()


async def test_lines_that_a_flush_could_not_store_wait_on() -> None:
    store = Stubborn()
    async with paced(store) as kept:
        store.away = 1
        kept.post(spent(call()))
        with pytest.raises(Unavailable):
            await kept.flush()
        assert kept.owes({ORGANIZATION})
        await kept.drain()
        assert len(store.lines) == 2
