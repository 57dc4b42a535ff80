"""Budgets, alerts, usage and payers between the contract and the model."""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Final

from parley.inference.v1 import budget_pb2, generation_service_pb2, usage_service_pb2
from services.inference.money.model import (
    Alert,
    Budget,
    Dimension,
    Limits,
    Period,
    Standing,
    Usage,
    UsageKey,
    UsageQuery,
)
from services.inference.money.purse import Payer, Purpose
from services.inference.store import AlertPosition
from services.mesh.errors import invalid_field
from services.mesh.identity import Principal
from services.mesh.pages import Position

UsageRequest = usage_service_pb2.ListUsageRequest | usage_service_pb2.ListOrganizationUsageRequest
Days = Callable[[date | None, date | None], tuple[date, date]]

REPEATERS: Final = frozenset({"conversation"})
"""Workloads that are believed when they say that a request was counted; anybody else would get around limits by it."""
_PURPOSES: Final[Mapping[budget_pb2.Purpose.ValueType, Purpose]] = {
    budget_pb2.PURPOSE_ANSWER: Purpose.ANSWER,
    budget_pb2.PURPOSE_REWRITE: Purpose.REWRITE,
    budget_pb2.PURPOSE_SUMMARY: Purpose.SUMMARY,
    budget_pb2.PURPOSE_EVALUATION: Purpose.EVALUATION,
    budget_pb2.PURPOSE_EMBEDDING: Purpose.EMBEDDING,
}
_PURPOSE_NUMBERS: Final = {purpose.value: number for number, purpose in _PURPOSES.items()}
_PERIODS: Final[Mapping[budget_pb2.BudgetPeriod.ValueType, Period]] = {
    budget_pb2.BUDGET_PERIOD_UNSPECIFIED: Period.DAY,
    budget_pb2.BUDGET_PERIOD_DAY: Period.DAY,
    budget_pb2.BUDGET_PERIOD_MONTH: Period.MONTH,
}
_PERIOD_NUMBERS: Final = {
    Period.DAY: budget_pb2.BUDGET_PERIOD_DAY,
    Period.MONTH: budget_pb2.BUDGET_PERIOD_MONTH,
}
_DIMENSIONS: Final[Mapping[usage_service_pb2.UsageDimension.ValueType, Dimension]] = {
    usage_service_pb2.USAGE_DIMENSION_USER: Dimension.USER,
    usage_service_pb2.USAGE_DIMENSION_API_KEY: Dimension.API_KEY,
    usage_service_pb2.USAGE_DIMENSION_MODEL: Dimension.MODEL,
    usage_service_pb2.USAGE_DIMENSION_PURPOSE: Dimension.PURPOSE,
}


def payer(
    principal: Principal,
    request: generation_service_pb2.GenerateRequest | generation_service_pb2.StreamGenerateRequest,
) -> Payer:
    """Who pays for a call.

    Raises:
        InvalidArgument: the purpose is unknown.
    """
    return Payer(
        organization_id=principal.organization_id,
        user_id=principal.subject_id,
        credential_id=principal.credential_id,
        purpose=purpose_of(request),
        is_repeat=principal.caller in REPEATERS
        and isinstance(request, generation_service_pb2.StreamGenerateRequest)
        and request.is_repeat,
    )


def purpose_of(
    request: generation_service_pb2.GenerateRequest | generation_service_pb2.StreamGenerateRequest,
) -> Purpose:
    """What a call is for.

    Raises:
        InvalidArgument: nobody knows that purpose.
    """
    return _purpose(request.purpose) or Purpose.ANSWER


def limits(message: budget_pb2.BudgetLimits) -> Limits:
    """Limits; what is absent bounds nothing.

    Raises:
        InvalidArgument: a limit is out of bounds.
    """
    return Limits(
        requests_per_minute=message.requests_per_minute if message.HasField("requests_per_minute") else None,
        tokens_per_minute=message.tokens_per_minute if message.HasField("tokens_per_minute") else None,
        cost_nanos_per_day=message.cost_nanos_per_day if message.HasField("cost_nanos_per_day") else None,
        cost_nanos_per_month=message.cost_nanos_per_month if message.HasField("cost_nanos_per_month") else None,
    )


def to_budget(budget: Budget) -> budget_pb2.Budget:
    """A budget and how it stands."""
    bounds = budget.limits
    message = budget_pb2.Budget(
        subject_id=budget.subject_id,
        limits=budget_pb2.BudgetLimits(
            requests_per_minute=bounds.requests_per_minute,
            tokens_per_minute=bounds.tokens_per_minute,
            cost_nanos_per_day=bounds.cost_nanos_per_day,
            cost_nanos_per_month=bounds.cost_nanos_per_month,
        ),
        standings=[_to_standing(standing) for standing in budget.standings],
    )
    message.create_time.FromDatetime(budget.created_at)
    message.update_time.FromDatetime(budget.updated_at)
    return message


def to_alert(alert: Alert) -> budget_pb2.BudgetAlert:
    """An alert."""
    message = budget_pb2.BudgetAlert(
        subject_id=alert.subject_id,
        period=_PERIOD_NUMBERS[alert.period],
        start_date=alert.starts_on.isoformat(),
        percent=alert.percent,
        limit_nanos=alert.limit_nanos,
        spent_nanos=alert.spent_nanos,
    )
    message.create_time.FromDatetime(alert.at)
    return message


def alert_position(position: Position | None) -> AlertPosition | None:
    """Place of the last alert of the page before."""
    match position:
        case (str() as at, str() as subject_id, str() as period, int() as percent):
            return datetime.fromisoformat(at), subject_id, period, percent
        case _:
            return None


def position_of_alert(alert: Alert) -> Position:
    """Place of an alert, as a page token holds it."""
    return alert.at.isoformat(), alert.subject_id, alert.period.value, alert.percent


def usage_query(organization_id: str, request: UsageRequest, days: Days) -> UsageQuery:
    """What is asked for; `user_id` is the servicer's business.

    Raises:
        InvalidArgument: a field is malformed or out of bounds.
    """
    first, last = days(_date("first_date", request.first_date), _date("last_date", request.last_date))
    period = _PERIODS.get(request.period)
    if period is None:
        raise invalid_field("period", "must be day or month")
    purpose = _purpose(request.purpose)
    return UsageQuery(
        organization_id=organization_id,
        period=period,
        first=first,
        last=last,
        group_by=frozenset(_dimension(number) for number in request.group_by),
        api_key_id=request.api_key or None,
        model=request.model or None,
        purpose=purpose,
    )


def query_key(query: UsageQuery) -> tuple[str, ...]:
    """All that a page of usage depends on, for its token."""
    return (
        "usage",
        query.organization_id,
        query.period.value,
        query.first.isoformat(),
        query.last.isoformat(),
        *sorted(dimension.value for dimension in query.group_by),
        *(f"={value}" for value in (query.user_id, query.api_key_id, query.model, query.purpose)),
    )


def usage_position(position: Position | None) -> UsageKey | None:
    """Place of the last row of the page before."""
    match position:
        case (str() as starts_on, str() as user_id, str() as api_key_id, str() as model, str() as purpose):
            return UsageKey(
                starts_on=date.fromisoformat(starts_on),
                user_id=user_id,
                api_key_id=api_key_id,
                model=model,
                purpose=purpose,
            )
        case _:
            return None


def position_of_usage(row: Usage) -> Position:
    """Place of a row, as a page token holds it."""
    key = row.key
    return key.starts_on.isoformat(), key.user_id, key.api_key_id, key.model, key.purpose


def to_usage(row: Usage) -> usage_service_pb2.UsageRow:
    """A row of usage."""
    return usage_service_pb2.UsageRow(
        start_date=row.key.starts_on.isoformat(),
        user_id=row.key.user_id,
        api_key_id=row.key.api_key_id,
        model=row.key.model,
        purpose=_PURPOSE_NUMBERS.get(row.key.purpose, budget_pb2.PURPOSE_UNSPECIFIED),
        call_count=row.calls,
        input_tokens=row.input_tokens,
        cached_input_tokens=row.cached_input_tokens,
        output_tokens=row.output_tokens,
        reasoning_tokens=row.reasoning_tokens,
        cost_nanos=row.cost_nanos,
        unpriced_call_count=row.unpriced_calls,
        estimated_call_count=row.estimated_calls,
    )


def _to_standing(standing: Standing) -> budget_pb2.BudgetStanding:
    message = budget_pb2.BudgetStanding(
        period=_PERIOD_NUMBERS[standing.period],
        start_date=standing.starts_on.isoformat(),
        spent_nanos=standing.spent_nanos,
        reserved_nanos=standing.reserved_nanos,
    )
    message.reset_time.FromDatetime(standing.period.ends_at(standing.starts_on))
    return message


def _date(field: str, text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise invalid_field(field, "must be a day such as 2026-11-01") from None


def _purpose(number: budget_pb2.Purpose.ValueType) -> Purpose | None:
    if number == budget_pb2.PURPOSE_UNSPECIFIED:
        return None
    purpose = _PURPOSES.get(number)
    if purpose is None:
        raise invalid_field("purpose", "must be one of " + ", ".join(Purpose))
    return purpose


def _dimension(number: usage_service_pb2.UsageDimension.ValueType) -> Dimension:
    dimension = _DIMENSIONS.get(number)
    if dimension is None:
        raise invalid_field("group_by", "must be among " + ", ".join(Dimension))
    return dimension
