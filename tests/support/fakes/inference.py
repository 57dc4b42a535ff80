"""A stand-in for inference, for tests of the edge: an echo in capitals, and two models."""

# ruff: noqa: N802 - gRPC names methods after RPCs.

from collections.abc import AsyncIterator
from typing import Final

from parley.common.v1 import usage_pb2
from parley.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc
from parley.inference.v1 import model_service_pb2 as models_pb
from parley.inference.v1.model_service_pb2_grpc import ModelServiceServicer
from services.mesh.errors import MeshError, NotFound
from services.mesh.rpc import RpcContext
from tests.support.fakes.serving import serving


@serving(generation_service_pb2_grpc.GenerationServiceServicer)
class FakeGenerations:
    """Answers with the last message, in capitals, word by word.

    Attributes:
        failure: ends the stream after the first word.
        refusal: is the answer, before anything is said.
        counted: what tokens were counted of; there are always nine.
        cache: says that answers were not made for their calls.
    """

    def __init__(self) -> None:
        self.requests: list[generation_service_pb2.StreamGenerateRequest] = []
        self.counted: list[generation_service_pb2.CountTokensRequest] = []
        self.failure: MeshError | None = None
        self.refusal: MeshError | None = None
        self.cache: generation_pb2.CacheHit | None = None

    async def CountTokens(
        self, request: generation_service_pb2.CountTokensRequest, context: RpcContext
    ) -> generation_service_pb2.CountTokensResponse:
        self.counted.append(request)
        return generation_service_pb2.CountTokensResponse(input_tokens=9, estimated=True)

    async def StreamGenerate(
        self, request: generation_service_pb2.StreamGenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_service_pb2.StreamGenerateResponse]:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        text = request.prompt.messages[-1].text.upper()
        first, _, rest = text.partition(" ")
        started = generation_service_pb2.Started(model="fake/one", cache=self.cache)
        if not request.is_whole:
            yield _generated(generation_service_pb2.GenerateEvent(started=started))
            yield _generated(_text(0, first))
        if self.failure is not None:
            raise self.failure
        answer = generation_pb2.Answer(
            text=text,
            finish_reason=generation_pb2.FINISH_REASON_LENGTH,
            model="fake/one",
            usage=usage_pb2.Usage(input_tokens=3, output_tokens=2),
            cache=self.cache,
        )
        end = generation_service_pb2.GenerateEvent(finished=generation_service_pb2.Finished(answer=answer))
        yield _generated(end) if request.is_whole else _generated(_text(len(first), " " + rest), end)


def _text(offset: int, text: str) -> generation_service_pb2.GenerateEvent:
    return generation_service_pb2.GenerateEvent(text=generation_service_pb2.TextDelta(offset=offset, text=text))


def _generated(*events: generation_service_pb2.GenerateEvent) -> generation_service_pb2.StreamGenerateResponse:
    return generation_service_pb2.StreamGenerateResponse(events=events)


@serving(ModelServiceServicer)
class FakeModels:
    """Knows two models."""

    known: Final = (
        models_pb.Model(name="extractive", display_name="Extractive", context_tokens=8192, is_default=True),
        models_pb.Model(name="openai/gpt-test", display_name="GPT Test", input_price_micros=2),
    )

    async def ListModels(
        self, request: models_pb.ListModelsRequest, context: RpcContext
    ) -> models_pb.ListModelsResponse:
        return models_pb.ListModelsResponse(models=self.known)

    async def GetModel(self, request: models_pb.GetModelRequest, context: RpcContext) -> models_pb.GetModelResponse:
        for model in self.known:
            if model.name == request.model:
                return models_pb.GetModelResponse(model=model)
        raise NotFound.of("model")
