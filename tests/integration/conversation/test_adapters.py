"""Adapters on the real thing: peers over gRPC, a Valkey that is wiped, a schema that is migrated."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import grpc.aio
import pytest

from dev.valkey import Server
from parley.inference.v1 import generation_pb2
from services.conversation import clients
from services.conversation.app import MIGRATIONS
from services.conversation.events import PartStarted, ProviderSwitched, TurnEvent
from services.conversation.journal.port import Batch
from services.conversation.journal.valkey import ValkeyJournal
from services.conversation.model import ConversationId, Example, GenerationParameters, RetrievalMode, Role, TurnId
from services.conversation.ports import (
    Generated,
    GeneratedText,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    PromptMessage,
    Question,
)
from services.conversation.queue.valkey import ValkeyQueue
from services.conversation.store.work import TurnRef
from services.conversation.wire.events import EventCodec
from services.mesh import tokens
from services.mesh.client import open_channel
from services.mesh.errors import MeshError, NotFound, Overloaded, RetrievalUnavailable, ScopeMissing, Unavailable
from services.mesh.postgres.migrate import drift
from services.mesh.tokens import WorkloadTokens
from services.mesh.valkey import open_valkey
from tests.support.conversation import ADA, valkey_settings
from tests.support.conversation_fakes import PASSAGE
from tests.support.conversation_peers import WORDS, Peers, serving_peers
from tests.support.valkey import emptied
from tests.support.waiting import until

QUESTION = Question(
    knowledge_base_id="kb_1", query="q", context_queries=("before",), limit=3, mode=RetrievalMode.SELECTIVE
)
REQUEST = GenerationRequest(
    model="a/b",
    system="Be brief",
    examples=(Example("q", "a"),),
    messages=(PromptMessage(Role.USER, "q"),),
    passages=(PASSAGE,),
    parameters=GenerationParameters(temperature=0.5, stop=("x",)),
)


@dataclass(slots=True)
class Adapters:
    retrieval: clients.RetrievalClient
    inference: clients.InferenceClient
    knowledge_bases: clients.KnowledgeBaseClient
    prompts: clients.PromptClient
    impatient: clients.InferenceClient
    """Takes half a second of silence for the end; only for answers that are silent, since a busy machine is, too."""


@pytest.fixture
async def adapters(peers: Peers) -> AsyncIterator[Adapters]:
    async with AsyncExitStack() as stack:
        contracts = [tokens.CONTRACT, clients.RETRIEVAL, clients.KNOWLEDGE_BASES, clients.INFERENCE, clients.PROMPTS]
        channel = await stack.enter_async_context(open_channel(peers.target, contracts))
        workload = WorkloadTokens(channel, workload="conversation", secret="a-secret-of-sixteen")
        yield Adapters(
            clients.RetrievalClient(channel, workload, timeout_s=10.0),
            clients.InferenceClient(channel, workload, silence_s_max=120.0),
            clients.KnowledgeBaseClient(channel, workload),
            clients.PromptClient(channel, workload),
            clients.InferenceClient(channel, workload, silence_s_max=0.5),
        )


async def test_a_search_brings_passages_with_their_place(adapters: Adapters, peers: Peers) -> None:
    evidence = await adapters.retrieval.search(ADA, QUESTION)

    (request,) = peers.search.requests
    assert evidence.passages == (replace(PASSAGE, score=evidence.passages[0].score),)
    assert (request.query, list(request.context_queries), request.limit) == ("q", ["before"], 3)


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (NotFound.of("knowledge_base"), NotFound),
        (Overloaded(), RetrievalUnavailable),
        (Unavailable(), RetrievalUnavailable),
        (ScopeMissing(), ScopeMissing),
    ],
)
async def test_a_failed_search_says_what_is_wrong(
    adapters: Adapters, peers: Peers, said: MeshError, understood: type[MeshError]
) -> None:
    peers.search.failure = said

    with pytest.raises(understood):
        await adapters.retrieval.search(ADA, QUESTION)


async def test_a_knowledge_base_is_asked_for_on_behalf_of_the_user(adapters: Adapters, peers: Peers) -> None:
    await adapters.knowledge_bases.require(ADA, "kb_1")

    peers.knowledge.failure = NotFound.of("knowledge_base")
    with pytest.raises(NotFound):
        await adapters.knowledge_bases.require(ADA, "kb_1")


async def test_the_credential_that_asked_pays_for_the_answer_and_not_for_the_search(
    adapters: Adapters, peers: Peers
) -> None:
    request = replace(REQUEST, credential_id="key_1", is_repeat=True)
    await adapters.retrieval.search(ADA, QUESTION)
    async with adapters.inference.generate(ADA, request) as batches:
        assert [batch async for batch in batches]

    assert peers.auth.credentials == ["", "key_1"]
    assert [asked.is_repeat for asked in peers.generation.requests] == [True]


async def test_an_answer_that_shall_be_made_anew_is_not_taken_from_the_cache(adapters: Adapters, peers: Peers) -> None:
    for is_anew in (False, True):
        async with adapters.inference.generate(ADA, replace(REQUEST, is_anew=is_anew)) as batches:
            assert [batch async for batch in batches]

    assert [asked.cache for asked in peers.generation.requests] == [
        generation_pb2.CACHE_USE_UNSPECIFIED,
        generation_pb2.CACHE_USE_REFRESH,
    ]


async def steps(inference: clients.InferenceClient) -> list[Generated]:
    async with inference.generate(ADA, REQUEST) as batches:
        return [step async for batch in batches for step in batch]


async def test_an_answer_comes_in_steps(adapters: Adapters) -> None:
    found = await steps(adapters.inference)

    assert isinstance(found[0], GenerationStarted)
    assert "".join(step.text for step in found if isinstance(step, GeneratedText)) == "".join(WORDS)
    assert isinstance(found[-1], GenerationFinished)
    assert not [step for step in found if isinstance(step, ProviderSwitched)]


async def test_silence_is_given_up(adapters: Adapters, peers: Peers) -> None:
    peers.generation.hold_before = 2

    async with asyncio.timeout(100):
        with pytest.raises(Unavailable):
            await steps(adapters.impatient)


async def test_inference_is_away_from_its_end_to_its_return() -> None:
    async with AsyncExitStack() as stack:
        async with serving_peers() as peers:
            channel = await stack.enter_async_context(open_channel(peers.target, [tokens.CONTRACT, clients.INFERENCE]))
            workload = WorkloadTokens(channel, workload="conversation", secret="a-secret-of-sixteen")
            inference = clients.InferenceClient(channel, workload, silence_s_max=20.0)
            async with inference.generate(ADA, REQUEST) as batches:
                assert [batch async for batch in batches]
            assert not inference.is_away()
        await until(inference.is_away)

        back = grpc.aio.server()
        back.add_insecure_port(peers.target)
        await back.start()
        stack.push_async_callback(back.stop, 0)
        await until(lambda: not inference.is_away())


async def test_a_wipe_changes_the_epoch(valkey_server: Server, valkey_url: str) -> None:
    async with open_valkey(valkey_settings(valkey_url), application="tests") as client:
        journal = ValkeyJournal(client, prefix="test", codec=EventCodec())
        before = await journal.epoch()
        emptied(valkey_server)

        assert await journal.epoch() != before


async def test_a_wiped_queue_works_on(valkey_server: Server, valkey_url: str) -> None:
    ref = TurnRef("org_acme", ConversationId("conv_1"), TurnId("turn_1"))
    async with open_valkey(valkey_settings(valkey_url), application="tests") as client:
        queue = ValkeyQueue(client, client, prefix="test")
        await queue.publish([ref])
        received = await queue.receive(count_max=1, wait_s=0.5)
        emptied(valkey_server)
        await queue.acknowledge(received)
        await queue.publish([ref])

        assert [delivery.ref for delivery in await queue.receive(count_max=1, wait_s=0.5)] == [ref]


async def test_a_valkey_that_is_away_is_unavailable() -> None:
    async with open_valkey(valkey_settings("redis://127.0.0.1:1"), application="tests") as client:
        journal = ValkeyJournal(client, prefix="test", codec=EventCodec())
        queue = ValkeyQueue(client, client, prefix="test")
        batch = Batch("turn_1", 1, "epoch", (TurnEvent(1, 1, PartStarted("p1")),))
        for attempt in (journal.epoch(), journal.append([batch]), journal.read("t", after=0, limit=1), queue.depth()):
            with pytest.raises(Unavailable):
                await attempt


async def test_the_migrated_schema_is_the_declared_one(migrated_database_url: Callable[..., str]) -> None:
    assert await drift(migrated_database_url("conversation"), MIGRATIONS) == []
