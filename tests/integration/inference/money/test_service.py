"""Budgets and usage over real gRPC, on the real stores, around real calls to a provider double."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from parley.inference.v1 import (
    budget_pb2,
    budget_service_pb2,
    budget_service_pb2_grpc,
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    provider_service_pb2,
    provider_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)
from services.inference.app import open_money, open_shelf, wire_up
from services.inference.generating.course import Tactics
from services.inference.settings import ServeSettings
from services.mesh.client import open_channel, streaming, unary
from services.mesh.errors import MeshError, Reason
from services.mesh.postgres.database import open_database
from services.mesh.server import running
from services.mesh.tasks import supervised
from services.mesh.valkey import open_valkey
from tests.support.inference import QUESTION
from tests.support.provider_double import Fault, ProviderDouble
from tests.support.tokens import ORGANIZATION, USER, Issuer

API_KEY = "key_01m81yxdt5er79mzf15ea65abm"
OTHER_ORGANIZATION = "org_01m81yxdt5er79mzf15ea65abn"
SCOPES = ("inference:generate", "usage:read", "budgets:read", "budgets:write", "providers:read")
MODEL = "openai/gpt-6.2-sol"
COST_NANOS = 540_000
"""Of an answer of the double: 100 tokens at 2, 20 of them cached at 2, and 30 at 10 dollars per million, in nanos."""


@dataclass(frozen=True, slots=True)
class Client:
    generation: generation_service_pb2_grpc.GenerationServiceStub
    budgets: budget_service_pb2_grpc.BudgetServiceStub
    reports: usage_service_pb2_grpc.UsageServiceStub
    providers: provider_service_pb2_grpc.ProviderServiceStub
    issuer: Issuer
    metadata: tuple[tuple[str, str], ...]

    async def generate(
        self, purpose: budget_pb2.Purpose.ValueType = budget_pb2.PURPOSE_ANSWER
    ) -> generation_pb2.Answer:
        bounds = generation_pb2.Parameters(output_tokens_max=30)
        request = generation_service_pb2.GenerateRequest(
            prompt=prompt(), model=MODEL, parameters=bounds, purpose=purpose
        )
        return (await unary(self.generation.Generate(request, metadata=self.metadata, timeout=60))).answer

    async def limit(self, subject_id: str, limits: budget_pb2.BudgetLimits) -> budget_pb2.Budget:
        request = budget_service_pb2.SetBudgetRequest(subject=subject_id, limits=limits)
        return (await unary(self.budgets.SetBudget(request, metadata=self.metadata, timeout=60))).budget

    async def budget(self, subject_id: str) -> budget_pb2.Budget:
        request = budget_service_pb2.GetBudgetRequest(subject=subject_id)
        return (await unary(self.budgets.GetBudget(request, metadata=self.metadata, timeout=60))).budget

    async def usage(self, *group_by: usage_service_pb2.UsageDimension.ValueType) -> list[usage_service_pb2.UsageRow]:
        request = usage_service_pb2.ListUsageRequest(group_by=group_by)
        return list((await unary(self.reports.ListUsage(request, metadata=self.metadata, timeout=60))).rows)

    async def spent(self, subject_id: str, nanos: int) -> None:
        """Waits until the ledger has it."""
        async with asyncio.timeout(100):
            while [one.spent_nanos for one in (await self.budget(subject_id)).standings] != [nanos, nanos]:  # noqa: ASYNC110 - PostgreSQL sets no event of ours
                await asyncio.sleep(0.02)


def prompt() -> generation_pb2.Prompt:
    return generation_pb2.Prompt(
        messages=[generation_pb2.PromptMessage(role=generation_pb2.ROLE_USER, text=QUESTION)],
    )


@pytest.fixture
async def client(
    migrated_database_url: Callable[..., str], valkey_url: str, double: ProviderDouble
) -> AsyncIterator[Client]:
    issuer = Issuer()
    settings = ServeSettings(
        auth_target="127.0.0.1:1",
        not_serving_pause_s=0,
        database_url=SecretStr(migrated_database_url("inference")),
        valkey_url=SecretStr(valkey_url),
        openai_api_key=SecretStr("sk-test"),
        openai_base_url=double.openai_url,
    )
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, application="tests"))
        valkey = await stack.enter_async_context(open_valkey(settings, application="tests"))
        money = await open_money(settings, database, valkey, stack)
        await stack.enter_async_context(supervised(tuple(money.loops), drain_s=30))
        servicers = wire_up(settings, open_shelf(settings, stack).router, Tactics(), money)
        server = await stack.enter_async_context(
            running(settings, servicers=servicers, verifier=issuer.verifier("inference"))
        )
        contracts = [
            generation_service_pb2.DESCRIPTOR,
            budget_service_pb2.DESCRIPTOR,
            usage_service_pb2.DESCRIPTOR,
            provider_service_pb2.DESCRIPTOR,
        ]
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{server.port}", contracts))
        yield Client(
            generation_service_pb2_grpc.GenerationServiceStub(channel),
            budget_service_pb2_grpc.BudgetServiceStub(channel),
            usage_service_pb2_grpc.UsageServiceStub(channel),
            provider_service_pb2_grpc.ProviderServiceStub(channel),
            issuer,
            issuer.metadata(audience="inference", scopes=SCOPES),
        )


async def refused(call: Awaitable[object]) -> MeshError:
    with pytest.raises(MeshError) as error:
        await call
    return error.value


async def test_call_is_in_the_usage_of_its_user_at_the_vendors_figures(client: Client, double: ProviderDouble) -> None:
    double.pieces = ("Blue.",)
    await client.limit(USER, budget_pb2.BudgetLimits())
    await client.generate()
    await client.generate(budget_pb2.PURPOSE_SUMMARY)
    await client.spent(USER, 2 * COST_NANOS)
    by_purpose = await client.usage(
        usage_service_pb2.USAGE_DIMENSION_PURPOSE,
        usage_service_pb2.USAGE_DIMENSION_MODEL,
        usage_service_pb2.USAGE_DIMENSION_API_KEY,
    )
    today = datetime.now(UTC).date().isoformat()
    assert [(row.purpose, row.start_date, row.model, row.api_key_id) for row in by_purpose] == [
        (budget_pb2.PURPOSE_ANSWER, today, MODEL, API_KEY),
        (budget_pb2.PURPOSE_SUMMARY, today, MODEL, API_KEY),
    ]
    assert {(row.call_count, row.input_tokens, row.output_tokens, row.cost_nanos) for row in by_purpose} == {
        (1, 120, 30, COST_NANOS)
    }


async def test_providers_tell_an_organization_what_it_spends_there_and_nobody_else(client: Client) -> None:
    await client.limit(USER, budget_pb2.BudgetLimits())
    await client.generate()
    await client.spent(USER, COST_NANOS)
    stranger = client.issuer.mint(audience="inference", scopes=SCOPES, organization_id=OTHER_ORGANIZATION)

    async def spends(metadata: tuple[tuple[str, str], ...]) -> dict[str, list[provider_service_pb2.ModelSpend]]:
        request = provider_service_pb2.ListProvidersRequest()
        listed = await unary(client.providers.ListProviders(request, metadata=metadata, timeout=60))
        return {provider.name: list(provider.spends) for provider in listed.providers}

    assert await spends(client.metadata) == {
        "extractive": [],
        "openai": [
            provider_service_pb2.ModelSpend(
                model=MODEL, cost_nanos_today=COST_NANOS, cost_nanos_this_month=COST_NANOS, call_count=1
            )
        ],
    }
    assert (await spends((("authorization", f"Bearer {stranger}"),)))["openai"] == []


async def test_refusal_says_what_is_spent_how_much_and_until_when(client: Client, double: ProviderDouble) -> None:
    await client.limit(ORGANIZATION, budget_pb2.BudgetLimits(cost_nanos_per_month=1_000))
    error = await refused(client.generate())
    assert error.reason is Reason.QUOTA_EXHAUSTED
    assert error.fields[0].field == ORGANIZATION
    assert error.metadata["period"] == "month"
    assert error.metadata["limit_nanos"] == "1000"
    assert error.retry_after_s is not None
    assert error.retry_after_s > 0
    assert double.seen == []


async def test_stream_is_refused_before_it_begins(client: Client) -> None:
    await client.limit(USER, budget_pb2.BudgetLimits(requests_per_minute=0))
    request = generation_service_pb2.StreamGenerateRequest(prompt=prompt(), model=MODEL)
    seen = []
    with pytest.raises(MeshError) as error:
        async with streaming(client.generation.StreamGenerate(request, metadata=client.metadata)) as responses:
            seen.extend([response async for response in responses])
    assert error.value.reason is Reason.RATE_LIMITED
    assert error.value.retry_after_s is not None
    assert seen == []


async def test_replica_heeds_a_budget_that_is_set_and_lifted_through_it(client: Client, double: ProviderDouble) -> None:
    double.pieces = ("Blue.",)
    await client.generate()
    await client.limit(API_KEY, budget_pb2.BudgetLimits(cost_nanos_per_day=0))
    assert (await refused(client.generate())).reason is Reason.QUOTA_EXHAUSTED
    request = budget_service_pb2.DeleteBudgetRequest(subject=API_KEY)
    await unary(client.budgets.DeleteBudget(request, metadata=client.metadata, timeout=60))
    await client.generate()
    assert (await refused(client.budget(API_KEY))).reason is Reason.NOT_FOUND


async def test_alert_is_listed_when_a_budget_is_reached(client: Client, double: ProviderDouble) -> None:
    double.pieces = ("Blue.",)
    await client.limit(USER, budget_pb2.BudgetLimits(cost_nanos_per_month=10**6))
    await client.generate()
    await client.spent(USER, COST_NANOS)
    request = budget_service_pb2.ListBudgetAlertsRequest()
    listed = await unary(client.budgets.ListBudgetAlerts(request, metadata=client.metadata, timeout=60))
    (alert,) = listed.alerts
    assert (alert.subject_id, alert.period, alert.percent) == (USER, budget_pb2.BUDGET_PERIOD_MONTH, 50)
    assert (alert.limit_nanos, alert.spent_nanos) == (10**6, COST_NANOS)


@pytest.mark.parametrize(
    ("subject_id", "reason"),
    [
        (OTHER_ORGANIZATION, Reason.NOT_FOUND),
        ("conv_01m81yxdt5er79mzf15ea65abm", Reason.INVALID_ARGUMENT),
        ("", Reason.INVALID_ARGUMENT),
    ],
)
async def test_budget_is_given_to_subjects_of_the_organization_only(
    client: Client, subject_id: str, reason: Reason
) -> None:
    assert (await refused(client.limit(subject_id, budget_pb2.BudgetLimits()))).reason is reason


async def test_limit_out_of_bounds_is_refused(client: Client) -> None:
    error = await refused(client.limit(USER, budget_pb2.BudgetLimits(tokens_per_minute=-1)))
    assert error.reason is Reason.INVALID_ARGUMENT
    assert error.fields[0].field == "tokens_per_minute"


async def test_budgets_are_listed_in_pages(client: Client) -> None:
    for subject in (USER, API_KEY, ORGANIZATION):
        await client.limit(subject, budget_pb2.BudgetLimits(requests_per_minute=5))
    found: list[str] = []
    token = ""
    while True:
        request = budget_service_pb2.ListBudgetsRequest(page_size=2, page_token=token)
        page = await unary(client.budgets.ListBudgets(request, metadata=client.metadata, timeout=60))
        found += [budget.subject_id for budget in page.budgets]
        token = page.next_page_token
        if not token:
            break
    assert found == [API_KEY, ORGANIZATION, USER]


async def test_budgets_are_for_administrators_and_usage_of_others_too(client: Client) -> None:
    member = client.issuer.metadata(audience="inference", scopes=("usage:read", "inference:generate"))
    listing = budget_service_pb2.ListBudgetsRequest()
    everybody = usage_service_pb2.ListOrganizationUsageRequest()
    setting = budget_service_pb2.SetBudgetRequest(subject=USER)
    for call in (
        client.budgets.ListBudgets(listing, metadata=member, timeout=60),
        client.budgets.SetBudget(setting, metadata=member, timeout=60),
        client.reports.ListOrganizationUsage(everybody, metadata=member, timeout=60),
    ):
        assert (await refused(unary(call))).reason is Reason.SCOPE_MISSING
    own = usage_service_pb2.ListUsageRequest()
    await unary(client.reports.ListUsage(own, metadata=member, timeout=60))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (usage_service_pb2.ListOrganizationUsageRequest(first_date="yesterday"), "first_date"),
        (usage_service_pb2.ListOrganizationUsageRequest(first_date="2026-02-02", last_date="2026-02-01"), "first_date"),
        (usage_service_pb2.ListOrganizationUsageRequest(first_date="2025-01-01", last_date="2026-02-05"), "first_date"),
        (
            usage_service_pb2.ListOrganizationUsageRequest(group_by=[usage_service_pb2.USAGE_DIMENSION_UNSPECIFIED]),
            "group_by",
        ),
        (usage_service_pb2.ListOrganizationUsageRequest(page_token="x"), "page_token"),
    ],
)
async def test_usage_that_cannot_be_asked_for_is_refused(
    client: Client, request_: usage_service_pb2.ListOrganizationUsageRequest, field: str
) -> None:
    call = client.reports.ListOrganizationUsage(request_, metadata=client.metadata, timeout=60)
    error = await refused(unary(call))
    assert error.reason is Reason.INVALID_ARGUMENT
    assert error.fields[0].field == field


async def test_caller_that_leaves_pays_for_what_was_written(client: Client, double: ProviderDouble) -> None:
    double.fault = Fault.STALL
    await client.limit(USER, budget_pb2.BudgetLimits(cost_nanos_per_day=10**12))
    request = generation_service_pb2.StreamGenerateRequest(prompt=prompt(), model=MODEL)
    async with streaming(client.generation.StreamGenerate(request, metadata=client.metadata)) as responses:
        async for response in responses:
            if any(event.WhichOneof("event") == "text" for event in response.events):
                break
    async with asyncio.timeout(100):
        while not (rows := await client.usage()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    assert (rows[0].call_count, rows[0].estimated_call_count) == (1, 1)
    assert rows[0].cost_nanos > 0
