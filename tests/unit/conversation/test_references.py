"""A knowledge base that is not there is refused when it is named, and never in the way of anything else."""

from dataclasses import replace

import pytest

from services.conversation.model import Repeat
from services.conversation.references import References
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import NotFound, Unavailable
from tests.support.conversation import ADA, FakeKnowledgeBases, new_conversation

REPEAT = Repeat(method="CreateConversation", request_id="r1", body_hash=b"one")


@pytest.fixture
def knowledge_bases() -> FakeKnowledgeBases:
    return FakeKnowledgeBases("kb_1")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_known_and_unnamed_knowledge_bases_pass(knowledge_bases: FakeKnowledgeBases, store: MemoryStore) -> None:
    references = References(knowledge_bases, store)

    await references.check(ADA, "kb_1")
    await references.check(ADA, "")


async def test_unknown_knowledge_base_is_not_found(knowledge_bases: FakeKnowledgeBases, store: MemoryStore) -> None:
    with pytest.raises(NotFound):
        await References(knowledge_bases, store).check(ADA, "kb_2", REPEAT)


async def test_repeat_passes_whatever_was_deleted_since(
    knowledge_bases: FakeKnowledgeBases, store: MemoryStore
) -> None:
    await store.create_conversation(replace(new_conversation(), repeat=REPEAT))

    await References(knowledge_bases, store).check(ADA, "kb_2", REPEAT)


async def test_retrieval_that_is_away_holds_nobody_up(knowledge_bases: FakeKnowledgeBases, store: MemoryStore) -> None:
    knowledge_bases.failure = Unavailable()

    await References(knowledge_bases, store).check(ADA, "kb_2")
