"""Prompts in the memory of replicas: news travels, warm references cost nothing, and what is known serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.inference.prompts.examples import Examples
from services.inference.prompts.library import Library
from services.inference.prompts.lookup import PromptBook
from services.inference.prompts.model import LATEST, NamedPrompt, Revision
from services.inference.prompts.reference import PromptReference
from services.inference.prompts.store import AliasMove
from services.inference.prompts.store_memory import MemoryPrompts
from services.mesh.errors import NotFound, Unavailable
from services.mesh.tasks import Loop, supervised
from services.mesh.valkey import open_valkey
from tests.support.money import valkey_settings
from tests.support.prompts import NOON, ORGANIZATION, OTHER_ORGANIZATION, draft, prompt, reference
from tests.support.waiting import until


class Counting(MemoryPrompts):
    """Counts what is read, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.is_away = False

    def _read(self) -> None:
        self.reads += 1
        if self.is_away:
            raise Unavailable

    async def find(self, organization_id: str, handle: str) -> NamedPrompt | None:
        self._read()
        return await super().find(organization_id, handle)

    async def revision(self, organization_id: str, prompt_id: str, number: int) -> Revision | None:
        self._read()
        return await super().revision(organization_id, prompt_id, number)


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
async def books(store: Counting, valkey_url: str) -> AsyncIterator[list[PromptBook]]:
    """Two replicas that have heard from each other."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            client = await stack.enter_async_context(open_valkey(valkey_settings(valkey_url), application="tests"))
            made.append(PromptBook(store, client))
        loops = tuple(Loop(f"prompts {number}", book.listen) for number, book in enumerate(made))
        await stack.enter_async_context(supervised(loops, drain_s=1))
        await until(lambda: all(book.is_subscribed for book in made), within_s=100)
        yield made


@pytest.fixture
async def made(store: Counting) -> NamedPrompt:
    """A prompt of two revisions, of which the first is in production."""
    kept = await store.create(prompt(), draft("Old."), None)
    await store.add_revision(ORGANIZATION, kept.id, draft("New."), None)
    changed = await moved(store, kept, 1)
    store.reads = 0
    return changed


async def leads(book: PromptBook, named: PromptReference) -> bool:
    try:
        await book.find(ORGANIZATION, named)
    except NotFound:
        return False
    return True


async def moved(store: Counting, kept: NamedPrompt, revision: int) -> NamedPrompt:
    move = AliasMove(alias="production", revision=revision, expected=None, at=NOON)
    changed = await store.move_alias(ORGANIZATION, kept.id, move)
    assert changed is not None
    return changed


async def test_reference_leads_to_its_revision(books: list[PromptBook], made: NamedPrompt) -> None:
    for named, number in (
        (reference(), 1),
        (reference(made.id), 1),
        (reference(alias="production"), 1),
        (reference(alias=LATEST), 2),
        (reference(revision=2), 2),
    ):
        assert (await books[0].find(ORGANIZATION, named)).number == number


@pytest.mark.usefixtures("made")
async def test_warm_reference_reads_nothing(books: list[PromptBook], store: Counting) -> None:
    for _ in range(5):
        await books[0].find(ORGANIZATION, reference())
    assert store.reads == 2


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("organization_id", "named", "resource"),
    [
        (ORGANIZATION, reference("other"), "prompt"),
        (ORGANIZATION, reference("No Name"), "prompt"),
        (OTHER_ORGANIZATION, reference(), "prompt"),
        (ORGANIZATION, reference(alias="staging"), "prompt_alias"),
        (ORGANIZATION, reference(revision=3), "prompt_revision"),
    ],
)
async def test_reference_that_leads_nowhere_says_where_it_ends(
    books: list[PromptBook], organization_id: str, named: PromptReference, resource: str
) -> None:
    with pytest.raises(NotFound) as refused:
        await books[0].find(organization_id, named)
    assert refused.value.metadata == {"resource": resource}


async def test_id_of_another_organization_is_not_found(books: list[PromptBook], made: NamedPrompt) -> None:
    await books[0].find(ORGANIZATION, reference(made.id))
    with pytest.raises(NotFound):
        await books[0].find(OTHER_ORGANIZATION, reference(made.id, revision=1))


async def test_deleted_prompt_is_used_no_more(books: list[PromptBook], store: Counting, made: NamedPrompt) -> None:
    await books[0].find(ORGANIZATION, reference(made.id))
    await store.delete(ORGANIZATION, made.id, NOON)
    await books[0].changed(made)
    with pytest.raises(NotFound):
        await books[0].find(ORGANIZATION, reference(made.id, revision=1))
    assert (await books[0].revision(made, 1)).number == 1


async def test_replica_hears_where_another_one_moved_an_alias(
    books: list[PromptBook], store: Counting, made: NamedPrompt
) -> None:
    for handle in (made.id, made.name):
        assert (await books[1].find(ORGANIZATION, reference(handle))).number == 1
    await books[0].changed(await moved(store, made, 2))
    async with asyncio.timeout(100):
        for handle in (made.id, made.name):
            while (await books[1].find(ORGANIZATION, reference(handle))).number != 2:  # noqa: ASYNC110 - the news sets no event of ours
                await asyncio.sleep(0.02)


async def test_replica_hears_of_a_new_name(books: list[PromptBook], store: Counting, made: NamedPrompt) -> None:
    library = Library(store, books[0], Examples(store, None))
    for book in books:
        assert (await book.find(ORGANIZATION, reference())).number == 1
    await library.change(ORGANIZATION, made.id, name="helpdesk", description=None)
    for book in books:
        async with asyncio.timeout(100):
            while await leads(book, reference()):  # noqa: ASYNC110 - the news sets no event of ours
                await asyncio.sleep(0.02)
        assert await leads(book, reference("helpdesk"))
        assert await leads(book, reference(made.id))


async def test_what_is_known_serves_while_the_database_is_away(
    books: list[PromptBook], store: Counting, made: NamedPrompt
) -> None:
    await books[0].find(ORGANIZATION, reference())
    store.is_away = True
    await books[0]._prompts.invalidate(f"{ORGANIZATION}/{made.name}")
    assert (await books[0].find(ORGANIZATION, reference())).number == 1
    with pytest.raises(Unavailable):
        await books[0].find(ORGANIZATION, reference(made.id))
    with pytest.raises(Unavailable):
        await books[0].find(ORGANIZATION, reference(revision=2))
