"""One credential per request, remembered for two seconds."""

import asyncio
import itertools

import pytest

from edge.identity import (
    CREDENTIAL_LENGTH_MAX,
    REMEMBERED_S,
    CookieRule,
    Credential,
    CredentialKind,
    Identities,
    credential_of,
)
from parley.auth.v1 import token_service_pb2
from services.mesh.clock import ManualClock
from services.mesh.errors import (
    CredentialsAmbiguous,
    CredentialsInvalid,
    InvalidArgument,
    MeshError,
    OriginForbidden,
    Unavailable,
)
from services.mesh.telemetry import REGISTRY
from tests.unit.edge.exchanges import exchange

COOKIE = CookieRule.of("https://parley.example", is_secure=True)
CARRIERS = {
    "bearer": ("authorization", "Bearer secret"),
    "key": ("x-api-key", "secret"),
    "cookie": ("cookie", "__Host-parley_session=secret"),
}
KEY = Credential(CredentialKind.API_KEY, "secret")


class Auth:
    """Answers exchanges, and counts them; what is in `failures` is raised first."""

    def __init__(self) -> None:
        self.requests: list[token_service_pb2.ExchangeTokenRequest] = []
        self.failures: list[MeshError] = []
        self.gate: asyncio.Event | None = None

    async def exchange(
        self, request: token_service_pb2.ExchangeTokenRequest
    ) -> token_service_pb2.ExchangeTokenResponse:
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return token_service_pb2.ExchangeTokenResponse(
            tokens=[token_service_pb2.InternalToken(audience=name, token=f"t-{name}") for name in request.audiences],
            user_id=f"usr_{len(self.requests)}",
        )


@pytest.fixture
def auth() -> Auth:
    return Auth()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def identities(auth: Auth, clock: ManualClock) -> Identities:
    return Identities(auth, workload_secret="s" * 16, clock=clock, remembered_max=3)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (("authorization", "Bearer parley_key"), Credential(CredentialKind.API_KEY, "parley_key")),
        (("authorization", "bearer  parley_key"), Credential(CredentialKind.API_KEY, "parley_key")),
        (("authorization", "Bearer a.b.c"), Credential(CredentialKind.ACCESS_TOKEN, "a.b.c")),
        (("x-api-key", "parley_key"), Credential(CredentialKind.API_KEY, "parley_key")),
        (("cookie", "a=b; __Host-parley_session=tok; c=d"), Credential(CredentialKind.SESSION, "tok")),
        (("cookie", "parley_session=tok"), None),
        (("cookie", "x__Host-parley_session=tok"), None),
    ],
)
def test_each_carrier_is_read(header: tuple[str, str], expected: Credential | None) -> None:
    assert credential_of(exchange(headers=[header]), COOKIE) == expected


@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(CARRIERS, 2)))
def test_two_credentials_are_ambiguous_whatever_carries_them(pair: tuple[str, str]) -> None:
    with pytest.raises(CredentialsAmbiguous):
        credential_of(exchange(headers=[CARRIERS[name] for name in pair]), COOKIE)


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Basic c2VjcmV0"),
        ("authorization", "Bearer"),
        ("authorization", "Bearer a b"),
        ("authorization", "secret"),
        ("authorization", ""),
        ("x-api-key", ""),
        ("x-api-key", "a b"),
        ("x-api-key", "caf\xe9"),
        ("cookie", "__Host-parley_session="),
        ("x-api-key", "x" * (CREDENTIAL_LENGTH_MAX + 1)),
    ],
)
def test_what_cannot_be_a_credential_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(CredentialsInvalid):
        credential_of(exchange(headers=[header]), COOKIE)


@pytest.mark.parametrize("length", [CREDENTIAL_LENGTH_MAX - 1, CREDENTIAL_LENGTH_MAX])
def test_credentials_up_to_the_limit_are_read(length: int) -> None:
    assert credential_of(exchange(headers=[("x-api-key", "x" * length)]), COOKIE) is not None


@pytest.mark.parametrize(
    "headers",
    [
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("sec-fetch-site", "none")],
        [("origin", "https://evil.example")],
        [("origin", "null")],
        [("origin", "http://parley.example")],
        [("origin", "https://parley.example:8443")],
        [("origin", "https://parley.example.evil.example")],
        [("sec-fetch-site", "cross-site"), ("origin", "https://parley.example")],
        [],
    ],
)
def test_a_cookie_changes_nothing_for_other_sites(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(OriginForbidden):
        credential_of(exchange("POST", headers=[CARRIERS["cookie"], *headers]), COOKIE)


@pytest.mark.parametrize("headers", [[("sec-fetch-site", "same-origin")], [("origin", "https://parley.example")]])
def test_a_cookie_works_for_pages_of_this_site(headers: list[tuple[str, str]]) -> None:
    assert credential_of(exchange("POST", headers=[CARRIERS["cookie"], *headers]), COOKIE) is not None


def test_without_a_public_url_the_origin_is_the_host_that_the_request_names() -> None:
    rule = CookieRule.of("", is_secure=False)
    cookie = ("cookie", "parley_session=tok")

    fits = exchange("POST", headers=[cookie, ("host", "box:8080"), ("origin", "http://box:8080")])
    differs = exchange("POST", headers=[cookie, ("host", "box:8080"), ("origin", "http://box")])

    assert credential_of(fits, rule) is not None
    with pytest.raises(OriginForbidden):
        credential_of(differs, rule)


def test_the_header_of_an_origin_must_be_sent_once() -> None:
    twice = [CARRIERS["cookie"], ("origin", "https://parley.example"), ("origin", "https://evil.example")]

    with pytest.raises(InvalidArgument):
        credential_of(exchange("POST", headers=twice), COOKIE)


def test_a_credential_does_not_show_its_secret() -> None:
    assert "secret" not in repr(KEY)


async def test_one_exchange_asks_for_all_services(identities: Identities, auth: Auth) -> None:
    caller = await identities.caller(KEY)

    assert list(auth.requests[0].audiences) == ["auth", "conversation", "retrieval", "inference"]
    assert auth.requests[0].api_key == "secret"
    assert auth.requests[0].workload.name == "edge"
    assert caller.metadata["retrieval"] == (("authorization", "Bearer t-retrieval"),)


async def test_a_caller_is_remembered_for_two_seconds_and_no_longer(
    identities: Identities, auth: Auth, clock: ManualClock
) -> None:
    first = await identities.caller(KEY)
    clock.advance(REMEMBERED_S - 0.001)
    remembered = await identities.caller(KEY)
    clock.advance(0.001)
    asked_again = await identities.caller(KEY)

    assert remembered is first
    assert asked_again is not first
    assert len(auth.requests) == 2


async def test_a_revoked_credential_is_refused_when_it_is_no_longer_remembered(
    identities: Identities, auth: Auth, clock: ManualClock
) -> None:
    await identities.caller(KEY)
    auth.failures = [CredentialsInvalid()]
    clock.advance(REMEMBERED_S)

    with pytest.raises(CredentialsInvalid):
        await identities.caller(KEY)


async def test_a_refusal_is_remembered_too(identities: Identities, auth: Auth, clock: ManualClock) -> None:
    auth.failures = [CredentialsInvalid()]
    for _ in range(3):
        with pytest.raises(CredentialsInvalid):
            await identities.caller(KEY)

    assert len(auth.requests) == 1
    clock.advance(REMEMBERED_S)
    assert (await identities.caller(KEY)).user_id == "usr_2"


async def test_trouble_at_auth_is_not_remembered(identities: Identities, auth: Auth) -> None:
    auth.failures = [Unavailable()]

    with pytest.raises(Unavailable):
        await identities.caller(KEY)
    assert (await identities.caller(KEY)).user_id == "usr_2"


async def test_concurrent_callers_share_one_exchange(identities: Identities, auth: Auth) -> None:
    auth.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(identities.caller(KEY)) for _ in range(20)]
        await asyncio.sleep(0)
        auth.gate.set()

    assert len(auth.requests) == 1
    assert len({task.result().user_id for task in callers}) == 1


async def test_a_caller_who_leaves_takes_nobody_along(identities: Identities, auth: Auth) -> None:
    auth.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(identities.caller(KEY))
        staying = group.create_task(identities.caller(KEY))
        await asyncio.sleep(0)
        leaving.cancel()
        auth.gate.set()

    assert staying.result().user_id == "usr_2"


async def test_the_same_secret_of_another_kind_is_another_credential(identities: Identities, auth: Auth) -> None:
    await identities.caller(KEY)
    await identities.caller(Credential(CredentialKind.SESSION, "secret"))

    assert [request.WhichOneof("subject") for request in auth.requests] == ["api_key", "session_token"]


async def test_what_was_used_longest_ago_is_forgotten_first(identities: Identities, auth: Auth) -> None:
    for secret in ("a", "b", "c", "a", "d", "a", "b"):
        await identities.caller(Credential(CredentialKind.API_KEY, secret))

    assert [request.api_key for request in auth.requests] == ["a", "b", "c", "d", "b"]


async def test_a_session_that_was_ended_here_is_forgotten_at_once(identities: Identities, auth: Auth) -> None:
    await identities.caller(KEY)
    identities.forget(KEY)
    await identities.caller(KEY)

    assert len(auth.requests) == 2


async def test_age_of_what_is_known_is_measured_from_the_question(identities: Identities, clock: ManualClock) -> None:
    def seconds() -> float:
        return REGISTRY.get_sample_value("parley_edge_identity_age_seconds_sum") or 0.0

    before = seconds()
    await identities.caller(KEY)
    clock.advance(REMEMBERED_S / 2)
    await identities.caller(KEY)

    assert seconds() - before == pytest.approx(REMEMBERED_S / 2)
