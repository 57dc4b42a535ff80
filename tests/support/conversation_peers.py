"""The services that conversation calls, on one real gRPC server: real contracts, scripted answers."""

# ruff: noqa: N802 - gRPC names methods after RPCs.

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc.aio

from parley.auth.v1 import token_service_pb2, token_service_pb2_grpc
from parley.common.v1 import usage_pb2
from parley.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    prompt_service_pb2,
    prompt_service_pb2_grpc,
)
from parley.retrieval.v1 import (
    knowledge_base_pb2,
    knowledge_base_service_pb2,
    knowledge_base_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from services.mesh.rpc import RpcContext
from services.mesh.status import to_wire
from tests.support.conversation_fakes import PASSAGE
from tests.support.fakes.serving import serving
from tests.support.tokens import Issuer

WORDS: Final = tuple(f"word{number} " for number in range(30))
SCOPES: Final = ("conversations:read", "conversations:write", "turns:write", "feedback:write", "knowledge:read")


@serving(token_service_pb2_grpc.TokenServiceServicer)
class FakeAuth:
    """Mints what is asked for; `workloads` keeps who asked on whose behalf, `credentials` for which credential."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.workloads: list[tuple[str, str, str]] = []
        self.credentials: list[str] = []

    async def ExchangeToken(
        self, request: token_service_pb2.ExchangeTokenRequest, context: RpcContext
    ) -> token_service_pb2.ExchangeTokenResponse:
        user = request.on_behalf_of
        self.workloads.append((request.workload.name, user.organization_id, user.user_id))
        self.credentials.append(user.credential_id)
        return token_service_pb2.ExchangeTokenResponse(
            tokens=[
                token_service_pb2.InternalToken(
                    audience=audience,
                    token=self._issuer.mint(
                        audience=audience,
                        scopes=("inference:generate",),
                        organization_id=user.organization_id,
                        subject_id=user.user_id,
                    ),
                )
                for audience in request.audiences
            ]
        )

    async def GetJwks(
        self, request: token_service_pb2.GetJwksRequest, context: RpcContext
    ) -> token_service_pb2.GetJwksResponse:
        key = self._issuer.jwk
        shown = token_service_pb2.JsonWebKey(kty="EC", crv="P-256", x=key.x, y=key.y, kid=key.kid, alg="ES256")
        return token_service_pb2.GetJwksResponse(keys=[shown])


@serving(knowledge_base_service_pb2_grpc.KnowledgeBaseServiceServicer)
class FakeKnowledge:
    """Has every knowledge base; `failure` is what it says instead."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    async def GetKnowledgeBase(
        self, request: knowledge_base_service_pb2.GetKnowledgeBaseRequest, context: RpcContext
    ) -> knowledge_base_service_pb2.GetKnowledgeBaseResponse:
        if self.failure is not None:
            await context.abort_with_status(to_wire(self.failure))  # type: ignore[arg-type] # tests set MeshErrors
        found = knowledge_base_pb2.KnowledgeBase(id=request.knowledge_base_id)
        return knowledge_base_service_pb2.GetKnowledgeBaseResponse(knowledge_base=found)


@serving(search_service_pb2_grpc.SearchServiceServicer)
class FakeSearch:
    """Finds one passage; `failure` is what it says instead."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.requests: list[search_service_pb2.SearchRequest] = []

    async def Search(
        self, request: search_service_pb2.SearchRequest, context: RpcContext
    ) -> search_service_pb2.SearchResponse:
        self.requests.append(request)
        if self.failure is not None:
            await context.abort_with_status(to_wire(self.failure))  # type: ignore[arg-type] # tests set MeshErrors
        found = knowledge_base_pb2.Passage(
            chunk_id=PASSAGE.chunk_id,
            document_id=PASSAGE.document_id,
            document_version=PASSAGE.document_version,
            document_name=PASSAGE.document_name,
            text=PASSAGE.text,
            start=PASSAGE.start,
            end=PASSAGE.start + len(PASSAGE.text),
            locator=PASSAGE.locator,
            score=PASSAGE.score,
            knowledge_base_id=request.knowledge_base_id,
        )
        decision = search_service_pb2.SEARCH_DECISION_RETRIEVED
        return search_service_pb2.SearchResponse(passages=[found], decision=decision, probability=0.9)


@serving(generation_service_pb2_grpc.GenerationServiceServicer)
class FakeGeneration:
    """Answers with `words`, one per message.

    Attributes:
        hold_before: number of words after which the first answer stops until `go_on` is set.
        held: is set when an answer stopped there.
        calls: how many answers were begun.
        requests: what they were.
        told: what answers say at their beginning.
        wholes: requests for whole answers, which `summary` answers.
    """

    def __init__(self) -> None:
        self.words: Sequence[str] = WORDS
        self.hold_before = -1
        self.held = asyncio.Event()
        self.go_on = asyncio.Event()
        self.calls = 0
        self.requests: list[generation_service_pb2.StreamGenerateRequest] = []
        self.told = generation_service_pb2.Started(model="scripted/one")
        self.wholes: list[generation_service_pb2.GenerateRequest] = []
        self.summary = "They spoke."

    async def Generate(
        self, request: generation_service_pb2.GenerateRequest, context: RpcContext
    ) -> generation_service_pb2.GenerateResponse:
        self.wholes.append(request)
        answer = generation_pb2.Answer(
            text=self.summary,
            finish_reason=generation_pb2.FINISH_REASON_STOP,
            model="cheap/one",
            usage=usage_pb2.Usage(input_tokens=9, output_tokens=2),
        )
        return generation_service_pb2.GenerateResponse(answer=answer)

    async def StreamGenerate(
        self, request: generation_service_pb2.StreamGenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_service_pb2.StreamGenerateResponse]:
        self.calls += 1
        self.requests.append(request)
        is_first = self.calls == 1
        yield _response(generation_service_pb2.GenerateEvent(started=self.told))
        offset = 0
        for index, word in enumerate(self.words):
            if is_first and index == self.hold_before:
                self.held.set()
                await self.go_on.wait()
            delta = generation_service_pb2.TextDelta(offset=offset, text=word)
            yield _response(generation_service_pb2.GenerateEvent(text=delta))
            offset += len(word)
        citations = [generation_pb2.PassageCitation(passage=1, start=0, end=5, source_start=0, source_end=12)]
        answer = generation_pb2.Answer(
            text="".join(self.words),
            citations=citations if request.prompt.passages else [],
            finish_reason=generation_pb2.FINISH_REASON_STOP,
            model="scripted/one",
            context=self.told.context,
            prompt_revision=self.told.prompt_revision,
            usage=usage_pb2.Usage(input_tokens=3, output_tokens=len(self.words)),
        )
        yield _response(
            *(generation_service_pb2.GenerateEvent(citation=citation) for citation in answer.citations),
            generation_service_pb2.GenerateEvent(finished=generation_service_pb2.Finished(answer=answer)),
        )


@serving(prompt_service_pb2_grpc.PromptServiceServicer)
class FakePromptService:
    """Has every prompt; `failure` is what it says instead, `problems` what it finds in the variables."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.problems: list[prompt_service_pb2.VariableProblem] = []
        self.requests: list[prompt_service_pb2.RenderPromptRequest] = []

    async def RenderPrompt(
        self, request: prompt_service_pb2.RenderPromptRequest, context: RpcContext
    ) -> prompt_service_pb2.RenderPromptResponse:
        self.requests.append(request)
        if self.failure is not None:
            await context.abort_with_status(to_wire(self.failure))  # type: ignore[arg-type] # tests set MeshErrors
        return prompt_service_pb2.RenderPromptResponse(revision="prm_1/1", problems=self.problems)


@dataclass(slots=True)
class Peers:
    """The peers while they are served at `target`."""

    issuer: Issuer = field(default_factory=Issuer)
    knowledge: FakeKnowledge = field(default_factory=FakeKnowledge)
    search: FakeSearch = field(default_factory=FakeSearch)
    generation: FakeGeneration = field(default_factory=FakeGeneration)
    prompts: FakePromptService = field(default_factory=FakePromptService)
    target: str = ""
    auth: FakeAuth = field(init=False)

    def __post_init__(self) -> None:
        self.auth = FakeAuth(self.issuer)

    def metadata(self, organization_id: str, user_id: str) -> tuple[tuple[str, str], ...]:
        """Metadata of a call to conversation by this user."""
        token = self.issuer.mint(
            audience="conversation", scopes=SCOPES, organization_id=organization_id, subject_id=user_id
        )
        return (("authorization", f"Bearer {token}"),)


@asynccontextmanager
async def serving_peers() -> AsyncIterator[Peers]:
    """All peers on one port."""
    peers = Peers()
    server = grpc.aio.server()
    # `serving` gives the fakes the methods that they lack, which their types do not tell.
    token_service_pb2_grpc.add_TokenServiceServicer_to_server(peers.auth, server)  # type: ignore[arg-type] # see above
    knowledge_base_service_pb2_grpc.add_KnowledgeBaseServiceServicer_to_server(peers.knowledge, server)  # type: ignore[arg-type] # see above
    search_service_pb2_grpc.add_SearchServiceServicer_to_server(peers.search, server)  # type: ignore[arg-type] # see above
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(peers.generation, server)  # type: ignore[arg-type] # see above
    prompt_service_pb2_grpc.add_PromptServiceServicer_to_server(peers.prompts, server)  # type: ignore[arg-type] # see above
    peers.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield peers
    finally:
        peers.generation.go_on.set()
        await server.stop(0)


def _response(*events: generation_service_pb2.GenerateEvent) -> generation_service_pb2.StreamGenerateResponse:
    return generation_service_pb2.StreamGenerateResponse(events=events)
