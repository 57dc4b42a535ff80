"""Answers, models, providers and the cache."""

from collections.abc import AsyncIterator
from functools import partial

from parley.inference.v1 import (
    cache_service_pb2,
    cache_service_pb2_grpc,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    provider_service_pb2,
    provider_service_pb2_grpc,
)
from services.inference.cache.purging import Purging
from services.inference.generating.answering import Answers
from services.inference.generating.merging import Merging
from services.inference.model import Event, Finished, Started
from services.inference.money.spends import Spends
from services.inference.providers.names import EXTRACTIVE
from services.inference.routing import Router
from services.inference.servicers.prompts import author
from services.inference.standing.report import Reports
from services.inference.wire import answers as wire_answers
from services.inference.wire import models as wire_models
from services.inference.wire import money, providers, wishes
from services.mesh.rpc import RpcContext, principal, told


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Serves parley.inference.v1.GenerationService.

    Args:
        answers: makes them.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def Generate(
        self, request: generation_service_pb2.GenerateRequest, context: RpcContext
    ) -> generation_service_pb2.GenerateResponse:
        """See the contract."""
        answer = await self._answers.answer(wishes.generation(request), money.payer(principal(), request))
        return generation_service_pb2.GenerateResponse(answer=wire_answers.to_answer(answer))

    async def StreamGenerate(
        self, request: generation_service_pb2.StreamGenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_service_pb2.StreamGenerateResponse]:
        """See the contract."""
        wish, payer = wishes.generation(request), money.payer(principal(), request)
        if request.is_whole:
            yield wire_answers.to_events([Finished(await self._answers.answer(wish, payer))])
            return
        source = self._answers.stream(wish, payer)
        async with Merging(source, waits=partial(_waits, is_deferred=request.defers_started)) as batches:
            async for events in batches:
                if isinstance(events[-1], Finished):
                    told()
                yield wire_answers.to_events(events)

    async def CountTokens(
        self, request: generation_service_pb2.CountTokensRequest, context: RpcContext
    ) -> generation_service_pb2.CountTokensResponse:
        """See the contract."""
        count = await self._answers.count_tokens(wishes.counted(request), author())
        return generation_service_pb2.CountTokensResponse(input_tokens=count.input_tokens, estimated=count.is_estimated)


def _waits(event: Event, *, is_deferred: bool) -> bool:
    """Whether an event does not travel alone: a beginning that nobody shows, or whose text is there soon.

    Where an answer comes from that was not made for its call is told at once: it goes into the head of the answer.
    """
    return isinstance(event, Started) and event.cache is None and (is_deferred or event.model == EXTRACTIVE)


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
            models=[wire_models.to_model(listing) for listing in self._router.listings()]
        )

    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: RpcContext
    ) -> model_service_pb2.GetModelResponse:
        """See the contract."""
        return model_service_pb2.GetModelResponse(model=wire_models.to_model(self._router.listing(request.model)))


class ProviderServicer(provider_service_pb2_grpc.ProviderServiceServicer):
    """Serves parley.inference.v1.ProviderService.

    Args:
        reports: tell how providers stand.
        spends: tell what organizations spend there; None where nobody counts.
    """

    def __init__(self, reports: Reports, spends: Spends | None = None) -> None:
        self._reports = reports
        self._spends = spends

    async def ListProviders(
        self, request: provider_service_pb2.ListProvidersRequest, context: RpcContext
    ) -> provider_service_pb2.ListProvidersResponse:
        """See the contract."""
        spent = [] if self._spends is None else await self._spends.of(principal().organization_id)
        found = [providers.to_provider(report, spent) for report in self._reports.providers()]
        return provider_service_pb2.ListProvidersResponse(providers=found)


class CacheServicer(cache_service_pb2_grpc.CacheServiceServicer):
    """Serves parley.inference.v1.CacheService for the caller's organization.

    Args:
        purging: makes stored answers void.
    """

    def __init__(self, purging: Purging) -> None:
        self._purging = purging

    async def PurgeCache(
        self, request: cache_service_pb2.PurgeCacheRequest, context: RpcContext
    ) -> cache_service_pb2.PurgeCacheResponse:
        """See the contract."""
        await self._purging.purge(principal().organization_id, request.model)
        return cache_service_pb2.PurgeCacheResponse()
