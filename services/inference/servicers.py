"""gRPC translation of generation and models."""

from collections.abc import AsyncIterator
from dataclasses import replace

from parley.inference.v1 import (
    budget_service_pb2,
    budget_service_pb2_grpc,
    cache_service_pb2,
    cache_service_pb2_grpc,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    prompt_service_pb2,
    prompt_service_pb2_grpc,
    provider_service_pb2,
    provider_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)
from services.inference import wire
from services.inference.answering import Answers
from services.inference.cache.purging import Purging
from services.inference.merging import merging
from services.inference.money.budgets import Budgets
from services.inference.money.model import UsageQuery
from services.inference.money.purse import Payer, Purpose
from services.inference.money.spends import Spends
from services.inference.money.usage import UsageReports
from services.inference.prompts.library import Library
from services.inference.prompts.preview import Previews
from services.inference.routing import Router
from services.inference.standing.report import Reports
from services.inference.wire import money, prompts, providers
from services.mesh.pages import next_page_token, parse_page
from services.mesh.rpc import RpcContext, principal


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
        answer = await self._answers.answer(wire.generation(request), money.payer(principal(), request))
        return generation_service_pb2.GenerateResponse(answer=wire.to_answer(answer))

    async def StreamGenerate(
        self, request: generation_service_pb2.StreamGenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_service_pb2.StreamGenerateResponse]:
        """See the contract."""
        payer = money.payer(principal(), request)
        async with merging(self._answers.stream(wire.generation(request), payer)) as batches:
            async for events in batches:
                yield wire.to_events(events)

    async def CountTokens(
        self, request: generation_service_pb2.CountTokensRequest, context: RpcContext
    ) -> generation_service_pb2.CountTokensResponse:
        """See the contract."""
        count = await self._answers.count_tokens(wire.counted(request), _author())
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


class BudgetServicer(budget_service_pb2_grpc.BudgetServiceServicer):
    """Serves parley.inference.v1.BudgetService for the caller's organization.

    Args:
        budgets: keeps them.
    """

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets

    async def ListBudgets(
        self, request: budget_service_pb2.ListBudgetsRequest, context: RpcContext
    ) -> budget_service_pb2.ListBudgetsResponse:
        """See the contract."""
        organization_id = principal().organization_id
        query = ("budgets", organization_id)
        page = parse_page(request.page_size, request.page_token, query=query)
        after = str(page.after[0]) if page.after else ""
        found = await self._budgets.page(organization_id, after=after, limit=page.size + 1)
        shown = found[: page.size]
        token = next_page_token((shown[-1].subject_id,), query=query) if len(found) > page.size else ""
        return budget_service_pb2.ListBudgetsResponse(
            budgets=[money.to_budget(budget) for budget in shown], next_page_token=token
        )

    async def GetBudget(
        self, request: budget_service_pb2.GetBudgetRequest, context: RpcContext
    ) -> budget_service_pb2.GetBudgetResponse:
        """See the contract."""
        budget = await self._budgets.get(principal().organization_id, request.subject)
        return budget_service_pb2.GetBudgetResponse(budget=money.to_budget(budget))

    async def SetBudget(
        self, request: budget_service_pb2.SetBudgetRequest, context: RpcContext
    ) -> budget_service_pb2.SetBudgetResponse:
        """See the contract."""
        limits = money.limits(request.limits)
        budget = await self._budgets.set(principal().organization_id, request.subject, limits)
        return budget_service_pb2.SetBudgetResponse(budget=money.to_budget(budget))

    async def DeleteBudget(
        self, request: budget_service_pb2.DeleteBudgetRequest, context: RpcContext
    ) -> budget_service_pb2.DeleteBudgetResponse:
        """See the contract."""
        await self._budgets.delete(principal().organization_id, request.subject)
        return budget_service_pb2.DeleteBudgetResponse()

    async def ListBudgetAlerts(
        self, request: budget_service_pb2.ListBudgetAlertsRequest, context: RpcContext
    ) -> budget_service_pb2.ListBudgetAlertsResponse:
        """See the contract."""
        organization_id = principal().organization_id
        query = ("budget_alerts", organization_id)
        page = parse_page(request.page_size, request.page_token, query=query)
        before = money.alert_position(page.after)
        found = await self._budgets.alerts(organization_id, before=before, limit=page.size + 1)
        shown = found[: page.size]
        token = next_page_token(money.position_of_alert(shown[-1]), query=query) if len(found) > page.size else ""
        return budget_service_pb2.ListBudgetAlertsResponse(
            alerts=[money.to_alert(alert) for alert in shown], next_page_token=token
        )


class PromptServicer(prompt_service_pb2_grpc.PromptServiceServicer):
    """Serves parley.inference.v1.PromptService for the caller's organization.

    Args:
        library: keeps prompts.
        previews: show what a model would be given.
    """

    def __init__(self, library: Library, previews: Previews) -> None:
        self._library = library
        self._previews = previews

    async def CreatePrompt(
        self, request: prompt_service_pb2.CreatePromptRequest, context: RpcContext
    ) -> prompt_service_pb2.CreatePromptResponse:
        """See the contract."""
        content, repeat = prompts.content(request.content), prompts.repeat(request)
        made = await self._library.create(_author(), request.name, request.description, content, request.note, repeat)
        return prompt_service_pb2.CreatePromptResponse(prompt=prompts.to_prompt(made))

    async def GetPrompt(
        self, request: prompt_service_pb2.GetPromptRequest, context: RpcContext
    ) -> prompt_service_pb2.GetPromptResponse:
        """See the contract."""
        found = await self._library.get(principal().organization_id, request.prompt)
        return prompt_service_pb2.GetPromptResponse(prompt=prompts.to_prompt(found))

    async def ListPrompts(
        self, request: prompt_service_pb2.ListPromptsRequest, context: RpcContext
    ) -> prompt_service_pb2.ListPromptsResponse:
        """See the contract."""
        organization_id = principal().organization_id
        query = ("prompts", organization_id)
        page = parse_page(request.page_size, request.page_token, query=query)
        after = str(page.after[0]) if page.after else ""
        found = await self._library.page(organization_id, after=after, limit=page.size + 1)
        shown = found[: page.size]
        token = next_page_token((shown[-1].name,), query=query) if len(found) > page.size else ""
        return prompt_service_pb2.ListPromptsResponse(
            prompts=[prompts.to_prompt(one) for one in shown], next_page_token=token
        )

    async def UpdatePrompt(
        self, request: prompt_service_pb2.UpdatePromptRequest, context: RpcContext
    ) -> prompt_service_pb2.UpdatePromptResponse:
        """See the contract."""
        name, description = prompts.change(request)
        changed = await self._library.change(
            principal().organization_id, request.prompt, name=name, description=description
        )
        return prompt_service_pb2.UpdatePromptResponse(prompt=prompts.to_prompt(changed))

    async def DeletePrompt(
        self, request: prompt_service_pb2.DeletePromptRequest, context: RpcContext
    ) -> prompt_service_pb2.DeletePromptResponse:
        """See the contract."""
        await self._library.delete(principal().organization_id, request.prompt)
        return prompt_service_pb2.DeletePromptResponse()

    async def CreatePromptRevision(
        self, request: prompt_service_pb2.CreatePromptRevisionRequest, context: RpcContext
    ) -> prompt_service_pb2.CreatePromptRevisionResponse:
        """See the contract."""
        content, repeat = prompts.content(request.content), prompts.repeat(request)
        made = await self._library.add_revision(_author(), request.prompt, content, request.note, repeat)
        return prompt_service_pb2.CreatePromptRevisionResponse(revision=prompts.to_revision(made))

    async def GetPromptRevision(
        self, request: prompt_service_pb2.GetPromptRevisionRequest, context: RpcContext
    ) -> prompt_service_pb2.GetPromptRevisionResponse:
        """See the contract."""
        found = await self._library.revision(principal().organization_id, request.prompt, request.revision)
        return prompt_service_pb2.GetPromptRevisionResponse(revision=prompts.to_revision(found))

    async def ListPromptRevisions(
        self, request: prompt_service_pb2.ListPromptRevisionsRequest, context: RpcContext
    ) -> prompt_service_pb2.ListPromptRevisionsResponse:
        """See the contract."""
        organization_id = principal().organization_id
        query = ("prompt_revisions", organization_id, request.prompt)
        page = parse_page(request.page_size, request.page_token, query=query)
        before = int(page.after[0]) if page.after else None
        found = await self._library.revisions(organization_id, request.prompt, before=before, limit=page.size + 1)
        shown = found[: page.size]
        token = next_page_token((shown[-1].number,), query=query) if len(found) > page.size else ""
        return prompt_service_pb2.ListPromptRevisionsResponse(
            revisions=[prompts.to_revision(one) for one in shown], next_page_token=token
        )

    async def SetPromptAlias(
        self, request: prompt_service_pb2.SetPromptAliasRequest, context: RpcContext
    ) -> prompt_service_pb2.SetPromptAliasResponse:
        """See the contract."""
        changed = await self._library.set_alias(
            principal().organization_id,
            request.prompt,
            request.alias,
            request.revision,
            expected=prompts.expected_revision(request),
        )
        return prompt_service_pb2.SetPromptAliasResponse(prompt=prompts.to_prompt(changed))

    async def DeletePromptAlias(
        self, request: prompt_service_pb2.DeletePromptAliasRequest, context: RpcContext
    ) -> prompt_service_pb2.DeletePromptAliasResponse:
        """See the contract."""
        expected = prompts.expected_revision(request)
        await self._library.delete_alias(principal().organization_id, request.prompt, request.alias, expected=expected)
        return prompt_service_pb2.DeletePromptAliasResponse()

    async def RenderPrompt(
        self, request: prompt_service_pb2.RenderPromptRequest, context: RpcContext
    ) -> prompt_service_pb2.RenderPromptResponse:
        """See the contract."""
        preview = await self._previews.of(
            _author(), prompts.reference_to_render(request), question=request.question, model=request.model
        )
        return prompts.to_preview(preview)


class UsageServicer(usage_service_pb2_grpc.UsageServiceServicer):
    """Serves parley.inference.v1.UsageService.

    Args:
        reports: what was consumed.
    """

    def __init__(self, reports: UsageReports) -> None:
        self._reports = reports

    async def ListUsage(
        self, request: usage_service_pb2.ListUsageRequest, context: RpcContext
    ) -> usage_service_pb2.ListUsageResponse:
        """See the contract."""
        caller = principal()
        query = money.usage_query(caller.organization_id, request, self._reports.days)
        rows, token = await self._page(replace(query, user_id=caller.subject_id), request)
        return usage_service_pb2.ListUsageResponse(rows=rows, next_page_token=token)

    async def ListOrganizationUsage(
        self, request: usage_service_pb2.ListOrganizationUsageRequest, context: RpcContext
    ) -> usage_service_pb2.ListOrganizationUsageResponse:
        """See the contract."""
        query = money.usage_query(principal().organization_id, request, self._reports.days)
        rows, token = await self._page(replace(query, user_id=request.user or None), request)
        return usage_service_pb2.ListOrganizationUsageResponse(rows=rows, next_page_token=token)

    async def _page(
        self, query: UsageQuery, request: money.UsageRequest
    ) -> tuple[list[usage_service_pb2.UsageRow], str]:
        key = money.query_key(query)
        page = parse_page(request.page_size, request.page_token, query=key)
        found = await self._reports.page(query, after=money.usage_position(page.after), limit=page.size + 1)
        shown = found[: page.size]
        token = next_page_token(money.position_of_usage(shown[-1]), query=key) if len(found) > page.size else ""
        return [money.to_usage(row) for row in shown], token


def _author() -> Payer:
    """Whose prompts they are, and in whose name examples are embedded where nothing is generated."""
    caller = principal()
    return Payer(
        organization_id=caller.organization_id,
        user_id=caller.subject_id,
        credential_id=caller.credential_id,
        purpose=Purpose.EMBEDDING,
    )


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
