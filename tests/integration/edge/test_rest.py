"""REST as its callers meet it: the good path, and every kind of bad input with a clear 4xx."""

import json
from typing import Any

import pytest
from prometheus_client import generate_latest

from edge.http import PARAMETERS_MAX
from parley.conversation.v1 import conversation_pb2
from services.mesh import telemetry
from services.mesh.errors import NotFound, RateLimited
from tests.support.edge import KEY_HEADERS, EdgeUnderTest, running_edge

CONVERSATIONS = "/api/v1/conversations"


async def made(edge: EdgeUnderTest, **fields: Any) -> str:  # Any: JSON
    response = await edge.client.post(CONVERSATIONS, json=fields, headers=KEY_HEADERS)
    identity: str = response.json()["id"]
    return identity


async def test_a_resource_is_created_read_changed_and_deleted(edge: EdgeUnderTest) -> None:
    created = await edge.client.post(CONVERSATIONS, json={"title": "a"}, headers=KEY_HEADERS)
    path = f"{CONVERSATIONS}/{created.json()['id']}"
    read = await edge.client.get(path, headers=KEY_HEADERS)
    changed = await edge.client.patch(path, json={"title": "b"}, headers=KEY_HEADERS)
    listed = await edge.client.get(f"{CONVERSATIONS}?page_size=10", headers=KEY_HEADERS)
    deleted = await edge.client.delete(path, headers=KEY_HEADERS)
    gone = await edge.client.get(path, headers=KEY_HEADERS)

    assert (created.status_code, read.json()) == (201, created.json())
    assert created.json()["create_time"] == "2026-01-31T09:30:00Z"
    assert (changed.status_code, changed.json()["title"]) == (200, "b")
    assert [each["title"] for each in listed.json()["conversations"]] == ["b"]
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (gone.status_code, gone.json()["reason"]) == (404, "NOT_FOUND")


async def test_answers_carry_etag_and_request_id(edge: EdgeUnderTest) -> None:
    response = await edge.client.post(CONVERSATIONS, json={}, headers=KEY_HEADERS | {"x-request-id": "mine-1"})

    assert response.headers["etag"] == '"e1"'
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["content-type"] == "application/json"


async def test_a_request_id_that_is_not_fit_to_be_logged_is_replaced(edge: EdgeUnderTest) -> None:
    response = await edge.client.get(CONVERSATIONS, headers=KEY_HEADERS | {"x-request-id": "a b\t"})

    assert response.headers["x-request-id"].startswith("req_")


async def test_a_patch_changes_what_its_body_holds(edge: EdgeUnderTest) -> None:
    path = f"{CONVERSATIONS}/{await made(edge, title='a', model='m')}"

    await edge.client.patch(path, json={"title": "b", "retrieval_mode": "never"}, headers=KEY_HEADERS)
    await edge.client.patch(f"{path}?update_mask=model", json={"model": "n"}, headers=KEY_HEADERS)
    response = await edge.client.patch(
        path, json={"system_prompt": "s", "etag": "e1"}, headers=KEY_HEADERS | {"if-match": '"other"'}
    )

    masks = [list(request.update_mask.paths) for request in edge.fakes.conversations.requests[1:]]
    assert masks == [["title", "retrieval_mode"], ["model"], ["system_prompt"]]
    assert edge.fakes.conversations.requests[-1].conversation.etag == "e1"
    assert response.json()["retrieval_mode"] == "never"


async def test_if_match_becomes_the_etag_of_a_patch(edge: EdgeUnderTest) -> None:
    path = f"{CONVERSATIONS}/{await made(edge)}"

    await edge.client.patch(path, json={"title": "b"}, headers=KEY_HEADERS | {"if-match": '"e1"'})

    assert edge.fakes.conversations.requests[-1].conversation.etag == "e1"


async def test_an_idempotency_key_becomes_the_request_id_and_is_made_when_absent(edge: EdgeUnderTest) -> None:
    keyed = KEY_HEADERS | {"idempotency-key": "k-1"}
    await edge.client.post(CONVERSATIONS, json={}, headers=keyed)
    await edge.client.post(CONVERSATIONS, json={"request_id": "mine"}, headers=KEY_HEADERS)
    await edge.client.post(CONVERSATIONS, json={}, headers=KEY_HEADERS)
    differs = await edge.client.post(CONVERSATIONS, json={"request_id": "other"}, headers=keyed)

    ids = [request.request_id for request in edge.fakes.conversations.requests]
    assert ids[:2] == ["k-1", "mine"]
    assert len(ids[2]) == 32
    assert differs.json()["errors"][0]["field"] == "request_id"


async def test_an_empty_body_is_an_empty_object(edge: EdgeUnderTest) -> None:
    response = await edge.client.post(CONVERSATIONS, headers=KEY_HEADERS)

    assert response.status_code == 201


async def test_integers_of_64_bits_are_numbers(edge: EdgeUnderTest) -> None:
    response = await edge.client.get("/api/v1/models/openai/gpt-test", headers=KEY_HEADERS)

    assert response.json()["input_price_micros"] == 2
    assert "output_price_micros" not in response.json()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"", None),
        (b"null", "body"),
        (b"[]", "body"),
        (b'{"title": 1}', "title"),
        (b'{"titel": "a"}', "titel"),
        (b'{"title": "a", "title": "b"}', "title"),
        (b'{"examples": [{"user": "q"}, {"usr": 1}]}', "examples[1].usr"),
        (b'{"retrieval_mode": "sometimes"}', "retrieval_mode"),
        (b'{"title": NaN}', "body"),
        (b'{"title": "\xff"}', "body"),
        (b"[" * 50_000, "body"),
    ],
)
async def test_bad_bodies_are_refused_by_field(edge: EdgeUnderTest, body: bytes, field: str | None) -> None:
    headers = KEY_HEADERS | {"content-type": "application/json"}
    response = await edge.client.post(CONVERSATIONS, content=body, headers=headers)

    if field is None:
        assert response.status_code == 201
        return
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["reason"] == "INVALID_ARGUMENT"
    assert response.json()["errors"][0]["field"] == field
    assert not edge.fakes.conversations.requests


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_body_must_say_that_it_is_json(edge: EdgeUnderTest, media_type: str) -> None:
    headers = KEY_HEADERS | {"content-type": media_type}
    response = await edge.client.post(CONVERSATIONS, content=b"{}", headers=headers)

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "content-type")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page_size=ten", "page_size"),
        ("page_size=1.5", "page_size"),
        ("page_size=99999999999", "page_size"),
        ("page_size=1&page_size=2", "page_size"),
        ("pagesize=1", "pagesize"),
        ("page_token=%ff", "query"),
        ("&".join(f"a{number}=1" for number in range(PARAMETERS_MAX + 1)), "query"),
    ],
)
async def test_bad_queries_are_refused_by_field(edge: EdgeUnderTest, query: str, field: str) -> None:
    response = await edge.client.get(f"{CONVERSATIONS}?{query}", headers=KEY_HEADERS)

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, field)


async def test_what_the_path_sets_cannot_stand_in_the_body(edge: EdgeUnderTest) -> None:
    path = f"{CONVERSATIONS}/{await made(edge)}/turns"
    response = await edge.client.post(
        path, json={"conversation_id": "conv_other", "new": {"text": "a"}}, headers=KEY_HEADERS
    )

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "conversation_id")


async def test_a_patch_without_a_field_is_refused(edge: EdgeUnderTest) -> None:
    path = f"{CONVERSATIONS}/{await made(edge)}"

    for body in ({}, {"etag": "e1"}):
        response = await edge.client.patch(path, json=body, headers=KEY_HEADERS)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "body")


@pytest.mark.parametrize("key", ["", "a b", "x" * 129])
async def test_a_bad_idempotency_key_is_refused(edge: EdgeUnderTest, key: str) -> None:
    response = await edge.client.post(CONVERSATIONS, json={}, headers=KEY_HEADERS | {"idempotency-key": key})

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "idempotency-key")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("PUT", CONVERSATIONS, 405)])
async def test_unknown_paths_and_verbs_are_problems(edge: EdgeUnderTest, method: str, path: str, status: int) -> None:
    response = await edge.client.request(method, path, headers=KEY_HEADERS)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers.get("allow") == (None if status == 404 else "GET, POST")


async def test_errors_of_services_arrive_with_reason_metadata_and_delay(edge: EdgeUnderTest) -> None:
    edge.fakes.conversations.failure = RateLimited("slow down", retry_after_s=7)
    limited = await edge.client.get(CONVERSATIONS, headers=KEY_HEADERS)
    edge.fakes.conversations.failure = NotFound.of("conversation")
    missing = await edge.client.get(CONVERSATIONS, headers=KEY_HEADERS)

    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert (limited.json()["reason"], limited.json()["detail"]) == ("RATE_LIMITED", "slow down")
    assert missing.json()["metadata"] == {"resource": "conversation"}


async def test_a_bug_of_a_service_shows_nothing_of_itself(edge: EdgeUnderTest) -> None:
    edge.fakes.conversations.failure = RuntimeError("postgresql://user:hunter2@db/")
    response = await edge.client.get(CONVERSATIONS, headers=KEY_HEADERS)

    assert (response.status_code, response.json()["reason"]) == (500, "INTERNAL")
    assert "hunter2" not in response.text


async def test_a_service_that_is_away_is_unavailable() -> None:
    async with running_edge(inference_target="127.0.0.1:1") as edge:
        response = await edge.client.get("/api/v1/models", headers=KEY_HEADERS, timeout=30)

    assert (response.status_code, response.json()["reason"]) == (503, "UNAVAILABLE")


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/healthz", CONVERSATIONS, "/nope", "/v1/models", "/api/v1/auth/login"]
)
async def test_every_answer_has_the_security_headers(edge: EdgeUnderTest, path: str) -> None:
    headers = (await edge.client.get(path)).headers

    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["x-request-id"]
    assert "server" not in headers
    assert "strict-transport-security" not in headers
    assert "access-control-allow-origin" not in headers


async def test_tls_is_insisted_on_when_the_public_url_has_it() -> None:
    async with running_edge(public_url="https://parley.example") as edge:
        headers = (await edge.client.get("/")).headers

    assert "max-age=31536000" in headers["strict-transport-security"]


async def test_other_origins_may_read_only_when_listed_and_never_with_cookies() -> None:
    async with running_edge(cors_origins="https://app.example, http://localhost:3000") as edge:
        allowed = await edge.client.get(CONVERSATIONS, headers=KEY_HEADERS | {"origin": "https://app.example"})
        asked = {"access-control-request-method": "PATCH", "access-control-request-headers": "authorization"}
        preflight = await edge.client.options(CONVERSATIONS, headers=asked | {"origin": "http://localhost:3000"})
        foreign = await edge.client.options(CONVERSATIONS, headers=asked | {"origin": "https://app.example.evil"})
        null = await edge.client.get(CONVERSATIONS, headers=KEY_HEADERS | {"origin": "null"})

    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert allowed.headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in allowed.headers
    assert (preflight.status_code, preflight.headers["access-control-allow-headers"]) == (204, "authorization")
    assert "access-control-allow-origin" not in foreign.headers
    assert "access-control-allow-origin" not in null.headers


async def test_the_public_port_shows_no_figures(edge: EdgeUnderTest) -> None:
    assert (await edge.client.get("/metrics", headers=KEY_HEADERS)).status_code == 404


async def test_metrics_name_routes_and_not_paths(edge: EdgeUnderTest) -> None:
    await edge.client.get(f"{CONVERSATIONS}/conv_secret", headers=KEY_HEADERS)
    metrics = generate_latest(telemetry.REGISTRY).decode()

    assert 'route="parley.conversation.v1.ConversationService.GetConversation"' in metrics
    assert "conv_secret" not in metrics


async def test_health_and_readiness(edge: EdgeUnderTest) -> None:
    assert (await edge.client.get("/healthz")).json() == {"status": "alive"}
    assert (await edge.client.get("/readyz")).status_code == 200


async def test_pages_are_served_with_tags(edge: EdgeUnderTest) -> None:
    page = await edge.client.get("/")
    again = await edge.client.get("/", headers={"if-none-match": page.headers["etag"]})
    head = await edge.client.head("/docs")
    script = await edge.client.get("/web/main.js")

    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert (again.status_code, again.content) == (304, b"")
    assert (head.status_code, head.content) == (200, b"")
    assert script.headers["content-type"].startswith("text/javascript")


async def test_the_served_document_is_the_committed_one(edge: EdgeUnderTest) -> None:
    document = (await edge.client.get("/openapi.json")).json()

    assert document["openapi"] == "3.1.0"
    assert json.dumps(document).count("$ref") > 100


async def test_conversations_are_what_the_service_holds(edge: EdgeUnderTest) -> None:
    identity = await made(edge, title="ä ⭐", examples=[{"user": "q", "assistant": "a"}], retrieval_mode="always")
    request = edge.fakes.conversations.requests[0]

    assert identity.startswith("conv_")
    assert request.title == "ä ⭐"
    assert request.examples[0] == conversation_pb2.Example(user="q", assistant="a")
    assert request.retrieval_mode == conversation_pb2.RETRIEVAL_MODE_ALWAYS
