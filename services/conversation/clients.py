"""Retrieval and inference over gRPC, on behalf of the user whose turn it is."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import grpc.aio

from parley.inference.v1 import (
    budget_pb2,
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
from services.conversation.context import PromptReference
from services.conversation.events import ProviderSwitched
from services.conversation.model import (
    FinishReason,
    GenerationParameters,
    Owner,
    RetrievalDecision,
    RetrievalMode,
    Role,
)
from services.conversation.ports import (
    Evidence,
    Generated,
    GeneratedCitation,
    GeneratedText,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    Passage,
    Purpose,
    Question,
    WholeText,
)
from services.conversation.wire.context import context_told, reference_to_inference
from services.conversation.wire.resources import usage_of
from services.mesh.client import streaming, unary
from services.mesh.errors import (
    Cancelled,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    RetrievalUnavailable,
    Unavailable,
    invalid_field,
)
from services.mesh.tokens import OnBehalfOf, WorkloadTokens

RETRIEVAL: Final = search_service_pb2.DESCRIPTOR
KNOWLEDGE_BASES: Final = knowledge_base_service_pb2.DESCRIPTOR
INFERENCE: Final = generation_service_pb2.DESCRIPTOR
PROMPTS: Final = prompt_service_pb2.DESCRIPTOR

REFERENCE_S_MAX: Final = 2.0
"""How long a call waits for another service's word on what it names."""

_MODES: Final[Mapping[RetrievalMode, "search_service_pb2.SearchMode.ValueType"]] = MappingProxyType(
    {
        RetrievalMode.ALWAYS: search_service_pb2.SEARCH_MODE_ALWAYS,
        RetrievalMode.SELECTIVE: search_service_pb2.SEARCH_MODE_SELECTIVE,
        RetrievalMode.NEVER: search_service_pb2.SEARCH_MODE_NEVER,
    }
)
_DECISIONS: Final[Mapping["search_service_pb2.SearchDecision.ValueType", RetrievalDecision]] = MappingProxyType(
    {
        search_service_pb2.SEARCH_DECISION_RETRIEVED: RetrievalDecision.RETRIEVED,
        search_service_pb2.SEARCH_DECISION_WEAK: RetrievalDecision.WEAK,
        search_service_pb2.SEARCH_DECISION_SKIPPED: RetrievalDecision.SKIPPED,
    }
)
_ROLES: Final[Mapping[Role, "generation_pb2.Role.ValueType"]] = MappingProxyType(
    {Role.USER: generation_pb2.ROLE_USER, Role.ASSISTANT: generation_pb2.ROLE_ASSISTANT}
)
_FINISH_REASONS: Final[Mapping["generation_pb2.FinishReason.ValueType", FinishReason]] = MappingProxyType(
    {
        generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
        generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
        generation_pb2.FINISH_REASON_CONTENT_FILTER: FinishReason.CONTENT_FILTER,
        generation_pb2.FINISH_REASON_NO_EVIDENCE: FinishReason.NO_EVIDENCE,
    }
)

_PURPOSES: Final[Mapping[Purpose, "budget_pb2.Purpose.ValueType"]] = MappingProxyType(
    {Purpose.ANSWER: budget_pb2.PURPOSE_ANSWER, Purpose.SUMMARY: budget_pb2.PURPOSE_SUMMARY}
)


class RetrievalClient:
    """See `services.conversation.ports.Retrieval`.

    Args:
        channel: to retrieval.
        tokens: of this workload.
        timeout_s: of a search; a restart of retrieval is waited for that long.
    """

    def __init__(self, channel: grpc.aio.Channel, tokens: WorkloadTokens, *, timeout_s: float) -> None:
        self._stub = search_service_pb2_grpc.SearchServiceStub(channel)
        self._tokens = tokens
        self._timeout_s = timeout_s

    async def search(self, owner: Owner, question: Question) -> Evidence:
        """See `Retrieval.search`."""
        request = search_service_pb2.SearchRequest(
            knowledge_base_id=question.knowledge_base_id,
            query=question.query,
            context_queries=question.context_queries,
            limit=question.limit,
            mode=_MODES[question.mode],
        )
        metadata = await self._tokens.metadata("retrieval", _on_behalf_of(owner))
        try:
            response = await unary(
                self._stub.Search(request, metadata=metadata, timeout=self._timeout_s, wait_for_ready=True)
            )
        except NotFound as error:
            raise NotFound.of("knowledge_base") from error
        except (Unavailable, Overloaded, DeadlineExceeded, Cancelled) as error:
            raise RetrievalUnavailable("the knowledge base cannot be searched now", retry_after_s=1.0) from error
        return Evidence(
            decision=_DECISIONS.get(response.decision, RetrievalDecision.SKIPPED),
            probability=response.probability,
            passages=tuple(_passage(passage) for passage in response.passages),
        )


class KnowledgeBaseClient:
    """See `services.conversation.ports.KnowledgeBases`."""

    def __init__(self, channel: grpc.aio.Channel, tokens: WorkloadTokens) -> None:
        self._stub = knowledge_base_service_pb2_grpc.KnowledgeBaseServiceStub(channel)
        self._tokens = tokens

    async def require(self, owner: Owner, knowledge_base_id: str) -> None:
        """See `KnowledgeBases.require`."""
        request = knowledge_base_service_pb2.GetKnowledgeBaseRequest(knowledge_base_id=knowledge_base_id)
        metadata = await self._tokens.metadata("retrieval", _on_behalf_of(owner))
        await unary(self._stub.GetKnowledgeBase(request, metadata=metadata, timeout=REFERENCE_S_MAX))


class InferenceClient:
    """See `services.conversation.ports.Inference`.

    Args:
        channel: to inference.
        tokens: of this workload.
        silence_s_max: without any word until the answer is given up.
    """

    def __init__(self, channel: grpc.aio.Channel, tokens: WorkloadTokens, *, silence_s_max: float) -> None:
        self._channel = channel
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        self._tokens = tokens
        self._silence_s_max = silence_s_max

    @asynccontextmanager
    async def generate(
        self, owner: Owner, request: GenerationRequest
    ) -> AsyncIterator[AsyncIterator[Sequence[Generated]]]:
        """See `Inference.generate`."""
        payer = replace(_on_behalf_of(owner), credential_id=request.credential_id)
        metadata = await self._tokens.metadata("inference", payer)
        call = self._stub.StreamGenerate(_request(request), metadata=metadata)
        async with streaming(call) as responses:
            yield _bounded(responses, self._silence_s_max)

    def is_away(self) -> bool:
        """See `Inference.is_away`."""
        return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def write(self, owner: Owner, request: GenerationRequest, *, time_s: float) -> WholeText:
        """See `Writer.write`."""
        payer = replace(_on_behalf_of(owner), credential_id=request.credential_id)
        metadata = await self._tokens.metadata("inference", payer)
        whole = generation_service_pb2.GenerateRequest(
            model=request.model,
            prompt=_prompt(request),
            parameters=_parameters(request.parameters),
            purpose=_PURPOSES[request.purpose],
        )
        answer = (await unary(self._stub.Generate(whole, metadata=metadata, timeout=time_s))).answer
        reason = _FINISH_REASONS.get(answer.finish_reason, FinishReason.STOP)
        return WholeText(text=answer.text, finish_reason=reason, model=answer.model, usage=usage_of(answer.usage))


class PromptClient:
    """See `services.conversation.ports.Prompts`."""

    def __init__(self, channel: grpc.aio.Channel, tokens: WorkloadTokens) -> None:
        self._stub = prompt_service_pb2_grpc.PromptServiceStub(channel)
        self._tokens = tokens

    async def require(self, owner: Owner, reference: PromptReference) -> None:
        """See `Prompts.require`."""
        variables = dict(reference.variables)
        request = prompt_service_pb2.RenderPromptRequest(prompt=reference.prompt, variables=variables)
        if reference.revision:
            request.revision = reference.revision
        elif reference.alias:
            request.alias = reference.alias
        metadata = await self._tokens.metadata("inference", _on_behalf_of(owner))
        rendered = await unary(self._stub.RenderPrompt(request, metadata=metadata, timeout=REFERENCE_S_MAX))
        for problem in rendered.problems:
            raise invalid_field(f"prompt.variables[{problem.variable!r}]", problem.description)


async def _bounded(
    responses: AsyncIterator[generation_service_pb2.StreamGenerateResponse], silence_s_max: float
) -> AsyncIterator[Sequence[Generated]]:
    """The steps of each response; silence and a broken stream alike are Unavailable."""
    iterator = aiter(responses)
    while True:
        try:
            async with asyncio.timeout(silence_s_max):
                response = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Unavailable("inference fell silent") from None
        except Cancelled as error:  # a server that stops ends its calls so; nobody here cancelled this one
            raise Unavailable("inference stopped") from error
        yield [step for event in response.events if (step := _generated(event)) is not None]


def _generated(event: generation_service_pb2.GenerateEvent) -> Generated | None:
    """One step; None for a kind that a newer inference may send."""
    match event.WhichOneof("event"):
        case "text":
            return GeneratedText(event.text.offset, event.text.text)
        case "started":
            started = event.started
            context = context_told(started.context, prompt_revision=started.prompt_revision)
            return GenerationStarted(started.model, context.input_tokens, started.offset, context)
        case "citation":
            cited = event.citation
            return GeneratedCitation(
                passage=cited.passage,
                start=cited.start,
                end=cited.end,
                source_start=cited.source_start,
                source_end=cited.source_end,
            )
        case "provider_switched":
            switched = event.provider_switched
            return ProviderSwitched(switched.from_model, switched.to_model, switched.reason, switched.offset)
        case "finished":
            answer = event.finished.answer
            reason = _FINISH_REASONS.get(answer.finish_reason, FinishReason.STOP)
            context = context_told(answer.context, prompt_revision=answer.prompt_revision)
            return GenerationFinished(reason, answer.model, usage_of(answer.usage), context)
        case _:
            return None


def _request(request: GenerationRequest) -> generation_service_pb2.StreamGenerateRequest:
    return generation_service_pb2.StreamGenerateRequest(
        model=request.model,
        prompt=_prompt(request),
        parameters=_parameters(request.parameters),
        accepts_restart=request.accepts_restart,
        continue_from=request.continue_from,
        is_repeat=request.is_repeat,
        cache=generation_pb2.CACHE_USE_REFRESH if request.is_anew else generation_pb2.CACHE_USE_UNSPECIFIED,
        purpose=_PURPOSES[request.purpose],
        prompt_ref=None if request.prompt is None else reference_to_inference(request.prompt),
    )


def _prompt(request: GenerationRequest) -> generation_pb2.Prompt:
    return generation_pb2.Prompt(
        system=request.system,
        examples=[
            generation_pb2.Example(user=example.user, assistant=example.assistant) for example in request.examples
        ],
        messages=[
            generation_pb2.PromptMessage(role=_ROLES[message.role], text=message.text) for message in request.messages
        ],
        passages=[
            generation_pb2.PromptPassage(title=passage.document_name, text=passage.text) for passage in request.passages
        ],
        summary=request.summary,
        input_tokens_max=request.input_tokens_max,
    )


def _parameters(parameters: GenerationParameters) -> generation_pb2.Parameters:
    return generation_pb2.Parameters(
        temperature=parameters.temperature,
        top_p=parameters.top_p,
        output_tokens_max=parameters.output_tokens_max,
        stop=parameters.stop,
        seed=parameters.seed,
    )


def _passage(passage: knowledge_base_pb2.Passage) -> Passage:
    return Passage(
        chunk_id=passage.chunk_id,
        document_id=passage.document_id,
        document_version=passage.document_version,
        document_name=passage.document_name,
        knowledge_base_id=passage.knowledge_base_id,
        text=passage.text,
        start=passage.start,
        locator=passage.locator,
        score=passage.score,
    )


def _on_behalf_of(owner: Owner) -> OnBehalfOf:
    return OnBehalfOf(organization_id=owner.organization_id, subject_id=owner.user_id)
