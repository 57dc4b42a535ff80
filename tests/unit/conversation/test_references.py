"""A knowledge base or prompt that is not there is refused when it is named, and in the way of nothing else."""

from dataclasses import replace

import pytest

from services.conversation.asking.references import References
from services.conversation.context import PromptReference
from services.conversation.model import Repeat
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import InvalidArgument, NotFound, Unavailable
from tests.support.conversation import ADA, new_conversation
from tests.support.conversation_fakes import FakeKnowledgeBases, FakePrompts

REPEAT = Repeat(method="CreateConversation", request_id="r1", body_hash=b"one")


@pytest.fixture
def knowledge_bases() -> FakeKnowledgeBases:
    return FakeKnowledgeBases("kb_1")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_known_and_unnamed_knowledge_bases_pass(knowledge_bases: FakeKnowledgeBases, store: MemoryStore) -> None:
    references = References(knowledge_bases, FakePrompts(), store)

    await references.check(ADA, "kb_1")
    await references.check(ADA, "")


async def test_unknown_knowledge_base_is_not_found(knowledge_bases: FakeKnowledgeBases, store: MemoryStore) -> None:
    with pytest.raises(NotFound):
        await References(knowledge_bases, FakePrompts(), store).check(ADA, "kb_2", REPEAT)


async def test_repeat_passes_whatever_was_deleted_since(
    knowledge_bases: FakeKnowledgeBases, store: MemoryStore
) -> None:
    await store.create_conversation(replace(new_conversation(), repeat=REPEAT))

    await References(knowledge_bases, FakePrompts(), store).check(ADA, "kb_2", REPEAT)


async def test_retrieval_that_is_away_holds_nobody_up(knowledge_bases: FakeKnowledgeBases, store: MemoryStore) -> None:
    knowledge_bases.failure = Unavailable()

    await References(knowledge_bases, FakePrompts(), store).check(ADA, "kb_2")


REFERENCE = PromptReference(prompt="support", alias="production")


async def test_known_and_unnamed_prompts_pass(knowledge_bases: FakeKnowledgeBases, store: MemoryStore) -> None:
    prompts = FakePrompts()
    references = References(knowledge_bases, prompts, store)

    await references.check_prompt(ADA, REFERENCE)
    await references.check_prompt(ADA, None)

    assert prompts.asked == [(ADA, REFERENCE)]


@pytest.mark.parametrize("failure", [NotFound.of("prompt"), InvalidArgument("a variable is missing")])
async def test_a_bad_prompt_is_refused_unless_an_earlier_call_took_it(
    knowledge_bases: FakeKnowledgeBases, store: MemoryStore, failure: Exception
) -> None:
    prompts = FakePrompts()
    prompts.failure = failure
    references = References(knowledge_bases, prompts, store)

    with pytest.raises(type(failure)):
        await references.check_prompt(ADA, REFERENCE, REPEAT)
    await store.create_conversation(replace(new_conversation(), repeat=REPEAT))

    await references.check_prompt(ADA, REFERENCE, REPEAT)


async def test_a_prompt_is_taken_as_it_is_while_inference_is_away(
    knowledge_bases: FakeKnowledgeBases, store: MemoryStore
) -> None:
    prompts = FakePrompts()
    prompts.failure = Unavailable()

    await References(knowledge_bases, prompts, store).check_prompt(ADA, REFERENCE)
