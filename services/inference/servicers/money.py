"""Budgets, alerts and usage."""

from dataclasses import replace

from parley.inference.v1 import (
    budget_service_pb2,
    budget_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)
from services.inference.money.budgets import Budgets
from services.inference.money.model import UsageQuery
from services.inference.money.usage import UsageReports
from services.inference.wire import money
from services.mesh.pages import next_page_token, parse_page
from services.mesh.rpc import RpcContext, principal


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
