"""Limits in the memory of replicas: news travels, and what is known serves while the database is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.inference.money.limits import LimitBook
from services.inference.money.model import Limits
from services.inference.store_memory import MemoryStore
from services.mesh.errors import Unavailable
from services.mesh.tasks import Loop, supervised
from services.mesh.valkey import open_valkey
from tests.support.money import NOON, ORGANIZATION, OTHER_ORGANIZATION, USER, valkey_settings
from tests.support.waiting import until

LIMITS = Limits(requests_per_minute=1)


class Counting(MemoryStore):
    """Counts what is read, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.is_away = False

    async def limits(self, organization_id: str) -> dict[str, Limits]:
        self.reads += 1
        if self.is_away:
            raise Unavailable
        return await super().limits(organization_id)


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
async def books(store: Counting, valkey_url: str) -> AsyncIterator[list[LimitBook]]:
    """Two replicas that have heard from each other."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            client = await stack.enter_async_context(open_valkey(valkey_settings(valkey_url), application="tests"))
            made.append(LimitBook(store, client))
        loops = tuple(Loop(f"limits {number}", book.listen) for number, book in enumerate(made))
        await stack.enter_async_context(supervised(loops, drain_s=1))
        await until(lambda: all(book.is_subscribed for book in made), within_s=100)
        yield made


async def test_organization_without_budgets_is_asked_for_once(books: list[LimitBook], store: Counting) -> None:
    for _ in range(5):
        assert await books[0].of(ORGANIZATION) == {}
    assert store.reads == 1


async def test_replica_hears_of_what_another_one_changes(books: list[LimitBook], store: Counting) -> None:
    assert await books[1].of(ORGANIZATION) == {}
    await store.set_budget(ORGANIZATION, USER, LIMITS, NOON)
    await books[0].changed(ORGANIZATION)
    async with asyncio.timeout(100):
        while not await books[1].of(ORGANIZATION):  # noqa: ASYNC110 - the news sets no event of ours
            await asyncio.sleep(0.02)
    assert await books[1].of(ORGANIZATION) == {USER: LIMITS}


async def test_what_is_known_serves_while_the_database_is_away(books: list[LimitBook], store: Counting) -> None:
    await store.set_budget(ORGANIZATION, USER, LIMITS, NOON)
    await books[0].of(ORGANIZATION)
    store.is_away = True
    await books[0]._cache.invalidate(ORGANIZATION)
    assert await books[0].of(ORGANIZATION) == {USER: LIMITS}
    with pytest.raises(Unavailable):
        await books[0].of(OTHER_ORGANIZATION)
