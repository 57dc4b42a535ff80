import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from services.mesh.clock import ManualClock
from services.mesh.errors import (
    DocumentEncrypted,
    DocumentTooLarge,
    DocumentUnreadable,
    InvalidArgument,
    MeshError,
    NotFound,
    Overloaded,
)
from services.mesh.ids import new_id
from services.retrieval.documents import FILES_IN_HAND_MAX, Documents
from services.retrieval.knowledge import KnowledgeBases
from services.retrieval.model import (
    Claim,
    DocumentFailure,
    DocumentId,
    DocumentState,
    KnowledgeBase,
    KnowledgeBaseId,
    ParsedDocument,
)
from services.retrieval.store import Page
from services.retrieval.store_memory import MemoryStore
from tests.support.retrieval import ACME, ENCODER, NOW, TextParser, embedded, pieces


class _CountingParser(TextParser):
    def __init__(self) -> None:
        self.calls = 0
        self.error: MeshError | None = None

    async def parse(self, content: bytes) -> ParsedDocument:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return await super().parse(content)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def parser() -> _CountingParser:
    return _CountingParser()


@pytest.fixture
def documents(store: MemoryStore, parser: _CountingParser) -> Documents:
    return Documents(store, parser, ManualClock(NOW), file_bytes_max=100)


@pytest.fixture
def knowledge_bases(store: MemoryStore) -> KnowledgeBases:
    return KnowledgeBases(store, ManualClock(NOW), encoder=ENCODER)


@pytest.fixture
async def owner(knowledge_bases: KnowledgeBases) -> KnowledgeBase:
    return await knowledge_bases.create(ACME, display_name="Handbook", description="", request_id="", digest="")


async def test_upload_is_queued(documents: Documents, owner: KnowledgeBase) -> None:
    document = await documents.upload(ACME, owner.id, "notes.txt", pieces(b"Cats sleep.", size=3))

    assert (document.state, document.size_bytes, document.version) == (DocumentState.QUEUED, 11, 1)
    assert (await documents.read(ACME, document.id, version=0, start=0, end=0)).text == "Cats sleep."


async def test_uploads_together_hold_so_many_bytes_and_no_more(documents: Documents, owner: KnowledgeBase) -> None:
    arrived, is_over = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 100
        arrived.release()
        await is_over.wait()

    names = [f"{number}.txt" for number in range(FILES_IN_HAND_MAX)]
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(documents.upload(ACME, owner.id, name, slow()))
        for _ in names:
            await arrived.acquire()
        with pytest.raises(Overloaded) as refused:
            await documents.upload(ACME, owner.id, "late.txt", pieces(b"x"))
        is_over.set()

    assert refused.value.retry_after_s
    assert (await documents.upload(ACME, owner.id, "late.txt", pieces(b"x" * 100))).size_bytes == 100


async def test_same_bytes_are_not_even_parsed(
    documents: Documents, owner: KnowledgeBase, parser: _CountingParser
) -> None:
    first = await documents.upload(ACME, owner.id, "notes.txt", pieces(b"Cats sleep."))

    assert await documents.upload(ACME, owner.id, "notes.txt", pieces(b"Cats sleep.")) == first
    assert parser.calls == 1


@pytest.mark.parametrize(("size", "is_fine"), [(99, True), (100, True), (101, False)])
async def test_limit_of_bytes_is_exact(documents: Documents, owner: KnowledgeBase, size: int, *, is_fine: bool) -> None:
    if is_fine:
        assert (await documents.upload(ACME, owner.id, "n.txt", pieces(b"x" * size))).size_bytes == size
        return
    with pytest.raises(DocumentTooLarge) as refused:
        await documents.upload(ACME, owner.id, "n.txt", pieces(b"x" * size))
    assert refused.value.metadata == {"limit": "100"}
    assert await documents.list(ACME, owner.id, Page(None, 5)) == []


async def test_upload_that_is_too_large_is_not_read_to_its_end(documents: Documents, owner: KnowledgeBase) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 60

    with pytest.raises(DocumentTooLarge):
        await documents.upload(ACME, owner.id, "n.txt", endless())
    assert read == 2


async def test_empty_file_is_unreadable(documents: Documents, owner: KnowledgeBase) -> None:
    with pytest.raises(DocumentUnreadable, match="empty"):
        await documents.upload(ACME, owner.id, "n.txt", pieces(b""))


async def test_refused_file_leaves_nothing(documents: Documents, owner: KnowledgeBase, parser: _CountingParser) -> None:
    parser.error = DocumentEncrypted("needs a password")

    with pytest.raises(DocumentEncrypted):
        await documents.upload(ACME, owner.id, "n.pdf", pieces(b"%PDF"))
    assert await documents.list(ACME, owner.id, Page(None, 5)) == []


async def test_unknown_knowledge_base_is_told_before_the_file_is_read(
    documents: Documents, parser: _CountingParser
) -> None:
    read = False

    async def unread() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield b""

    with pytest.raises(NotFound):
        await documents.upload(ACME, KnowledgeBaseId(new_id("kb")), "n.txt", unread())
    assert not read
    assert parser.calls == 0


@pytest.mark.parametrize("name", ["", " ", "a/b.txt", "a\\b.txt", "x" * 256, "a\nb.txt", "a\x00b"])
async def test_bad_file_names_are_refused(documents: Documents, owner: KnowledgeBase, name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await documents.upload(ACME, owner.id, name, pieces(b"text"))
    assert [violation.field for violation in refused.value.fields] == ["display_name"]


async def test_longest_file_name_is_fine(documents: Documents, owner: KnowledgeBase) -> None:
    assert len((await documents.upload(ACME, owner.id, "é" * 255, pieces(b"text"))).display_name) == 255


@pytest.mark.parametrize(
    ("version", "start", "end", "field_name"),
    [(-1, 0, 0, "document_version"), (0, -1, 0, "start"), (0, 5, 4, "end"), (0, 0, 100_001, "end")],
)
async def test_bad_ranges_are_refused(
    documents: Documents, owner: KnowledgeBase, version: int, start: int, end: int, field_name: str
) -> None:
    document = await documents.upload(ACME, owner.id, "n.txt", pieces(b"text"))

    with pytest.raises(InvalidArgument) as refused:
        await documents.read(ACME, document.id, version=version, start=start, end=end)
    assert [violation.field for violation in refused.value.fields] == [field_name]


async def test_watch_shows_each_state_once_and_ends(
    documents: Documents, owner: KnowledgeBase, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.retrieval.documents._WATCH_POLL_S", 0)
    document = await documents.upload(ACME, owner.id, "n.txt", pieces(b"Cats."))
    states: list[DocumentState] = []
    claims: list[Claim | None] = []

    async for state in documents.watch(ACME, document.id, follow=True):
        states.append(state.state)
        if state.state is DocumentState.QUEUED:
            claims.append(await store.claim(lease="l1", until=NOW + timedelta(minutes=1), now=NOW))
        elif state.state is DocumentState.PROCESSING and (claim := claims[0]):
            await store.publish(claim, embedded(claim.parsed), now=NOW)

    assert states == [DocumentState.QUEUED, DocumentState.PROCESSING, DocumentState.READY]


async def test_watch_ends_at_a_failure(documents: Documents, owner: KnowledgeBase, store: MemoryStore) -> None:
    document = await documents.upload(ACME, owner.id, "n.txt", pieces(b"Cats."))
    claim = await store.claim(lease="l1", until=NOW + timedelta(minutes=1), now=NOW)
    assert claim is not None
    await store.fail(claim, DocumentFailure("INTERNAL", "broken"), now=NOW)

    assert [state.state async for state in documents.watch(ACME, document.id, follow=True)] == [DocumentState.FAILED]


async def test_watch_without_follow_shows_the_present(documents: Documents, owner: KnowledgeBase) -> None:
    document = await documents.upload(ACME, owner.id, "n.txt", pieces(b"Cats."))

    assert [state async for state in documents.watch(ACME, document.id, follow=False)] == [document]


async def test_watch_of_nothing_is_not_found(documents: Documents) -> None:
    with pytest.raises(NotFound):
        await anext(documents.watch(ACME, DocumentId(new_id("doc")), follow=True))


@pytest.mark.parametrize(("length", "is_fine"), [(0, False), (1, True), (100, True), (101, False)])
async def test_limit_of_a_display_name_is_exact(knowledge_bases: KnowledgeBases, length: int, *, is_fine: bool) -> None:
    create = knowledge_bases.create(ACME, display_name="n" * length, description="", request_id="", digest="")
    if is_fine:
        assert len((await create).display_name) == length
        return
    with pytest.raises(InvalidArgument):
        await create


@pytest.mark.parametrize(("length", "is_fine"), [(0, True), (1_000, True), (1_001, False)])
async def test_limit_of_a_description_is_exact(
    knowledge_bases: KnowledgeBases, owner: KnowledgeBase, length: int, *, is_fine: bool
) -> None:
    update = knowledge_bases.update(ACME, owner.id, display_name=None, description="d" * length)
    if is_fine:
        assert len((await update).description) == length
        return
    with pytest.raises(InvalidArgument):
        await update


async def test_requests_without_an_id_are_each_their_own(knowledge_bases: KnowledgeBases) -> None:
    made = [
        await knowledge_bases.create(ACME, display_name=name, description="", request_id="", digest="same")
        for name in ("one", "two")
    ]

    assert {it.id for it in await knowledge_bases.list(ACME, Page(None, 5))} == {it.id for it in made}
