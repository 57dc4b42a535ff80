"""What retrieval asks of PostgreSQL costs as much as the answer is long, however much there is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.mesh.ids import new_id
from services.retrieval.model import DocumentFailure, DocumentId, DocumentState, KnowledgeBaseId, OrganizationId
from services.retrieval.store import Page
from services.retrieval.store_postgres import PostgresStore
from tests.scale.conftest import Judge
from tests.scale.judging import Allowance
from tests.support.retrieval import embedded, knowledge_base, upload

LARGEST: Final = KnowledgeBaseId(f"kb_{0:026}")
OWNER: Final = OrganizationId(f"org_{0:026}")
NOW: Final = datetime.now(UTC)
LATER: Final = NOW + timedelta(hours=1)
PAGE: Final = Page(before=None, limit=100)
ALLOWED: Final = {
    "AS anon_2": Allowance("counts documents that wait, up to a bound", 2_500),
    "ORDER BY retrieval.chunks.key": Allowance("an index is made of all chunks of a knowledge base", 100_000),
    "AS document_count": Allowance("counts the documents of the knowledge bases on a page", 100_000),
}

Store = Any
"""A store whose methods are judged."""


async def test_statements_of_retrieval_cost_what_they_answer(judge: Judge) -> None:
    judge.allowances.update(ALLOWED)
    store: Store = judge.watching(PostgresStore(judge.database))

    await knowledge_bases_come_and_go(store)
    await documents_are_read(store)
    await documents_are_taken_in(store)
    await index_is_made(store)
    await store.ping()

    assert judge.missing(PostgresStore) == set()
    assert not judge.found, "\n".join(judge.found)


async def knowledge_bases_come_and_go(store: Store) -> None:
    made = knowledge_base(OWNER, new_id("name"))
    await store.create_knowledge_base(made, request_id=made.id, request_digest="")
    await store.create_knowledge_base(made, request_id=made.id, request_digest="")
    assert await store.knowledge_base(OWNER, LARGEST)
    bases = await store.knowledge_bases(OWNER, PAGE)
    assert await store.knowledge_bases(OWNER, replace(PAGE, before=bases[0].id))
    await store.update_knowledge_base(OWNER, made.id, display_name=None, description="Notes", now=NOW)
    await store.put_document(upload(made), id_=DocumentId(new_id("doc")), now=NOW)
    await store.delete_knowledge_base(OWNER, made.id, now=NOW)
    assert await store.purge(documents_max=100, tombstones_before=LATER) == 1


async def documents_are_read(store: Store) -> None:
    page = await store.documents(OWNER, LARGEST, PAGE)
    for before in (page[-1].id, f"doc_{500:026}"):
        assert await store.documents(OWNER, LARGEST, replace(PAGE, before=before))
    one = page[0]
    assert (await store.document(OWNER, one.id)).state is DocumentState.READY
    assert await store.document_named(OWNER, LARGEST, one.display_name) == one
    assert (await store.read_text(OWNER, one.id, version=1, start=0, end=20)).text


async def documents_are_taken_in(store: Store) -> None:
    base = await store.knowledge_base(OWNER, LARGEST)
    new = await store.put_document(upload(base, new_id("name")), id_=DocumentId(new_id("doc")), now=NOW)
    assert await store.pending(documents_max=1_000) > 50
    for end in ("publish", "fail", "release"):
        claim = await store.claim(lease=end, until=LATER, now=NOW)
        await store.renew(claim, until=LATER, progress=0.5, now=NOW)
        if end == "publish":
            await store.publish(claim, embedded(claim.parsed), now=NOW)
        elif end == "fail":
            await store.fail(claim, DocumentFailure("PARSE_FAILED", ""), now=NOW)
        else:
            await store.release(claim, retry_at=LATER, now=NOW)
    await store.delete_document(OWNER, new.id)


async def index_is_made(store: Store) -> None:
    assert await store.heads([(OWNER, LARGEST)])
    sequence, rows = await store.rows(OWNER, LARGEST)
    assert len(await store.passages(OWNER, LARGEST, [row.key for row in rows[:50]])) == 50
    changed = await store.changes(OWNER, LARGEST, after=sequence - 20)
    assert 0 < len(changed.documents) <= 20
    assert (await store.head(OWNER, LARGEST)).sequence == sequence
