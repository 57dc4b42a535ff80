"""Every other alert under promtool: a case in which it fires, and one as near to it as may be in which it does not."""

from dataclasses import dataclass

import pytest

from dev.observe.objectives import read
from tests.deploy.alerts.support import Series, firing, needs_promtool

_, ALERTS = read()

pytestmark = needs_promtool


@dataclass(frozen=True, slots=True)
class Case:
    """Series under which the alert fires, and under which it does not."""

    fires: Series
    quiet: Series
    at: str = "20m"


_PASSED = 'parley_mesh_check_passed_ratio{job="auth",instance="a",check="database"}'
_OTHER = 'parley_mesh_check_passed_ratio{job="auth",instance="b",check="database"}'
_PEER = 'parley_mesh_check_passed_ratio{job="edge",instance="a",check="inference"}'
_USED = 'parley_mesh_database_connections_count{job="auth",instance="a",which="used"}'
_MOST = 'parley_mesh_database_connections_count{job="auth",instance="a",which="max"}'
_LAG = 'parley_mesh_replica_lag_seconds{job="conversation",instance="a",replica="conversation.main-0"}'
_LAG_THERE = 'parley_mesh_replica_lag_seconds{job="conversation",instance="b",replica="conversation.main-0"}'
_FAILED = 'parley_mesh_valkey_commands_total{job="auth",outcome="failed"}'
_ANSWERED = 'parley_mesh_valkey_commands_total{job="auth",outcome="answered"}'
_DEPTH = "parley_conversation_queue_depth_messages{}"
_OLDEST = "parley_conversation_queue_oldest_age_seconds{}"
_ERRORS = 'parley_inference_provider_errors_total{provider="openai",kind="cut"}'
_ANSWERS = 'parley_inference_answers_total{provider="openai"}'
_CIRCUIT = 'parley_inference_circuit_state_ratio{provider="openai"}'
_SECOND = 'parley_inference_circuit_state_ratio{provider="anthropic"}'
_SPENT = 'parley_inference_budget_alerts_total{period="day",percent="100"}'
_HALF = 'parley_inference_budget_alerts_total{period="day",percent="50"}'
_ON_TIME = 'parley_mesh_event_loop_lag_seconds_bucket{job="auth",instance="a",le="0.25"}'
_LATE = 'parley_mesh_event_loop_lag_seconds_bucket{job="auth",instance="a",le="0.5"}'
_ALL = 'parley_mesh_event_loop_lag_seconds_bucket{job="auth",instance="a",le="+Inf"}'
_OVERLOADED = 'parley_mesh_rpc_errors_total{job="auth",method="/a/B",reason="OVERLOADED"}'
_FORBIDDEN = 'parley_mesh_rpc_errors_total{job="auth",method="/a/B",reason="CALLER_FORBIDDEN"}'
_RESTARTS = 'parley_mesh_loop_restarts_total{job="auth",loop="reaper"}'
_OPEN = 'process_open_fds{job="edge",instance="a"}'
_OPEN_MAX = 'process_max_fds{job="edge",instance="a"}'
_LEFT = 'parley_mesh_certificate_remaining_seconds{job="auth",instance="a",certificate="leaf"}'
_LIFE = 'parley_mesh_certificate_life_seconds{job="auth",instance="a",certificate="leaf"}'
_CA_LEFT = 'parley_mesh_certificate_remaining_seconds{job="auth",instance="a",certificate="ca"}'
_BROKEN = 'parley_retrieval_documents_total{outcome="failed"}'
_PUBLISHED = 'parley_retrieval_documents_total{outcome="published"}'
_REFUSED = 'parley_auth_logins_total{outcome="refused"}'

CASES = {
    "ParleyTargetDown": Case({'up{job="edge"}': "1x5 0x30"}, {'up{job="edge"}': "1x30", 'up{job="else"}': "0x30"}),
    "ParleyNothingScraped": Case({'up{job="else"}': "1x30"}, {_PASSED: "1x30"}),
    "ParleyDatabaseAway": Case({_PASSED: "0x30", _OTHER: "0x30"}, {_PASSED: "0x30", _OTHER: "1x30"}),
    "ParleyPeerAway": Case({_PEER: "0x30"}, {_PEER: "1x30", _PASSED: "0x30"}),
    "ParleyConnectionsNearMax": Case({_USED: "9x30", _MOST: "10x30"}, {_USED: "8x30", _MOST: "10x30"}),
    "ParleyReplicaLag": Case(
        # Too old to be used in between, and never as it should be.
        {_LAG: "3 3 inf " * 10, _LAG_THERE: "0.5x30"},
        {_LAG: "3 3 0.5 " * 10, _LAG_THERE: "inf " * 30},
    ),
    "ParleyReplicaLeftOut": Case({_LAG: "inf " * 30, _LAG_THERE: "0.5x30"}, {_LAG: "inf inf 0.5 " * 10}),
    "ParleyValkeyAway": Case({_FAILED: "0+5x30", _ANSWERED: "9x30"}, {_FAILED: "0+5x30", _ANSWERED: "0+1x30"}),
    "ParleyQueueOldestAgeHigh": Case({_OLDEST: "31x30"}, {_OLDEST: "30x30"}),
    "ParleyQueueGrowing": Case({_DEPTH: "0+5x60", _OLDEST: "6x60"}, {_DEPTH: "50x60", _OLDEST: "6x60"}, at="45m"),
    "ParleyDeadLetters": Case(
        {"parley_conversation_queue_dead_messages{}": "1x30"}, {"parley_conversation_queue_dead_messages{}": "0x30"}
    ),
    "ParleyOutboxStalled": Case(
        {"parley_conversation_outbox_oldest_age_seconds{}": "61x30"},
        {"parley_conversation_outbox_oldest_age_seconds{}": "60x30"},
    ),
    "ParleyTurnStuck": Case(
        {"parley_conversation_turns_overdue_seconds{}": "61x30"},
        {"parley_conversation_turns_overdue_seconds{}": "60x30"},
    ),
    "ParleyProviderErrors": Case({_ERRORS: "0+3x30"}, {_ERRORS: "0+2x30", _ANSWERS: "0+9x30"}),
    "ParleyAllCircuitsOpen": Case({_CIRCUIT: "1x30", _SECOND: "1x30"}, {_CIRCUIT: "1x30", _SECOND: "0.5x30"}),
    "ParleyBudgetSpent": Case({_SPENT: "0x5 1x30"}, {_SPENT: "0x30", _HALF: "0x5 1x30"}),
    "ParleyLedgerLinesLost": Case(
        {"parley_inference_ledger_lines_lost_total{}": "0x5 1x30"},
        {"parley_inference_ledger_lines_lost_total{}": "1x30"},
    ),
    "ParleyReservationsLapsed": Case(
        {"parley_inference_reservations_lapsed_total{}": "0x5 1x30"},
        {"parley_inference_reservations_lapsed_total{}": "1x30"},
    ),
    "ParleyEventLoopLag": Case(
        {_ON_TIME: "0+90x30", _LATE: "0+100x30", _ALL: "0+100x30"},
        {_ON_TIME: "0+100x30", _LATE: "0+100x30", _ALL: "0+100x30"},
    ),
    "ParleyOverloaded": Case({_OVERLOADED: "0+10x30"}, {_OVERLOADED: "0+3x30"}),
    "ParleyLoopFailing": Case({_RESTARTS: "0+1x30"}, {_RESTARTS: "0x10 3x30"}),
    "ParleyFilesNearMax": Case({_OPEN: "90x30", _OPEN_MAX: "100x30"}, {_OPEN: "80x30", _OPEN_MAX: "100x30"}),
    "ParleyCertExpiry": Case(
        {_LEFT: "500000x60", _LIFE: "2592000x60"}, {_LEFT: "864000x60", _LIFE: "2592000x60", _CA_LEFT: "2592000x60"}
    ),
    "ParleyCertExpiryNear": Case(
        {_CA_LEFT: "172000x60"}, {_LEFT: "500000x60", _LIFE: "2592000x60", _CA_LEFT: "172800x60"}
    ),
    "ParleyIngestionFailing": Case(
        {_BROKEN: "0+6x60", _PUBLISHED: "0+4x60"}, {_BROKEN: "0+4x60", _PUBLISHED: "0+6x60"}, at="45m"
    ),
    "ParleyAuthFailureSpike": Case({_REFUSED: "0+1x300 300+120x40"}, {_REFUSED: "0+120x340"}, at="320m"),
    "ParleyCallerForbidden": Case({_FORBIDDEN: "_x18 1x30"}, {_FORBIDDEN: "1x60"}, at="19m"),
    "ParleyAuditEventsLost": Case(
        {"parley_auth_recorder_events_lost_total{}": "0x5 2x30"}, {"parley_auth_recorder_events_lost_total{}": "2x30"}
    ),
    "ParleyRuleEvaluationFailing": Case(
        {"prometheus_rule_evaluation_failures_total{}": "0+1x30"},
        {"prometheus_rule_evaluation_failures_total{}": "3x30"},
    ),
}
ALWAYS = {"ParleyWatchdog"}


def test_every_alert_has_its_cases() -> None:
    assert CASES.keys() | ALWAYS == {alert.name for alert in ALERTS}


@pytest.mark.parametrize("name", CASES)
def test_alert_fires(name: str) -> None:
    assert firing(name, CASES[name].fires, at=CASES[name].at)


@pytest.mark.parametrize("name", CASES)
def test_alert_stays_quiet(name: str) -> None:
    assert not firing(name, CASES[name].quiet, at=CASES[name].at)


@pytest.mark.parametrize("name", sorted(ALWAYS))
def test_watchdog_always_fires(name: str) -> None:
    assert firing(name, {"up{}": "1x5"}, at="5m")
