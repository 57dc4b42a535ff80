"""Budgets and usage as an administrator sees them, over REST and around a real turn."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.rest import Rest
from tests.support.stack import Stack
from tests.support.tenants import QUESTION, Tenant, registered_tenant
from tests.support.waiting import wait_until

MODEL: Final = "scripted/quick"


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> Iterator[Tenant]:
    """An organization of this module's own, so that its budgets bind nobody else."""
    with registered_tenant(stack, "payer") as made:
        yield made


@pytest.fixture
def rest(tenant: Tenant) -> Iterator[Rest]:
    with Rest(tenant.url, tenant.api_key) as client:
        yield client


def budget(rest: Rest, subject: str, limits: dict[str, int]) -> Any:  # Any: JSON of the contract
    response = rest.http.put(f"/api/v1/budgets/{subject}", json=limits)
    assert response.status_code == 200, response.text
    return response.json()


def test_refusal_is_429_and_says_what_how_much_and_until_when(rest: Rest, tenant: Tenant) -> None:
    user = tenant.ids["user_id"]
    made = budget(rest, user, {"requests_per_minute": 0})
    assert made["subject_id"] == user
    assert made["limits"] == {"requests_per_minute": 0}
    assert {standing["period"] for standing in made["standings"]} == {"day", "month"}

    request = {"model": MODEL, "prompt": {"messages": [{"role": "user", "text": QUESTION}]}}
    refused = rest.http.post("/api/v1/generations", json=request)
    rest.http.delete(f"/api/v1/budgets/{user}").raise_for_status()
    allowed = rest.http.post("/api/v1/generations", json=request)

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    problem = refused.json()
    assert problem["reason"] == "RATE_LIMITED"
    assert problem["metadata"]["subject_id"] == user
    assert problem["metadata"]["limit"] == "requests_per_minute"
    assert allowed.status_code == 200, allowed.text


def test_usage_tells_models_and_keys_apart(rest: Rest, tenant: Tenant) -> None:
    request = {"model": MODEL, "prompt": {"messages": [{"role": "user", "text": QUESTION}]}}
    rest.post("/api/v1/generations", {**request, "purpose": "summary"})

    def rows(path: str) -> list[Any]:  # Any: JSON of the contract
        asked = {"period": "month", "group_by": ["model", "api_key", "purpose"], "model": MODEL}
        found: list[Any] = rest.http.get(path, params=asked).raise_for_status().json()["rows"]
        return [row for row in found if row["purpose"] == "summary"]

    wait_until(lambda: rows("/api/v1/usage"), within_s=60)
    (own,) = rows("/api/v1/usage")
    assert (own["model"], own["api_key_id"]) == (MODEL, tenant.ids["api_key_id"])
    assert (own["call_count"], own["input_tokens"], own["output_tokens"]) == (1, 5, 2)
    assert own["unpriced_call_count"] == 1
    assert rows("/api/v1/organization/usage") == [own]


def test_turn_is_booked_to_the_user_and_the_key_that_asked(rest: Rest, tenant: Tenant) -> None:
    conversation = rest.post("/api/v1/conversations", {"model": "extractive"})
    rest.ask(conversation["id"], QUESTION)

    def payers() -> list[tuple[str, str]]:
        asked = {"group_by": ["user", "api_key", "model"], "model": "extractive"}
        answer = rest.http.get("/api/v1/organization/usage", params=asked).raise_for_status().json()
        return [(row["user_id"], row["api_key_id"]) for row in answer["rows"]]

    wait_until(payers, within_s=60)
    assert set(payers()) == {(tenant.ids["user_id"], tenant.ids["api_key_id"])}


def test_budget_of_a_key_binds_its_turns_and_says_so(rest: Rest, tenant: Tenant) -> None:
    key = tenant.ids["api_key_id"]
    conversation = rest.post("/api/v1/conversations", {"model": "extractive"})
    budget(rest, key, {"requests_per_minute": 0})
    try:
        answer = rest.ask(conversation["id"], QUESTION).message
    finally:
        rest.http.delete(f"/api/v1/budgets/{key}").raise_for_status()

    assert answer is not None
    assert answer["error"]["reason"] == "RATE_LIMITED"
    assert key in answer["error"]["message"]


def test_budgets_are_no_business_of_a_member(rest: Rest, stack: Stack) -> None:
    member = rest.post(
        "/api/v1/users", {"email": "spender@example.com", "password": "correct horse battery staple", "role": "member"}
    )
    with Rest(stack.url) as anybody:
        login = anybody.post(
            "/api/v1/auth/login", {"email": member["email"], "password": "correct horse battery staple"}
        )
    with Rest(stack.url, login["tokens"]["access_token"]) as spender:
        for path in ("/api/v1/budgets", "/api/v1/organization/usage", "/api/v1/budget_alerts"):
            assert spender.http.get(path).json()["reason"] == "SCOPE_MISSING"
        assert spender.http.get("/api/v1/usage").status_code == 200
