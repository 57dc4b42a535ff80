from dataclasses import replace
from datetime import timedelta

import pytest

from services.mesh.errors import AlreadyExists, IdempotencyMismatch, NotFound
from services.mesh.ids import new_id
from services.retrieval.model import DocumentId, KnowledgeBase, KnowledgeBaseId, OrganizationId
from services.retrieval.store import Page, Store
from tests.support.retrieval import ACME, GLOBEX, NOW, embedded, knowledge_base, upload


async def _created(
    store: Store, owner: OrganizationId = ACME, name: str = "Handbook", request_id: str = ""
) -> KnowledgeBase:
    made = knowledge_base(owner, name)
    return await store.create_knowledge_base(made, request_id=request_id or made.id, request_digest="digest")


async def test_knowledge_base_is_read_as_it_was_made(store: Store) -> None:
    made = await _created(store)

    assert await store.knowledge_base(ACME, made.id) == made
    await store.ping()


async def test_same_request_makes_one_knowledge_base(store: Store) -> None:
    first = await _created(store, request_id="r1")

    again = await _created(store, request_id="r1")

    assert again.id == first.id
    assert len(await store.knowledge_bases(ACME, Page(None, 10))) == 1


async def test_request_id_with_another_content_is_a_mismatch(store: Store) -> None:
    await _created(store, request_id="r1")

    with pytest.raises(IdempotencyMismatch):
        await store.create_knowledge_base(knowledge_base(ACME, "Other"), request_id="r1", request_digest="other")


async def test_request_ids_of_organizations_are_their_own(store: Store) -> None:
    mine = await _created(store, ACME, request_id="r1")
    theirs = await _created(store, GLOBEX, request_id="r1")

    assert mine.id != theirs.id


async def test_repeated_request_after_deletion_finds_nothing(store: Store) -> None:
    made = await _created(store, request_id="r1")
    await store.delete_knowledge_base(ACME, made.id, now=NOW)

    with pytest.raises(NotFound):
        await _created(store, request_id="r1")


async def test_name_is_unique_in_its_organization_only(store: Store) -> None:
    await _created(store, ACME, "Handbook")
    await _created(store, GLOBEX, "Handbook")

    with pytest.raises(AlreadyExists) as refused:
        await _created(store, ACME, "Handbook")
    assert refused.value.metadata == {"field": "display_name"}


async def test_name_of_a_deleted_knowledge_base_is_free(store: Store) -> None:
    made = await _created(store)
    await store.delete_knowledge_base(ACME, made.id, now=NOW)

    again = await _created(store)

    assert again.id != made.id


async def test_list_is_newest_first_and_pages_by_id(store: Store) -> None:
    made = [await _created(store, ACME, f"kb {number}") for number in range(5)]
    await _created(store, GLOBEX, "foreign")

    newest = sorted((it.id for it in made), reverse=True)
    first = await store.knowledge_bases(ACME, Page(None, 3))
    rest = await store.knowledge_bases(ACME, Page(first[-1].id, 3))

    assert [it.id for it in first] == newest[:3]
    assert [it.id for it in rest] == newest[3:]


async def test_update_changes_only_what_is_given(store: Store) -> None:
    made = await _created(store)
    later = NOW + timedelta(hours=1)

    changed = await store.update_knowledge_base(ACME, made.id, display_name=None, description="all of it", now=later)

    assert changed == replace(made, description="all of it", update_time=later)
    assert await store.knowledge_base(ACME, made.id) == changed


async def test_update_to_a_taken_name_is_refused(store: Store) -> None:
    await _created(store, ACME, "one")
    two = await _created(store, ACME, "two")

    with pytest.raises(AlreadyExists):
        await store.update_knowledge_base(ACME, two.id, display_name="one", description=None, now=NOW)
    assert (await store.knowledge_base(ACME, two.id)).display_name == "two"


async def test_counts_follow_documents(store: Store) -> None:
    made = await _created(store)
    document = await store.put_document(upload(made), id_=DocumentId(new_id("doc")), now=NOW)
    claim = await store.claim(lease="l1", until=NOW + timedelta(minutes=1), now=NOW)
    assert claim is not None
    await store.publish(claim, embedded(claim.parsed), now=NOW)

    counted = await store.knowledge_base(ACME, made.id)
    await store.delete_document(ACME, document.id)
    emptied = await store.knowledge_base(ACME, made.id)

    assert (counted.document_count, counted.chunk_count, counted.sequence) == (1, 2, 1)
    assert (emptied.document_count, emptied.chunk_count, emptied.sequence) == (0, 0, 2)


@pytest.mark.parametrize("owner", [ACME, GLOBEX])
async def test_foreign_and_random_ids_are_the_same_not_found(store: Store, owner: OrganizationId) -> None:
    foreign = (await _created(store, GLOBEX)).id
    asked = foreign if owner == GLOBEX else KnowledgeBaseId(new_id("kb"))

    for attempt in (
        store.knowledge_base(ACME, asked),
        store.update_knowledge_base(ACME, asked, display_name="x", description=None, now=NOW),
        store.delete_knowledge_base(ACME, asked, now=NOW),
        store.documents(ACME, asked, Page(None, 5)),
        store.document_named(ACME, asked, "notes.txt"),
        store.put_document(
            replace(upload(knowledge_base(ACME)), knowledge_base_id=asked), id_=DocumentId(new_id("doc")), now=NOW
        ),
        store.head(ACME, asked),
        store.rows(ACME, asked),
        store.changes(ACME, asked, after=0),
    ):
        with pytest.raises(NotFound) as refused:
            await attempt
        assert refused.value.metadata == {"resource": "knowledge_base"}
    assert (await store.knowledge_base(GLOBEX, foreign)).display_name == "Handbook"


async def test_deleted_knowledge_base_takes_its_documents_with_it(store: Store) -> None:
    made = await _created(store)
    document = await store.put_document(upload(made), id_=DocumentId(new_id("doc")), now=NOW)
    claim = await store.claim(lease="l1", until=NOW + timedelta(minutes=1), now=NOW)
    assert claim is not None
    await store.publish(claim, embedded(claim.parsed), now=NOW)
    _, rows = await store.rows(ACME, made.id)

    await store.delete_knowledge_base(ACME, made.id, now=NOW)

    assert await store.passages(ACME, made.id, [row.key for row in rows]) == {}
    assert await store.heads([(ACME, made.id)]) == {}
    with pytest.raises(NotFound):
        await store.document(ACME, document.id)
    with pytest.raises(NotFound):
        await store.read_text(ACME, document.id, version=1, start=0, end=10)
    with pytest.raises(NotFound):
        await store.delete_document(ACME, document.id)


async def test_purge_removes_what_was_deleted_and_nothing_else(store: Store) -> None:
    gone, kept = await _created(store, name="gone", request_id="r1"), await _created(store, name="kept")
    for number in range(3):
        await store.put_document(upload(gone, f"{number}.txt"), id_=DocumentId(new_id("doc")), now=NOW)
    await store.put_document(upload(kept), id_=DocumentId(new_id("doc")), now=NOW)
    await store.delete_knowledge_base(ACME, gone.id, now=NOW)

    counts = [await store.purge(documents_max=2, tombstones_before=NOW) for _ in range(3)]

    assert counts == [2, 1, 0]
    assert (await store.knowledge_base(ACME, kept.id)).document_count == 1
    with pytest.raises(NotFound):  # the tombstone is still there
        await _created(store, name="gone", request_id="r1")
    await store.purge(documents_max=2, tombstones_before=NOW + timedelta(seconds=1))
    assert (await _created(store, name="gone", request_id="r1")).display_name == "gone"
