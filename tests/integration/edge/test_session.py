"""Credentials on the way in: which is taken, which is refused, and what a cookie session is."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge.app import STRANGERS_PART
from tests.support.edge import KEY_HEADERS, EdgeUnderTest, running_edge
from tests.support.fakes.auth import API_KEY, EMAIL, PASSWORD

SESSION = "/api/v1/auth/session"
ME = "/api/v1/users/me"
SAME = {"sec-fetch-site": "same-origin"}
LOGIN = {"email": EMAIL, "password": PASSWORD}


async def test_a_session_begins_works_and_ends(edge: EdgeUnderTest) -> None:
    begun = await edge.client.post(SESSION, json=LOGIN, headers=SAME)
    me = await edge.client.get(ME)
    ended = await edge.client.delete(SESSION, headers=SAME)
    after = await edge.client.get(ME)

    assert (begun.status_code, begun.json()["email"]) == (201, EMAIL)
    assert "session_token" not in begun.text
    assert (me.status_code, me.json()["role"]) == (200, "owner")
    assert ended.status_code == 204
    assert "Max-Age=0" in ended.headers["set-cookie"]
    assert after.status_code == 401


async def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(edge: EdgeUnderTest) -> None:
    cookie = (await edge.client.post(SESSION, json=LOGIN)).headers["set-cookie"]

    assert cookie.startswith("parley_session=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert "Secure" not in cookie


async def test_the_cookie_is_bound_to_tls_and_host_when_the_public_url_has_tls() -> None:
    async with running_edge(public_url="https://parley.example") as edge:
        cookie = (await edge.client.post(SESSION, json=LOGIN)).headers["set-cookie"]

    assert cookie.startswith("__Host-parley_session=")
    assert "Secure" in cookie.split("; ")


@pytest.mark.parametrize("body", [{"email": EMAIL, "password": "wrong-password"}, {"email": "nobody@example.org"}])
async def test_a_wrong_login_sets_no_cookie(edge: EdgeUnderTest, body: dict[str, str]) -> None:
    response = await edge.client.post(SESSION, json=body)

    assert (response.status_code, response.json()["reason"]) == (401, "CREDENTIALS_INVALID")
    assert "set-cookie" not in response.headers


async def test_the_kind_of_session_is_not_the_callers_to_choose(edge: EdgeUnderTest) -> None:
    response = await edge.client.post(SESSION, json=LOGIN | {"session_kind": "tokens"})

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "session_kind")


async def test_another_site_cannot_sign_anybody_in(edge: EdgeUnderTest) -> None:
    response = await edge.client.post(SESSION, json=LOGIN, headers={"sec-fetch-site": "cross-site"})

    assert (response.status_code, response.json()["reason"]) == (403, "ORIGIN_FORBIDDEN")


async def test_a_cookie_reads_from_anywhere_but_changes_things_for_our_pages_only(edge: EdgeUnderTest) -> None:
    await edge.client.post(SESSION, json=LOGIN)
    read = await edge.client.get("/api/v1/conversations")
    foreign = await edge.client.post("/api/v1/conversations", json={}, headers={"sec-fetch-site": "same-site"})
    unknown = await edge.client.post("/api/v1/conversations", json={})
    own = await edge.client.post("/api/v1/conversations", json={}, headers=SAME)

    assert [each.status_code for each in (read, foreign, unknown, own)] == [200, 403, 403, 201]


async def test_ending_a_session_from_elsewhere_is_refused(edge: EdgeUnderTest) -> None:
    await edge.client.post(SESSION, json=LOGIN)
    response = await edge.client.delete(SESSION, headers={"origin": "https://evil.example"})

    assert response.status_code == 403


async def test_a_cookie_and_a_header_are_ambiguous(edge: EdgeUnderTest) -> None:
    await edge.client.post(SESSION, json=LOGIN)
    response = await edge.client.get(ME, headers=KEY_HEADERS)

    assert (response.status_code, response.json()["reason"]) == (400, "CREDENTIALS_AMBIGUOUS")


async def test_a_stale_cookie_does_not_keep_anybody_from_signing_in(edge: EdgeUnderTest) -> None:
    edge.client.cookies.set("parley_session", "stale")

    assert (await edge.client.post(SESSION, json=LOGIN, headers=SAME)).status_code == 201


@pytest.mark.parametrize("headers", [KEY_HEADERS, {"x-api-key": API_KEY}])
async def test_a_key_works_in_both_headers(edge: EdgeUnderTest, headers: dict[str, str]) -> None:
    assert (await edge.client.get(ME, headers=headers)).status_code == 200


async def test_a_revoked_key_is_refused_after_two_seconds(edge: EdgeUnderTest) -> None:
    await edge.client.get(ME, headers=KEY_HEADERS)
    edge.fakes.tokens.accepted.clear()
    remembered = await edge.client.get(ME, headers=KEY_HEADERS)
    edge.clock.advance(2)
    refused = await edge.client.get(ME, headers=KEY_HEADERS)

    assert (remembered.status_code, refused.status_code) == (200, 401)
    assert refused.headers["www-authenticate"].startswith("Bearer")


async def test_one_exchange_serves_many_requests(edge: EdgeUnderTest) -> None:
    for _ in range(5):
        await edge.client.get(ME, headers=KEY_HEADERS)

    assert edge.fakes.tokens.exchanges == 1


async def test_a_public_method_asks_for_no_credential(edge: EdgeUnderTest) -> None:
    response = await edge.client.post("/api/v1/auth/logout", json={"session_token": "unknown"})

    assert response.status_code == 200
    assert edge.fakes.tokens.exchanges == 0


@pytest.mark.parametrize("path", [SESSION, "/api/v1/auth/login", "/api/v1/auth/register"])
async def test_logins_that_never_arrive_whole_leave_room_for_everybody_else(path: str) -> None:
    begun, is_over = asyncio.Semaphore(0), asyncio.Event()

    async def dribbling() -> AsyncIterator[bytes]:
        yield b"{"
        begun.release()
        await is_over.wait()
        yield b"}"

    async with running_edge(requests_in_flight_max=2 * STRANGERS_PART) as edge, asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(edge.client.post(path, content=dribbling(), headers={"content-type": "application/json"}))
            await begun.acquire()
        one_more = await edge.client.post(SESSION, json=LOGIN)
        me = await edge.client.get(ME, headers=KEY_HEADERS)
        is_over.set()

    assert (one_more.status_code, one_more.json()["reason"]) == (503, "OVERLOADED")
    assert me.status_code == 200
