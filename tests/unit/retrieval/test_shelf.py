import asyncio
from collections.abc import AsyncIterator

import pytest

from services.mesh.ids import new_id
from services.mesh.tasks import BoundedExecutor
from services.retrieval.index.shelf import Shelf
from services.retrieval.model import Changes, DocumentId, IndexRow, KnowledgeBase, KnowledgeBaseId, OrganizationId
from services.retrieval.store_memory import MemoryStore
from tests.support.retrieval import ACME, NOW, embedded, knowledge_base, upload


class _SlowStore(MemoryStore):
    """Counts loads, and holds reads back until told."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.go = asyncio.Event()
        self.go.set()

    async def rows(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId
    ) -> tuple[int, tuple[IndexRow, ...]]:
        self.loads += 1
        await self.go.wait()
        return await super().rows(organization, knowledge_base)

    async def changes(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, *, after: int) -> Changes:
        await self.go.wait()
        return await super().changes(organization, knowledge_base, after=after)


@pytest.fixture
def store() -> _SlowStore:
    return _SlowStore()


@pytest.fixture
async def executor() -> AsyncIterator[BoundedExecutor]:
    async with BoundedExecutor("index", threads=2, queue_max=50) as made:
        yield made


async def _filled(store: MemoryStore, name: str = "kb", chunks: int = 2) -> KnowledgeBase:
    owner = knowledge_base(name=name)
    await store.create_knowledge_base(owner, request_id=owner.id, request_digest="")
    await _added(store, owner, "notes.txt", chunks)
    return owner


async def _added(store: MemoryStore, owner: KnowledgeBase, name: str, chunks: int = 2) -> None:
    source = "\n\n".join(f"Paragraph {number} of {name}." for number in range(chunks))
    await store.put_document(upload(owner, name, source), id_=DocumentId(new_id("doc")), now=NOW)
    claim = await store.claim(lease="l1", until=NOW, now=NOW)
    assert claim is not None
    await store.publish(claim, embedded(claim.parsed), now=NOW)


async def test_many_searches_load_a_knowledge_base_once(store: _SlowStore, executor: BoundedExecutor) -> None:
    owner = await _filled(store)
    shelf = Shelf(store, executor, bytes_max=1 << 30, refresh_wait_s=1.0)

    snapshots = await asyncio.gather(*(shelf.at(ACME, owner.id, sequence=1) for _ in range(10)))

    assert store.loads == 1
    assert all(snapshot is snapshots[0] for snapshot in snapshots)


async def test_change_is_applied_before_the_snapshot_is_given(store: _SlowStore, executor: BoundedExecutor) -> None:
    owner = await _filled(store)
    shelf = Shelf(store, executor, bytes_max=1 << 30, refresh_wait_s=5.0)
    await shelf.at(ACME, owner.id, sequence=1)
    await _added(store, owner, "second.txt")

    snapshot = await shelf.at(ACME, owner.id, sequence=2)

    assert (snapshot.sequence, snapshot.rows_live, store.loads) == (2, 4, 1)


async def test_slow_change_does_not_hold_up_who_does_not_need_it(store: _SlowStore, executor: BoundedExecutor) -> None:
    owner = await _filled(store)
    shelf = Shelf(store, executor, bytes_max=1 << 30, refresh_wait_s=0.01)
    await shelf.at(ACME, owner.id, sequence=1)
    await _added(store, owner, "second.txt")
    store.go.clear()

    assert (await shelf.at(ACME, owner.id, sequence=2)).sequence == 1
    needed = asyncio.ensure_future(shelf.at(ACME, owner.id, sequence=2, required=2))
    await asyncio.sleep(0)
    store.go.set()
    assert (await needed).sequence == 2


async def test_followed_knowledge_bases_are_current_before_anybody_asks(
    store: _SlowStore, executor: BoundedExecutor
) -> None:
    owner = await _filled(store)
    shelf = Shelf(store, executor, bytes_max=1 << 30, refresh_wait_s=0.0)
    await shelf.at(ACME, owner.id, sequence=1)
    await _added(store, owner, "second.txt")

    await shelf.follow()

    assert (await shelf.at(ACME, owner.id, sequence=2)).sequence == 2


async def test_least_used_knowledge_base_makes_room(store: _SlowStore, executor: BoundedExecutor) -> None:
    one, two, three = [await _filled(store, name, 50) for name in ("one", "two", "three")]
    size = (await Shelf(store, executor, bytes_max=1, refresh_wait_s=1.0).at(ACME, one.id, sequence=1)).size_bytes
    shelf = Shelf(store, executor, bytes_max=int(2.5 * size), refresh_wait_s=1.0)
    for owner in (one, two, one, three):
        await shelf.at(ACME, owner.id, sequence=1)

    assert [place[1] for place in shelf._entries] == [one.id, three.id]


async def test_knowledge_base_larger_than_the_room_is_served(store: _SlowStore, executor: BoundedExecutor) -> None:
    owner = await _filled(store)
    shelf = Shelf(store, executor, bytes_max=1, refresh_wait_s=1.0)

    assert (await shelf.at(ACME, owner.id, sequence=1)).rows_live == 2
    await shelf.at(ACME, owner.id, sequence=1)
    assert store.loads == 1


async def test_deleted_knowledge_base_leaves_the_shelf(store: _SlowStore, executor: BoundedExecutor) -> None:
    owner = await _filled(store)
    shelf = Shelf(store, executor, bytes_max=1 << 30, refresh_wait_s=1.0)
    await shelf.at(ACME, owner.id, sequence=1)
    await store.delete_knowledge_base(ACME, owner.id, now=NOW)

    await shelf.follow()

    assert shelf._entries == {}
