"""Search over both stores: what it promises about deletes, versions, tenancy and freshness."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from services.mesh import deadline
from services.mesh.clock import ManualClock
from services.mesh.errors import InvalidArgument, NotFound, RetrievalUnavailable
from services.mesh.ids import new_id
from services.mesh.tasks import BoundedExecutor
from services.retrieval.documents import Documents
from services.retrieval.embedding.cache import LocalVectors
from services.retrieval.embedding.service import open_embedder
from services.retrieval.gate import Gate
from services.retrieval.index.shelf import Shelf
from services.retrieval.ingestion import IngestionLimits, Ingestor
from services.retrieval.knowledge import KnowledgeBases
from services.retrieval.model import (
    Decision,
    Document,
    DocumentId,
    Findings,
    KnowledgeBase,
    KnowledgeBaseId,
    OrganizationId,
    Question,
    SearchMode,
)
from services.retrieval.search import Search
from services.retrieval.store import Store
from tests.support.retrieval import ACME, ENCODER, GLOBEX, NOW, TextParser, WordEncoder, pieces, until


@dataclass
class Room:
    """The use cases of retrieval over one store, and a second replica of its search."""

    store: Store
    knowledge_bases: KnowledgeBases
    documents: Documents
    ingestor: Ingestor
    search: Search
    replica: Search
    shelf: Shelf
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))

    async def created(self, owner: OrganizationId = ACME, name: str = "Handbook") -> KnowledgeBase:
        return await self.knowledge_bases.create(owner, display_name=name, description="", request_id="", digest="")

    async def added(self, owner: KnowledgeBase, source: str, name: str = "notes.txt") -> Document:
        document = await self.documents.upload(owner.organization_id, owner.id, name, pieces(source.encode()))
        while await self.ingestor.step():
            continue
        return document

    async def found(self, owner: KnowledgeBase, text: str, *, replica: bool = False) -> list[str]:
        search = self.replica if replica else self.search
        findings = await search.find(owner.organization_id, owner.id, Question(text=text))
        return [passage.stored.text for passage in findings.passages]


@pytest.fixture
async def room(store: Store) -> AsyncIterator[Room]:
    clock = ManualClock(NOW)
    async with AsyncExitStack() as stack:
        executor = await stack.enter_async_context(BoundedExecutor("index", threads=2, queue_max=100))
        embedder = await stack.enter_async_context(open_embedder(WordEncoder(), LocalVectors(100, None)))
        shelves = [Shelf(store, executor, bytes_max=1 << 30, refresh_wait_s=5.0) for _ in range(2)]
        searches = [
            Search(store=store, shelf=shelf, embedder=embedder, gate=Gate.shipped(), executor=executor)
            for shelf in shelves
        ]
        yield Room(
            store=store,
            knowledge_bases=KnowledgeBases(store, clock, encoder=ENCODER),
            documents=Documents(store, TextParser(), clock, file_bytes_max=1 << 20),
            ingestor=Ingestor(
                store=store, encoder=WordEncoder(), executor=executor, clock=clock, limits=IngestionLimits()
            ),
            search=searches[0],
            replica=searches[1],
            shelf=shelves[0],
        )


PETS = "Cats sleep all day.\n\nDogs bark at night.\n\nParrots repeat what they hear."


async def test_best_passage_comes_first_with_all_that_a_citation_needs(room: Room) -> None:
    owner = await room.created()
    document = await room.added(owner, PETS)

    findings = await room.search.find(ACME, owner.id, Question(text="when do dogs bark"))

    best = findings.passages[0]
    assert (best.stored.text, best.rank, best.knowledge_base_id) == ("Dogs bark at night.", 1, owner.id)
    assert (best.stored.document_id, best.stored.document_version) == (document.id, 1)
    assert PETS[best.stored.start : best.stored.end] == best.stored.text
    assert [passage.rank for passage in findings.passages] == [1, 2, 3]
    scores = [passage.score for passage in findings.passages]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert findings.sequence == 1


async def test_deleted_document_answers_nothing_on_any_replica(room: Room) -> None:
    owner = await room.created()
    document = await room.added(owner, PETS)
    assert await room.found(owner, "dogs")
    assert await room.found(owner, "dogs", replica=True)

    await room.documents.delete(ACME, document.id)

    assert await room.found(owner, "dogs") == []
    assert await room.found(owner, "dogs", replica=True) == []


async def test_hit_of_a_stale_snapshot_does_not_leave(room: Room) -> None:
    owner = await room.created()
    await room.added(owner, PETS)
    other = await room.added(owner, "Dogs dig holes.", "second.txt")
    stale = await room.shelf.at(ACME, owner.id, sequence=2)
    await room.documents.delete(ACME, other.id)

    class Stuck(Shelf):
        async def at(self, *_: object, **__: object) -> object:  # type: ignore[override]  # a shelf that never refreshes
            return stale

    room.search._shelf = Stuck(room.store, room.search._executor, bytes_max=1, refresh_wait_s=0.0)

    assert "Dogs dig holes." not in await room.found(owner, "dogs dig holes")


async def test_new_version_replaces_the_old_one(room: Room) -> None:
    owner = await room.created()
    await room.added(owner, "Dogs bark at night.")
    assert await room.found(owner, "dogs") == ["Dogs bark at night."]

    await room.documents.upload(ACME, owner.id, "notes.txt", pieces(b"Dogs are silent now."))
    before = await room.found(owner, "dogs")
    await room.ingestor.step()

    assert before == ["Dogs bark at night."]
    assert await room.found(owner, "dogs") == ["Dogs are silent now."]
    assert await room.found(owner, "dogs", replica=True) == ["Dogs are silent now."]


async def test_new_document_is_found_by_the_next_search(room: Room) -> None:
    owner = await room.created()
    await room.added(owner, PETS)
    await room.found(owner, "dogs")
    await room.added(owner, "Wolves howl.", "wolves.txt")

    assert (await room.found(owner, "wolves howl"))[0] == "Wolves howl."


async def test_empty_knowledge_base_is_skipped(room: Room) -> None:
    owner = await room.created()

    findings = await room.search.find(ACME, owner.id, Question(text="anything"))

    assert findings == Findings((), Decision.SKIPPED, 0.0, 0)


@pytest.mark.parametrize(
    ("mode", "text", "decision", "passages"),
    [
        (SearchMode.ALWAYS, "when do dogs bark at night", Decision.RETRIEVED, 3),
        (SearchMode.ALWAYS, "volcano", Decision.WEAK, 3),
        (SearchMode.SELECTIVE, "when do dogs bark at night", Decision.RETRIEVED, 3),
        (SearchMode.SELECTIVE, "volcano", Decision.SKIPPED, 0),
        (SearchMode.NEVER, "when do dogs bark at night", Decision.SKIPPED, 0),
    ],
)
async def test_mode_decides_when_to_search(
    room: Room, mode: SearchMode, text: str, decision: Decision, passages: int
) -> None:
    owner = await room.created()
    await room.added(owner, PETS)

    findings = await room.search.find(ACME, owner.id, Question(text=text, mode=mode))

    assert (findings.decision, len(findings.passages)) == (decision, passages)


async def test_weak_findings_are_at_most_two(room: Room) -> None:
    owner = await room.created()
    await room.added(owner, PETS)
    room.search._gate = Gate((0.0,) * 5, 0.0, retrieve_at=0.9, weak_at=0.1, source="")

    selective = await room.search.find(ACME, owner.id, Question(text="dogs", mode=SearchMode.SELECTIVE))

    assert (selective.decision, len(selective.passages), selective.probability) == (Decision.WEAK, 2, 0.5)


async def test_follow_up_is_read_with_the_questions_before_it(room: Room) -> None:
    owner = await room.created()
    await room.added(owner, PETS)

    alone = await room.search.find(ACME, owner.id, Question(text="and when exactly?"))
    together = await room.search.find(ACME, owner.id, Question(text="and when exactly?", context=("do dogs bark?",)))

    assert together.passages[0].stored.text == "Dogs bark at night."
    assert together.probability > alone.probability


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_limit_bounds_the_passages(room: Room, limit: int) -> None:
    owner = await room.created()
    await room.added(owner, PETS)

    findings = await room.search.find(ACME, owner.id, Question(text="dogs", limit=limit))

    assert len(findings.passages) == min(limit, 3)


@pytest.mark.parametrize(
    ("question", "field_name"),
    [
        (Question(text=""), "query"),
        (Question(text=" \n"), "query"),
        (Question(text="x" * 8_001), "query"),
        (Question(text="x", context=("a",) * 4), "context_queries"),
        (Question(text="x", context=("a", "b" * 8_001)), "context_queries[1]"),
        (Question(text="x", limit=0), "limit"),
        (Question(text="x", limit=51), "limit"),
        (Question(text="x", min_sequence=-1), "min_sequence"),
    ],
)
async def test_question_out_of_bounds_is_refused(room: Room, question: Question, field_name: str) -> None:
    owner = await room.created()

    with pytest.raises(InvalidArgument) as refused:
        await room.search.find(ACME, owner.id, question)
    assert [violation.field for violation in refused.value.fields] == [field_name]


async def test_longest_question_is_answered(room: Room) -> None:
    owner = await room.created()
    await room.added(owner, PETS)

    assert len(await room.found(owner, "d" * 8_000)) == 3


@pytest.mark.parametrize("is_foreign", [True, False])
async def test_foreign_and_random_knowledge_bases_are_the_same_not_found(room: Room, *, is_foreign: bool) -> None:
    theirs = await room.created(GLOBEX)
    await room.added(theirs, PETS)
    await room.found(theirs, "dogs")
    asked = theirs.id if is_foreign else KnowledgeBaseId(new_id("kb"))

    for mode in SearchMode:
        with pytest.raises(NotFound) as refused:
            await room.search.find(ACME, asked, Question(text="dogs", mode=mode))
        assert refused.value.metadata == {"resource": "knowledge_base"}


async def test_deleted_knowledge_base_answers_nothing(room: Room) -> None:
    owner = await room.created()
    await room.added(owner, PETS)
    await room.found(owner, "dogs")
    await room.knowledge_bases.delete(ACME, owner.id)

    with pytest.raises(NotFound):
        await room.found(owner, "dogs")
    await room.shelf.follow()
    assert room.shelf._entries == {}


async def test_knowledge_base_of_another_encoder_is_unavailable_and_says_why(room: Room) -> None:
    room.knowledge_bases._encoder = "other@2"
    owner = await room.created()

    with pytest.raises(RetrievalUnavailable, match="other@2"):
        await room.found(owner, "dogs")


async def test_search_waits_for_the_change_that_it_needs(room: Room) -> None:
    owner = await room.created()
    await room.documents.upload(ACME, owner.id, "notes.txt", pieces(PETS.encode()))

    waiting = asyncio.ensure_future(room.search.find(ACME, owner.id, Question(text="dogs", min_sequence=1)))
    await asyncio.sleep(0)
    await room.ingestor.step()

    assert len((await waiting).passages) == 3


async def test_change_that_never_comes_is_unavailable_within_the_deadline(room: Room) -> None:
    owner = await room.created()

    with deadline.within(0.1), pytest.raises(RetrievalUnavailable) as refused:
        await room.search.find(ACME, owner.id, Question(text="dogs", min_sequence=7))
    assert refused.value.retry_after_s


WORDS = ["cats", "dogs", "birds", "wolves", "sleep", "bark", "sing", "howl"]


@pytest.mark.parametrize("seed", range(4))
async def test_random_operations_never_show_what_is_not_there(room: Room, seed: int) -> None:
    """A model of what should be searchable, held against both replicas after every step."""
    draw = random.Random(seed)
    bases = [await room.created(owner, f"{owner} {number}") for owner in (ACME, GLOBEX) for number in range(2)]
    model: dict[KnowledgeBaseId, dict[str, tuple[DocumentId, str]]] = {base.id: {} for base in bases}
    for _ in range(40):
        base = draw.choice(bases)
        name = f"{draw.randrange(4)}.txt"
        if draw.random() < 0.3 and name in model[base.id]:
            await room.documents.delete(base.organization_id, model[base.id].pop(name)[0])
        elif draw.random() < 0.9:
            source = f"{' '.join(draw.choices(WORDS, k=5))} {draw.randrange(10**9)}."
            model[base.id][name] = ((await room.added(base, source, name)).id, source)
        asked = draw.choice(bases)
        expected = sorted(source for _, source in model[asked.id].values())
        for replica in (False, True):
            assert sorted(await room.found(asked, draw.choice(WORDS), replica=replica)) == expected


async def test_searches_during_changes_see_each_document_exactly_once(room: Room) -> None:
    owner = await room.created()
    await room.added(owner, "version 0 of dogs.")
    seen: list[list[str]] = []
    versions = 12

    async def search_on() -> None:
        while len(seen) < 4 * versions:
            seen.append(await room.found(owner, "dogs", replica=bool(len(seen) % 2)))

    async def seen_at_least(count: int) -> None:
        async def holds() -> bool:
            return len(seen) >= count

        await until(holds)

    async def change_on() -> None:
        for version in range(1, versions):
            await room.added(owner, f"version {version} of dogs.")
            await seen_at_least(3 * version)  # a real encoder is slower than many searches; this one is not

    await asyncio.gather(search_on(), change_on())

    assert [len(texts) for texts in seen] == [1] * len(seen)
    assert await room.found(owner, "dogs") == [f"version {versions - 1} of dogs."]
