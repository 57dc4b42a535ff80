"""gRPC translation of generation and models."""

from collections.abc import AsyncIterator

from parley.inference.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    provider_service_pb2,
    provider_service_pb2_grpc,
)
from services.inference import wire
from services.inference.generation import Generator
from services.inference.merging import merging
from services.inference.routing import Router
from services.inference.standing.report import Reports
from services.inference.wire import providers
from services.mesh.rpc import RpcContext


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Serves parley.inference.v1.GenerationService.

    Args:
        generator: makes the answers.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def Generate(
        self, request: generation_service_pb2.GenerateRequest, context: RpcContext
    ) -> generation_service_pb2.GenerateResponse:
        """See the contract."""
        answer = await self._generator.answer(wire.generation(request))
        return generation_service_pb2.GenerateResponse(answer=wire.to_answer(answer))

    async def StreamGenerate(
        self, request: generation_service_pb2.StreamGenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_service_pb2.StreamGenerateResponse]:
        """See the contract."""
        async with merging(self._generator.stream(wire.generation(request))) as batches:
            async for events in batches:
                yield wire.to_events(events)

    async def CountTokens(
        self, request: generation_service_pb2.CountTokensRequest, context: RpcContext
    ) -> generation_service_pb2.CountTokensResponse:
        """See the contract."""
        count = self._generator.count_tokens(request.model, wire.prompt(request.prompt))
        return generation_service_pb2.CountTokensResponse(input_tokens=count.input_tokens, estimated=count.is_estimated)


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Serves parley.inference.v1.ModelService.

    Args:
        router: knows the models.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: RpcContext
    ) -> model_service_pb2.ListModelsResponse:
        """See the contract."""
        return model_service_pb2.ListModelsResponse(
            models=[wire.to_model(listing) for listing in self._router.listings()]
        )

    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: RpcContext
    ) -> model_service_pb2.GetModelResponse:
        """See the contract."""
        return model_service_pb2.GetModelResponse(model=wire.to_model(self._router.listing(request.model)))


class ProviderServicer(provider_service_pb2_grpc.ProviderServiceServicer):
    """Serves parley.inference.v1.ProviderService.

    Args:
        reports: tell how providers stand.
    """

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    async def ListProviders(
        self, request: provider_service_pb2.ListProvidersRequest, context: RpcContext
    ) -> provider_service_pb2.ListProvidersResponse:
        """See the contract."""
        found = [providers.to_provider(report) for report in self._reports.providers()]
        return provider_service_pb2.ListProvidersResponse(providers=found)
