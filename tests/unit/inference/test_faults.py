"""Both vendors' errors: every row of their tables, and when to come back."""

from datetime import UTC, datetime

import pytest

from services.inference.providers import allowances
from services.inference.providers.allowances import Allowance
from services.inference.providers.failures import ACTIONS, Action, Failure, Kind
from services.inference.providers.faults import ANTHROPIC, OPENAI, Fault, Table, failure_of, retry_after_s, status_of
from services.mesh.clock import ManualClock
from services.mesh.errors import ERROR_BY_REASON, Reason

NOW = ManualClock(instant=datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC))

# What each vendor sends: status, its words, and the index of the row that has to catch it.
OPENAI_CASES: list[tuple[int, str, Kind, Action]] = [
    (401, "invalid_api_key", Kind.KEY_REFUSED, Action.NEXT_KEY),
    (403, "permission_error", Kind.KEY_REFUSED, Action.NEXT_KEY),
    (402, "billing_hard_limit_reached", Kind.QUOTA_SPENT, Action.NEXT_KEY),
    (404, "model_not_found", Kind.MODEL_UNKNOWN, Action.NEXT_TARGET),
    (408, "timeout", Kind.SLOW, Action.NEXT_TARGET),
    (504, "gateway timeout", Kind.SLOW, Action.NEXT_TARGET),
    (413, "request_too_large", Kind.CONTEXT_LENGTH, Action.LARGER_CONTEXT),
    (429, "insufficient_quota", Kind.QUOTA_SPENT, Action.NEXT_KEY),
    (429, "rate_limit_exceeded", Kind.RATE_LIMITED, Action.NEXT_KEY),
    (400, "context_length_exceeded", Kind.CONTEXT_LENGTH, Action.LARGER_CONTEXT),
    (400, "This model's maximum context length is 4096 tokens", Kind.CONTEXT_LENGTH, Action.LARGER_CONTEXT),
    (400, "exceed_context_size_error", Kind.CONTEXT_LENGTH, Action.LARGER_CONTEXT),
    (400, "content_filter", Kind.CONTENT_FILTERED, Action.GIVE_UP),
    (400, "billing_not_active", Kind.QUOTA_SPENT, Action.NEXT_KEY),
    (503, "service_unavailable", Kind.OVERLOADED, Action.NEXT_TARGET),
    (529, "overloaded", Kind.OVERLOADED, Action.NEXT_TARGET),
    (500, "server_error", Kind.SERVER_ERROR, Action.RETRY_HERE),
    (502, "bad gateway", Kind.SERVER_ERROR, Action.RETRY_HERE),
    (200, "a success that is none", Kind.SERVER_ERROR, Action.RETRY_HERE),
    (302, "moved", Kind.SERVER_ERROR, Action.RETRY_HERE),
    (422, "unprocessable", Kind.REFUSED, Action.NEXT_TARGET),
    (418, "teapot", Kind.REFUSED, Action.NEXT_TARGET),
    (799, "no such status", Kind.SERVER_ERROR, Action.RETRY_HERE),
]
ANTHROPIC_CASES: list[tuple[int, str, Kind, Action]] = [
    (401, "authentication_error", Kind.KEY_REFUSED, Action.NEXT_KEY),
    (403, "permission_error", Kind.KEY_REFUSED, Action.NEXT_KEY),
    (402, "billing_error", Kind.QUOTA_SPENT, Action.NEXT_KEY),
    (404, "not_found_error", Kind.MODEL_UNKNOWN, Action.NEXT_TARGET),
    (504, "timeout_error", Kind.SLOW, Action.NEXT_TARGET),
    (413, "request_too_large", Kind.CONTEXT_LENGTH, Action.LARGER_CONTEXT),
    (429, "rate_limit_error", Kind.RATE_LIMITED, Action.NEXT_KEY),
    (429, "billing", Kind.QUOTA_SPENT, Action.NEXT_KEY),
    (400, "prompt is too long: 210000 tokens > 200000 maximum", Kind.CONTEXT_LENGTH, Action.LARGER_CONTEXT),
    (400, "blocked by content_policy", Kind.CONTENT_FILTERED, Action.GIVE_UP),
    (400, "your credit balance is too low", Kind.QUOTA_SPENT, Action.NEXT_KEY),
    (529, "overloaded_error", Kind.OVERLOADED, Action.NEXT_TARGET),
    (500, "api_error", Kind.SERVER_ERROR, Action.RETRY_HERE),
    (200, "a success that is none", Kind.SERVER_ERROR, Action.RETRY_HERE),
    (409, "conflict_error", Kind.REFUSED, Action.NEXT_TARGET),
]
CASES = [
    *(pytest.param(OPENAI, *case, id=f"openai {case[0]} {case[1]}") for case in OPENAI_CASES),
    *(pytest.param(ANTHROPIC, *case, id=f"anthropic {case[0]} {case[1]}") for case in ANTHROPIC_CASES),
]


@pytest.mark.parametrize(("table", "status", "words", "kind", "action"), CASES)
def test_row(table: Table, status: int, words: str, kind: Kind, action: Action) -> None:
    failure = failure_of(Fault(status=status, code=words), table, "a/m")

    assert (failure.kind, ACTIONS[failure.kind]) == (kind, action)
    assert failure.error.metadata == {"model": "a/m"}
    assert words not in failure.error.message


@pytest.mark.parametrize(("table", "cases"), [(OPENAI, OPENAI_CASES), (ANTHROPIC, ANTHROPIC_CASES)])
def test_every_row_has_its_case(table: Table, cases: list[tuple[int, str, Kind, Action]]) -> None:
    faults = [Fault(status=status, code=words) for status, words, _, _ in cases]

    caught = {next((index for index, row in enumerate(table) if row.fits(fault)), -1) for fault in faults}

    assert caught >= set(range(len(table)))


def test_every_kind_has_an_action() -> None:
    assert ACTIONS.keys() == set(Kind)


@pytest.mark.parametrize("reason", Reason)
def test_error_without_a_kind_is_given_one(reason: Reason) -> None:
    error = ERROR_BY_REASON[reason]()

    assert Failure.of(error).error is error
    assert (Failure.of(error).kind is Kind.OTHER) == (reason not in _KNOWN)


_KNOWN = {
    Reason.RATE_LIMITED,
    Reason.PROVIDER_UNAVAILABLE,
    Reason.PROVIDER_TIMEOUT,
    Reason.PROVIDER_REJECTED,
    Reason.PROVIDER_MISCONFIGURED,
    Reason.MODEL_UNPRICED,
    Reason.MODEL_UNKNOWN,
    Reason.CONTEXT_LENGTH_EXCEEDED,
    Reason.CONTENT_FILTERED,
}


@pytest.mark.parametrize(("words", "status"), [("overloaded_error", 529), ("unheard of", 500)])
def test_error_inside_a_stream_has_the_status_of_its_type(words: str, status: int) -> None:
    assert status_of("", words) == status


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, 3600.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, clock=NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "allowance"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "many"}, None),
        (
            {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1m30s"},
            Allowance(requests_left=59, requests_reset_s=90.0),
        ),
        (
            {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"},
            Allowance(tokens_left=0, tokens_reset_s=0.02),
        ),
        (
            {"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "48h"},
            Allowance(tokens_left=7, tokens_reset_s=600.0),
        ),
        ({"x-ratelimit-remaining-tokens": "7"}, Allowance(tokens_left=7, tokens_reset_s=60.0)),
    ],
)
def test_openai_tells_what_a_key_may_still_ask(headers: dict[str, str], allowance: Allowance | None) -> None:
    assert allowances.of_openai(headers) == allowance


@pytest.mark.parametrize(
    ("headers", "allowance"),
    [
        ({}, None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "3",
                "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:20Z",
                "anthropic-ratelimit-tokens-remaining": "900",
                "anthropic-ratelimit-tokens-reset": "2026-11-22T11:00:00Z",
            },
            Allowance(requests_left=3, requests_reset_s=20.0, tokens_left=900, tokens_reset_s=0.0),
        ),
        ({"anthropic-ratelimit-tokens-remaining": "1"}, Allowance(tokens_left=1, tokens_reset_s=60.0)),
    ],
)
def test_anthropic_tells_what_a_key_may_still_ask(headers: dict[str, str], allowance: Allowance | None) -> None:
    assert allowances.of_anthropic(headers, clock=NOW) == allowance
