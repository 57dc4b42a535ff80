import asyncio
from datetime import timedelta

import pytest

from services.mesh.errors import NotFound
from services.mesh.ids import new_id
from services.retrieval.model import (
    Claim,
    Document,
    DocumentFailure,
    DocumentId,
    DocumentState,
    KnowledgeBase,
    OrganizationId,
    Upload,
)
from services.retrieval.store import ATTEMPTS_MAX, GIVEN_UP, LeaseLostError, Page, Store
from tests.support.retrieval import ACME, GLOBEX, NOW, embedded, knowledge_base, upload

MINUTE = timedelta(minutes=1)


async def _created(store: Store, owner: OrganizationId = ACME) -> KnowledgeBase:
    made = knowledge_base(owner)
    return await store.create_knowledge_base(made, request_id=made.id, request_digest="")


async def _put(store: Store, what: Upload) -> Document:
    return await store.put_document(what, id_=DocumentId(new_id("doc")), now=NOW)


async def _claimed(store: Store, lease: str = "l1") -> Claim:
    claim = await store.claim(lease=lease, until=NOW + MINUTE, now=NOW)
    assert claim is not None
    return claim


async def test_document_begins_queued(store: Store) -> None:
    owner = await _created(store)

    document = await _put(store, upload(owner))

    assert (document.state, document.version, document.progress) == (DocumentState.QUEUED, 1, 0.0)
    assert await store.document(ACME, document.id) == document
    assert await store.document_named(ACME, owner.id, "notes.txt") == document
    assert await store.document_named(ACME, owner.id, "other.txt") is None


async def test_same_bytes_change_nothing(store: Store) -> None:
    owner = await _created(store)
    first = await _put(store, upload(owner))

    assert await _put(store, upload(owner)) == first


async def test_other_bytes_become_the_next_version(store: Store) -> None:
    owner = await _created(store)
    first = await _put(store, upload(owner))

    second = await _put(store, upload(owner, source="Something new."))

    assert (second.id, second.version, second.state) == (first.id, 2, DocumentState.QUEUED)
    assert (await store.read_text(ACME, first.id, version=1, start=0, end=4)).text == "Cats"
    assert (await store.read_text(ACME, first.id, version=0, start=0, end=4)).text == "Some"


async def test_failed_document_is_tried_again_by_the_same_bytes(store: Store) -> None:
    owner = await _created(store)
    await _put(store, upload(owner))
    await store.fail(await _claimed(store), DocumentFailure("INTERNAL", "broken"), now=NOW)

    again = await _put(store, upload(owner))

    assert (again.version, again.state, again.failure) == (2, DocumentState.QUEUED, None)


async def test_first_uploads_of_one_name_at_once_make_one_document(store: Store) -> None:
    owner = await _created(store)

    both = await asyncio.gather(_put(store, upload(owner)), _put(store, upload(owner, source="Something new.")))

    assert both[0].id == both[1].id
    assert sorted(it.version for it in both) == [1, 2]


async def test_list_is_newest_first_and_pages_by_id(store: Store) -> None:
    owner = await _created(store)
    made = [await _put(store, upload(owner, f"{number}.txt")) for number in range(5)]

    first = await store.documents(ACME, owner.id, Page(None, 2))
    rest = await store.documents(ACME, owner.id, Page(first[-1].id, 10))

    assert [it.id for it in (*first, *rest)] == sorted((it.id for it in made), reverse=True)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 4, ("Cats", 0, 4)),
        (5, 1000, ("sleep.\n\nDogs bark.", 5, 23)),
        (23, 30, ("", 23, 23)),
        (99, 120, ("", 23, 23)),
    ],
)
async def test_text_is_read_by_code_points(store: Store, start: int, end: int, expected: tuple[str, int, int]) -> None:
    owner = await _created(store)
    document = await _put(store, upload(owner))

    read = await store.read_text(ACME, document.id, version=0, start=start, end=end)

    assert (read.text, read.start, read.end) == expected
    assert (read.length, read.version) == (23, 1)


async def test_text_of_astral_characters_is_counted_by_code_points(store: Store) -> None:
    owner = await _created(store)
    document = await _put(store, upload(owner, source="😀 smiles é at 漢字."))

    assert (await store.read_text(ACME, document.id, version=0, start=2, end=8)).text == "smiles"


async def test_unknown_version_is_not_found(store: Store) -> None:
    owner = await _created(store)
    document = await _put(store, upload(owner))

    with pytest.raises(NotFound):
        await store.read_text(ACME, document.id, version=2, start=0, end=4)


@pytest.mark.parametrize("is_foreign", [True, False])
async def test_foreign_and_random_documents_are_the_same_not_found(store: Store, *, is_foreign: bool) -> None:
    theirs = await _put(store, upload(await _created(store, GLOBEX)))
    asked = theirs.id if is_foreign else DocumentId(new_id("doc"))

    for attempt in (
        store.document(ACME, asked),
        store.delete_document(ACME, asked),
        store.read_text(ACME, asked, version=0, start=0, end=1),
        store.read_text(ACME, asked, version=1, start=0, end=1),
    ):
        with pytest.raises(NotFound) as refused:
            await attempt
        assert refused.value.metadata == {"resource": "document"}
    assert await store.document(GLOBEX, theirs.id) == theirs


# ---------------------------------------------------------------------------------------------------------------- queue


async def test_empty_queue_gives_nothing(store: Store) -> None:
    assert await store.claim(lease="l1", until=NOW + MINUTE, now=NOW) is None


async def test_claim_carries_what_the_worker_needs(store: Store) -> None:
    owner = await _created(store)
    document = await _put(store, upload(owner))

    claim = await _claimed(store)

    assert claim == Claim(
        document_id=document.id,
        organization_id=ACME,
        knowledge_base_id=owner.id,
        version=1,
        display_name="notes.txt",
        encoder=owner.encoder,
        lease="l1",
        attempt=1,
        parsed=upload(owner).parsed,
    )
    assert (await store.document(ACME, document.id)).state is DocumentState.PROCESSING


async def test_claimed_document_is_nobody_elses_until_its_lease_lapses(store: Store) -> None:
    await _put(store, upload(await _created(store)))
    first = await _claimed(store)

    assert await store.claim(lease="l2", until=NOW + 2 * MINUTE, now=NOW) is None
    second = await store.claim(lease="l2", until=NOW + 2 * MINUTE, now=NOW + MINUTE)

    assert second is not None
    assert (second.document_id, second.attempt) == (first.document_id, 2)


async def test_documents_are_claimed_once_each_by_many_workers(store: Store) -> None:
    owner = await _created(store)
    made = {(await _put(store, upload(owner, f"{number}.txt"))).id for number in range(6)}

    claims = await asyncio.gather(*(store.claim(lease=f"l{n}", until=NOW + MINUTE, now=NOW) for n in range(8)))

    taken = [claim.document_id for claim in claims if claim]
    assert len(taken) == len(set(taken))
    assert set(taken) <= made


async def test_renewed_lease_holds_and_shows_progress(store: Store) -> None:
    document = await _put(store, upload(await _created(store)))
    claim = await _claimed(store)

    await store.renew(claim, until=NOW + 2 * MINUTE, progress=0.5, now=NOW)

    assert await store.claim(lease="l2", until=NOW + 3 * MINUTE, now=NOW + MINUTE) is None
    assert (await store.document(ACME, document.id)).progress == 0.5


async def test_everything_a_stale_worker_writes_is_refused(store: Store) -> None:
    document = await _put(store, upload(await _created(store)))
    stale = await _claimed(store)
    await store.claim(lease="l2", until=NOW + 2 * MINUTE, now=NOW + MINUTE)
    before = await store.document(ACME, document.id)

    for write in (
        store.renew(stale, until=NOW + 9 * MINUTE, progress=0.9, now=NOW),
        store.publish(stale, embedded(stale.parsed), now=NOW),
        store.fail(stale, GIVEN_UP, now=NOW),
    ):
        with pytest.raises(LeaseLostError):
            await write
    await store.release(stale, retry_at=NOW, now=NOW)

    assert await store.document(ACME, document.id) == before


async def test_new_version_takes_the_document_from_its_worker(store: Store) -> None:
    owner = await _created(store)
    await _put(store, upload(owner))
    stale = await _claimed(store)
    await _put(store, upload(owner, source="Something new."))

    with pytest.raises(LeaseLostError):
        await store.publish(stale, embedded(stale.parsed), now=NOW)

    assert (await _claimed(store, "l2")).version == 2


async def test_deleted_document_is_lost_to_its_worker(store: Store) -> None:
    owner = await _created(store)
    document = await _put(store, upload(owner))
    claim = await _claimed(store)
    await store.delete_document(ACME, document.id)

    with pytest.raises(LeaseLostError):
        await store.publish(claim, embedded(claim.parsed), now=NOW)
    assert (await store.rows(ACME, owner.id))[1] == ()


async def test_document_of_a_deleted_knowledge_base_is_neither_claimed_nor_published(store: Store) -> None:
    owner = await _created(store)
    await _put(store, upload(owner))
    await _put(store, upload(owner, "second.txt"))
    claim = await _claimed(store)
    await store.delete_knowledge_base(ACME, owner.id, now=NOW)

    assert await store.claim(lease="l2", until=NOW + MINUTE, now=NOW) is None
    with pytest.raises(LeaseLostError):
        await store.publish(claim, embedded(claim.parsed), now=NOW)


async def test_released_document_waits_for_its_time(store: Store) -> None:
    document = await _put(store, upload(await _created(store)))
    await store.release(await _claimed(store), retry_at=NOW + MINUTE, now=NOW)

    assert (await store.document(ACME, document.id)).state is DocumentState.QUEUED
    assert await store.claim(lease="l2", until=NOW + 2 * MINUTE, now=NOW) is None
    assert await store.claim(lease="l2", until=NOW + 2 * MINUTE, now=NOW + MINUTE) is not None


async def test_document_is_given_up_after_its_last_attempt(store: Store) -> None:
    document = await _put(store, upload(await _created(store)))
    for attempt in range(1, ATTEMPTS_MAX + 1):
        claim = await store.claim(lease=f"l{attempt}", until=NOW, now=NOW)
        assert claim is not None

    assert await store.claim(lease="last", until=NOW, now=NOW) is None

    failed = await store.document(ACME, document.id)
    assert (failed.state, failed.failure) == (DocumentState.FAILED, GIVEN_UP)


async def test_failure_is_kept_and_what_was_searchable_stays(store: Store) -> None:
    owner = await _created(store)
    document = await _put(store, upload(owner))
    first = await _claimed(store)
    await store.publish(first, embedded(first.parsed), now=NOW)
    await _put(store, upload(owner, source="Something new."))

    await store.fail(await _claimed(store), DocumentFailure("INTERNAL", "broken"), now=NOW)

    failed = await store.document(ACME, document.id)
    assert (failed.state, failed.failure) == (DocumentState.FAILED, DocumentFailure("INTERNAL", "broken"))
    assert len((await store.rows(ACME, owner.id))[1]) == 2


# ---------------------------------------------------------------------------------------------------------------- index


async def _published(store: Store, what: Upload) -> Claim:
    await _put(store, what)
    claim = await _claimed(store)
    await store.publish(claim, embedded(claim.parsed, title="notes"), now=NOW)
    return claim


async def test_published_chunks_are_rows_and_passages(store: Store) -> None:
    owner = await _created(store)
    claim = await _published(store, upload(owner))

    sequence, rows = await store.rows(ACME, owner.id)
    passages = await store.passages(ACME, owner.id, [row.key for row in rows])

    assert sequence == 1
    assert [row.searchable_text for row in rows] == ["notes\nCats sleep.", "notes\nDogs bark."]
    assert [passages[row.key].text for row in rows] == ["Cats sleep.", "Dogs bark."]
    assert {passages[row.key].document_version for row in rows} == {1}
    assert {passages[row.key].document_name for row in rows} == {"notes.txt"}
    for passage in passages.values():
        assert claim.parsed.text[passage.start : passage.end] == passage.text


async def test_new_version_replaces_the_old_one_in_one_change(store: Store) -> None:
    owner = await _created(store)
    await _published(store, upload(owner))
    _, old = await store.rows(ACME, owner.id)

    second = await _published(store, upload(owner, source="Something new."))

    changes = await store.changes(ACME, owner.id, after=1)
    assert (changes.sequence, changes.documents) == (2, (second.document_id,))
    assert [row.searchable_text for row in changes.rows] == ["notes\nSomething new."]
    assert await store.passages(ACME, owner.id, [row.key for row in old]) == {}
    assert not {row.key for row in changes.rows} & {row.key for row in old}


async def test_deletion_is_a_change_without_rows(store: Store) -> None:
    owner = await _created(store)
    claim = await _published(store, upload(owner))
    _, rows = await store.rows(ACME, owner.id)

    await store.delete_document(ACME, claim.document_id)

    changes = await store.changes(ACME, owner.id, after=1)
    assert (changes.sequence, changes.documents, changes.rows) == (2, (claim.document_id,), ())
    assert await store.passages(ACME, owner.id, [row.key for row in rows]) == {}


async def test_nothing_changed_after_the_head(store: Store) -> None:
    owner = await _created(store)
    await _published(store, upload(owner))
    head = await store.head(ACME, owner.id)

    changes = await store.changes(ACME, owner.id, after=head.sequence)

    assert (changes.sequence, changes.documents, changes.rows) == (head.sequence, (), ())


async def test_passages_of_another_knowledge_base_or_organization_are_not_there(store: Store) -> None:
    mine, theirs = await _created(store, ACME), await _created(store, GLOBEX)
    await _published(store, upload(theirs))
    keys = [row.key for row in (await store.rows(GLOBEX, theirs.id))[1]]

    assert len(await store.passages(GLOBEX, theirs.id, keys)) == 2
    assert await store.passages(ACME, mine.id, keys) == {}
    assert await store.passages(ACME, theirs.id, keys) == {}
    assert await store.passages(GLOBEX, mine.id, keys) == {}
    assert await store.heads([(ACME, theirs.id), (ACME, mine.id)]) == {mine.id: await store.head(ACME, mine.id)}


async def test_changes_of_many_writers_get_their_own_numbers(store: Store) -> None:
    owner = await _created(store)
    for number in range(4):
        await _put(store, upload(owner, f"{number}.txt"))
    claims = [await _claimed(store, f"l{number}") for number in range(4)]

    await asyncio.gather(*(store.publish(claim, embedded(claim.parsed), now=NOW) for claim in claims))

    assert (await store.head(ACME, owner.id)).sequence == 4
    assert len((await store.changes(ACME, owner.id, after=2)).documents) == 2


async def test_vector_survives_half_precision(store: Store) -> None:
    owner = await _created(store)
    claim = await _published(store, upload(owner))

    _, rows = await store.rows(ACME, owner.id)

    for row, made in zip(rows, embedded(claim.parsed, title="notes"), strict=True):
        assert float(row.vector @ made.vector) > 0.9999
        assert row.vector.dtype == made.vector.dtype


async def test_large_document_is_published_whole(store: Store) -> None:
    owner = await _created(store)
    source = "\n\n".join(f"Paragraph number {number}." for number in range(1_203))

    claim = await _published(store, upload(owner, source=source))

    assert (await store.document(ACME, claim.document_id)).chunk_count == 1_203
    assert len((await store.rows(ACME, owner.id))[1]) == 1_203
