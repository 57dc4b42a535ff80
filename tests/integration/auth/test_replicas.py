"""Two replicas of auth over one PostgreSQL and one Valkey: what one revokes, the other refuses in time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest
from pydantic import SecretStr

from services.auth.app import App
from services.auth.credentials import Kind, parse
from services.auth.exchange import AccessToken, ApiKeySecret, SessionToken, Subject
from services.auth.model import Caller, Role, SessionKind, User, UserChange
from services.auth.settings import Settings
from services.auth.shared_state import SharedFacts, ValkeyCounter
from services.auth.throttle import CounterUnavailableError, Rate, Rates
from services.mesh.clock import SYSTEM_CLOCK
from services.mesh.errors import CredentialsInvalid, RateLimited
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import Client, open_valkey
from tests.integration.auth.conftest import Replicas
from tests.support.auth import PASSWORD, World, auth_settings, caller_of
from tests.support.valkey import running_valkey, url_of

REVOKED_WITHIN_S = 3.0
"""The promise is 5 s at the edge, which keeps an answer for 2 s itself."""
RATES = Rates(account=Rate(burst=20, interval_s=30.0), everyone=Rate(burst=1_000, interval_s=0.01))

Revocable: TypeAlias = tuple[Subject, Callable[[], Awaitable[object]]]
"""A good credential, and what ends it."""
Revocation: TypeAlias = Callable[[App, Caller, User], Awaitable[Revocable]]


def world_of(app: App) -> World:
    return World(app=app, clock=SYSTEM_CLOCK)


async def refuses(app: App, subject: Subject) -> bool:
    try:
        await app.exchange.trade(subject, None, ["auth"])
    except CredentialsInvalid:
        return True
    return False


async def until_refused(app: App, subject: Subject) -> None:
    deadline = time.monotonic() + REVOKED_WITHIN_S
    while not await refuses(app, subject):
        assert time.monotonic() < deadline, "a revoked credential is still good"
        await asyncio.sleep(0.02)


async def revoke_key(app: App, _owner: Caller, user: User) -> Revocable:
    minted = await world_of(app).key(caller_of(user))
    return ApiKeySecret(minted.secret), lambda: app.api_keys.revoke(caller_of(user), minted.key.id)


async def log_out(app: App, _owner: Caller, user: User) -> Revocable:
    pair = await world_of(app).tokens(user)
    return AccessToken(pair.access.text), lambda: app.sessions.logout(Kind.REFRESH_TOKEN, pair.refresh.text)


async def log_out_cookie(app: App, _owner: Caller, user: User) -> Revocable:
    cookie = await world_of(app).cookie(user)
    return SessionToken(cookie), lambda: app.sessions.logout(Kind.SESSION_TOKEN, cookie)


async def disable(app: App, owner: Caller, user: User) -> Revocable:
    minted = await world_of(app).key(caller_of(user))
    return ApiKeySecret(minted.secret), lambda: app.accounts.update(owner, user.id, UserChange(disabled=True))


async def change_password(app: App, _owner: Caller, user: User) -> Revocable:
    cookie = await world_of(app).cookie(user)
    return SessionToken(cookie), lambda: app.sessions.change_password(caller_of(user), PASSWORD, "another password")


REVOCATIONS: list[Revocation] = [revoke_key, log_out, log_out_cookie, disable, change_password]


@pytest.fixture(params=REVOCATIONS, ids=["key", "logout", "cookie", "disabled", "password"])
def revocation(request: pytest.FixtureRequest) -> Revocation:
    chosen: Revocation = request.param
    return chosen


async def assert_revoked_everywhere(one: App, other: App, revocation: Revocation) -> None:
    owner = await world_of(one).owner()
    subject, revoke = await revocation(one, owner, await world_of(one).member(owner))
    for app in (one, other):
        assert not await refuses(app, subject)
    await revoke()
    assert await refuses(one, subject)
    await until_refused(other, subject)


async def test_revocation_reaches_the_other_replica(replicas: Replicas, revocation: Revocation) -> None:
    async with replicas(2) as (one, other):
        await assert_revoked_everywhere(one, other, revocation)


async def test_revocation_is_in_time_when_every_message_is_lost(replicas: Replicas, revocation: Revocation) -> None:
    async with replicas(2, listening=False) as (one, other):
        await assert_revoked_everywhere(one, other, revocation)


async def test_revocation_is_in_time_when_valkey_dies(replicas: Replicas, settings: Settings) -> None:
    with running_valkey() as server:
        url = server.store.url(server.port)
        own = auth_settings(PARLEY_DATABASE_URL=settings.database_url.get_secret_value(), PARLEY_VALKEY_URL=url)
        async with replicas(2, of=own) as (one, other):
            owner = await world_of(one).owner()
            subject, revoke = await revoke_key(one, owner, await world_of(one).member(owner))
            for app in (one, other):
                assert not await refuses(app, subject)
            await asyncio.to_thread(server.stop)
            await revoke()
            assert await refuses(one, subject)
            await until_refused(other, subject)


async def test_everything_works_without_valkey(replicas: Replicas, settings: Settings) -> None:
    nowhere = auth_settings(
        PARLEY_DATABASE_URL=settings.database_url.get_secret_value(), PARLEY_VALKEY_URL="redis://127.0.0.1:1/0"
    )
    async with replicas(1, of=nowhere) as (app,):
        auth = world_of(app)
        user = await auth.register()
        pair = await auth.tokens(user)
        await app.sessions.refresh(pair.refresh.text)
        minted = await auth.key(caller_of(user))
        assert not await refuses(app, ApiKeySecret(minted.secret))
        await app.api_keys.revoke(caller_of(user), minted.key.id)
        assert await refuses(app, ApiKeySecret(minted.secret))


async def test_old_fact_that_stays_in_valkey_is_believed_for_a_moment_only(
    replicas: Replicas, settings: Settings
) -> None:
    async with replicas(1) as (app,), open_valkey(settings, application="test") as valkey:
        auth = world_of(app)
        owner = await auth.owner()
        minted = await auth.key(owner)
        assert not await refuses(app, ApiKeySecret(minted.secret))
        presented = parse(Kind.API_KEY, minted.secret)
        assert presented is not None
        name = f"parley:auth:fact:1:secret:{presented.secret_hash.hex()}"
        assert 0 < await valkey.pttl(name) <= 1_000
        await app.api_keys.revoke(owner, minted.key.id)
        assert await valkey.exists(name) == 0


async def test_role_that_falls_takes_the_scopes_of_keys_with_it_on_the_other_replica(replicas: Replicas) -> None:
    async with replicas(2) as (one, other):
        auth = world_of(one)
        owner = await auth.owner()
        user = await auth.member(owner, Role.ADMIN)
        key = ApiKeySecret((await auth.key(caller_of(user))).secret)
        assert "users:write" in (await other.exchange.trade(key, None, ["auth"])).grant.scopes
        await one.accounts.update(owner, user.id, UserChange(role=Role.VIEWER))
        deadline = time.monotonic() + REVOKED_WITHIN_S
        while "users:write" in (await other.exchange.trade(key, None, ["auth"])).grant.scopes:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_replicas_sign_with_the_same_key_from_their_first_start(replicas: Replicas) -> None:
    async with replicas(3) as apps:
        assert len({app.signing_keys.signer().key_id for app in apps}) == 1


async def test_a_hundred_refreshes_at_once_on_two_replicas_have_one_successor(replicas: Replicas) -> None:
    async with replicas(2) as apps:
        auth = world_of(apps[0])
        pair = await auth.tokens(await auth.register())
        work = [apps[number % 2].sessions.refresh(pair.refresh.text) for number in range(100)]
        answers = await asyncio.gather(*work)
        assert len({answer.refresh.text for answer in answers}) == 1
        await apps[1].sessions.refresh(answers[0].refresh.text)


async def test_a_hundred_wrong_passwords_at_once_are_tried_exactly_as_often_as_allowed(
    replicas: Replicas, settings: Settings
) -> None:
    few = settings.model_copy(update={"login_account_burst": 5, "password_threads": 64})
    async with replicas(2, of=few) as apps:
        user = await world_of(apps[0]).register()
        tries = [app.sessions.login for app in apps] * 50
        work = [login(user.email, "wrong password", SessionKind.TOKENS) for login in tries]
        answers = [type(answer) for answer in await asyncio.gather(*work, return_exceptions=True)]
        assert (answers.count(CredentialsInvalid), answers.count(RateLimited)) == (5, 95)


@pytest.fixture(params=["valkey", "cluster"])
async def valkey(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    settings = ValkeySettings(valkey_url=SecretStr(url_of(request)))
    async with open_valkey(settings, application="test") as client:
        yield client


async def test_shared_count_is_exact_and_tells_when_to_come_back(valkey: Client) -> None:
    counter = ValkeyCounter(valkey, SYSTEM_CLOCK)
    waits = await asyncio.gather(*(counter.take("account", RATES) for _ in range(100)))
    assert waits.count(0.0) == 20
    assert all(0 < wait <= 30.0 for wait in waits if wait)


async def test_try_that_was_given_back_is_free_again(valkey: Client) -> None:
    counter = ValkeyCounter(valkey, SYSTEM_CLOCK)
    for _ in range(100):
        assert await counter.take("account", RATES) == 0.0
        await counter.give_back("account", RATES)
    await counter.give_back("unknown", RATES)


async def test_try_that_is_refused_for_everyone_is_not_counted_on_the_account(valkey: Client) -> None:
    counter = ValkeyCounter(valkey, SYSTEM_CLOCK)
    closed = Rates(account=Rate(burst=1, interval_s=60.0), everyone=Rate(burst=1, interval_s=60.0))
    assert await counter.take("one", closed) == 0.0
    assert await counter.take("other", closed) > 0.0
    opened_again = Rates(account=closed.account, everyone=Rate(burst=100, interval_s=60.0))
    assert await counter.take("other", opened_again) == 0.0


async def test_counts_are_forgotten_when_they_say_nothing_any_more(valkey: Client) -> None:
    counter = ValkeyCounter(valkey, SYSTEM_CLOCK)
    await counter.take("account", RATES)
    name = "{parley:auth:tries}:account" if valkey.is_cluster else "parley:auth:tries:account"
    assert 0 < await valkey.pttl(name) <= 30_001


async def test_counter_that_is_away_is_told_and_left_alone_for_a_moment(settings: Settings) -> None:
    away = settings.model_copy(update={"valkey_url": auth_settings().valkey_url})
    async with open_valkey(away, application="test") as client:
        counter = ValkeyCounter(client, SYSTEM_CLOCK)
        for _ in range(2):
            with pytest.raises(CounterUnavailableError):
                await counter.take("account", RATES)
        assert counter._patience.is_pausing


async def test_absent_facts_are_not_remembered(valkey: Client) -> None:
    facts = SharedFacts(valkey, SYSTEM_CLOCK)
    answers: list[str | None] = [None, "text", "another"]

    async def load() -> str | None:
        return answers.pop(0)

    assert [await facts.get("name", load) for _ in range(3)] == [None, "text", "text"]
    await facts.forget(["name"])
    assert await facts.get("name", load) == "another"
