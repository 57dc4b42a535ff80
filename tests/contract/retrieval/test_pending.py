from datetime import timedelta

from services.mesh.ids import new_id
from services.retrieval.model import Document, DocumentId, KnowledgeBase
from services.retrieval.store import Store
from tests.support.retrieval import ACME, GLOBEX, NOW, embedded, knowledge_base, upload

MANY = 100


async def _created(store: Store, made: KnowledgeBase) -> KnowledgeBase:
    return await store.create_knowledge_base(made, request_id=made.id, request_digest="")


async def _put(store: Store, owner: KnowledgeBase, name: str) -> Document:
    return await store.put_document(upload(owner, name), id_=DocumentId(new_id("doc")), now=NOW)


async def test_nothing_is_pending_in_an_empty_store(store: Store) -> None:
    assert await store.pending(documents_max=MANY) == 0


async def test_documents_are_pending_until_they_are_searchable(store: Store) -> None:
    owner = await _created(store, knowledge_base(ACME))
    await _put(store, owner, "a.txt")
    await _put(store, await _created(store, knowledge_base(GLOBEX)), "b.txt")
    assert await store.pending(documents_max=MANY) == 2

    claim = await store.claim(lease="l1", until=NOW + timedelta(minutes=1), now=NOW)
    assert claim is not None
    assert await store.pending(documents_max=MANY) == 2

    await store.publish(claim, embedded(claim.parsed), now=NOW)
    assert await store.pending(documents_max=MANY) == 1


async def test_documents_of_a_deleted_knowledge_base_are_not_pending(store: Store) -> None:
    owner = await _created(store, knowledge_base(ACME))
    await _put(store, owner, "a.txt")
    await store.delete_knowledge_base(ACME, owner.id, now=NOW)

    assert await store.pending(documents_max=MANY) == 0


async def test_pending_documents_are_counted_up_to_the_bound(store: Store) -> None:
    owner = await _created(store, knowledge_base(ACME))
    for number in range(3):
        await _put(store, owner, f"{number}.txt")

    assert [await store.pending(documents_max=bound) for bound in (2, 3, 4)] == [2, 3, 3]
