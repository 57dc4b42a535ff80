"""Translates how providers stand."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from parley.inference.v1 import provider_service_pb2
from services.inference.money.spends import ModelSpend
from services.inference.standing.outages import State
from services.inference.standing.report import KeyReport, ProviderReport, TargetReport

_STATES: Final[Mapping[State, provider_service_pb2.CircuitState.ValueType]] = {
    State.CLOSED: provider_service_pb2.CIRCUIT_STATE_CLOSED,
    State.OPEN: provider_service_pb2.CIRCUIT_STATE_OPEN,
    State.HALF_OPEN: provider_service_pb2.CIRCUIT_STATE_HALF_OPEN,
}


def to_provider(report: ProviderReport, spent: Sequence[ModelSpend]) -> provider_service_pb2.Provider:
    """A provider with its keys and targets, and those of the spends that are on its models."""
    return provider_service_pb2.Provider(
        name=report.name,
        keys=[_key(key) for key in report.keys],
        targets=[_target(target) for target in report.targets],
        spends=[_spend(one) for one in spent if one.model.partition("/")[0] == report.name],
    )


def _spend(spend: ModelSpend) -> provider_service_pb2.ModelSpend:
    return provider_service_pb2.ModelSpend(
        model=spend.model,
        cost_nanos_today=spend.today_nanos,
        cost_nanos_this_month=spend.month_nanos,
        call_count=spend.calls,
        unpriced_call_count=spend.unpriced_calls,
    )


def _key(key: KeyReport) -> provider_service_pb2.ProviderKey:
    return provider_service_pb2.ProviderKey(
        name=key.id,
        weight=key.weight,
        requests_left=key.requests_left,
        tokens_left=key.tokens_left,
        cooling=_duration(key.cooling_s),
    )


def _target(target: TargetReport) -> provider_service_pb2.ProviderTarget:
    return provider_service_pb2.ProviderTarget(
        model=target.model,
        key=target.key_id,
        state=_STATES[target.state],
        open=_duration(target.open_s),
        cooling=_duration(target.cooling_s),
        latency=None if target.latency_s is None else _duration(target.latency_s),
        first_text=None if target.first_text_s is None else _duration(target.first_text_s),
        calls=target.calls,
        in_flight=target.in_flight,
        failures=target.failures,
        last_failure=target.last_failure,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(milliseconds=round(seconds * 1_000)))
    return duration
