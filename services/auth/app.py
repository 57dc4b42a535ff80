"""Puts auth together: settings in, a running service out."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from parley.auth.v1.api_key_service_pb2_grpc import add_ApiKeyServiceServicer_to_server
from parley.auth.v1.organization_service_pb2_grpc import add_OrganizationServiceServicer_to_server
from parley.auth.v1.token_service_pb2_grpc import add_TokenServiceServicer_to_server
from parley.auth.v1.user_service_pb2_grpc import add_UserServiceServicer_to_server
from services.auth.accounts import Accounts
from services.auth.api_keys import ApiKeys
from services.auth.exchange import Exchange
from services.auth.login import COOKIE_IDLE, Sessions
from services.auth.passwords import QUEUE_PER_THREAD, Cost, Passwords
from services.auth.principals import FactCache, Principals
from services.auth.recorder import Recorder
from services.auth.sealing import SealError, Sealing
from services.auth.servicers import ApiKeyServicer, OrganizationServicer, TokenServicer, UserServicer
from services.auth.settings import Settings
from services.auth.shared_state import SharedFacts, ValkeyCounter
from services.auth.signing import RELOAD_S, RotationPolicy, SigningKeys
from services.auth.store import Store
from services.auth.store_postgres import PostgresStore
from services.auth.tables import METADATA, SCHEMA
from services.auth.throttle import LoginThrottle, Rate, Rates, SharedCounter
from services.auth.tokens import AccessTokens, InternalTokens
from services.auth.workloads import Workloads
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.debug_http import Check
from services.mesh.identity import TokenRules, TokenVerifier
from services.mesh.postgres.database import open_database
from services.mesh.postgres.migrate import Migrations
from services.mesh.server import Register, serve
from services.mesh.settings import SettingsError
from services.mesh.tasks import BoundedExecutor, Loop, periodic
from services.mesh.valkey import open_valkey

SESSION_MEMORY: Final = timedelta(days=7)
"""How long a session that is over can still be looked into, and a late reuse of its tokens is recognised as theirs."""
FORGET_EVERY_S: Final = 600.0
FORGET_BATCH: Final = 1_000

MIGRATIONS: Final = Migrations(SCHEMA, METADATA, Path(__file__).parent / "migrations")


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The use cases, put together."""

    store: Store
    sessions: Sessions
    exchange: Exchange
    accounts: Accounts
    api_keys: ApiKeys
    principals: Principals
    signing_keys: SigningKeys
    passwords: Passwords
    recorder: Recorder
    clock: Clock

    async def prepare(self) -> None:
        """What has to be there before the first call.

        Raises:
            SettingsError: the signing keys in the database were sealed with another secret.
        """
        try:
            await self.signing_keys.maintain()
        except SealError as error:
            raise SettingsError(
                "PARLEY_AUTH_KEY_ENCRYPTION_SECRET: is not the secret that the signing keys in the database were "
                "sealed with"
            ) from error
        await self.passwords.prepare()

    def servicers(self) -> tuple[Register, ...]:
        """What the server serves."""
        token_servicer = TokenServicer(self.sessions, self.exchange, self.signing_keys)
        user_servicer = UserServicer(self.accounts, self.sessions)
        organization_servicer = OrganizationServicer(self.accounts)
        api_key_servicer = ApiKeyServicer(self.api_keys)
        return (
            lambda server: add_TokenServiceServicer_to_server(token_servicer, server),
            lambda server: add_UserServiceServicer_to_server(user_servicer, server),
            lambda server: add_OrganizationServiceServicer_to_server(organization_servicer, server),
            lambda server: add_ApiKeyServiceServicer_to_server(api_key_servicer, server),
        )

    def verifier(self) -> TokenVerifier:
        """Of the internal tokens that auth itself accepts."""
        return TokenVerifier(TokenRules(audience="auth"), self.signing_keys, clock=self.clock)

    def loops(self) -> tuple[Loop, ...]:
        """What runs beside the calls."""
        return (
            Loop("auth_recorder", self.recorder.run, drain=self.recorder.drain),
            periodic("auth_signing_keys", self.signing_keys.maintain, every_s=RELOAD_S),
            periodic("auth_old_sessions", self.forget_old_sessions, every_s=FORGET_EVERY_S),
        )

    async def forget_old_sessions(self) -> None:
        """Deletes sessions that were over long ago, a batch at a time."""
        ended_before = self.clock.now() - SESSION_MEMORY
        while await self.store.forget_sessions(ended_before, FORGET_BATCH) == FORGET_BATCH:
            pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the world gives: real in `opened`, fakes or reals in tests."""

    store: Store
    facts: FactCache
    counter: SharedCounter
    hashing: BoundedExecutor
    clock: Clock = SYSTEM_CLOCK
    cost: Cost | None = None


async def serve_api(settings: Settings) -> None:
    """Run the API until SIGTERM."""
    async with opened(settings) as (app, loops, checks):
        await serve(settings, servicers=app.servicers(), verifier=app.verifier(), loops=loops, checks=checks)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[App, tuple[Loop, ...], tuple[Check, ...]]]:
    """The app on the real PostgreSQL and Valkey, prepared for its first call; its loops and checks."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, application="auth"))
        valkey = await stack.enter_async_context(open_valkey(settings, application="auth"))
        threads = settings.password_threads
        facts = SharedFacts(valkey, SYSTEM_CLOCK)
        hashing = BoundedExecutor("passwords", threads=threads, queue_max=QUEUE_PER_THREAD * threads)
        parts = Parts(
            store=PostgresStore(database),
            facts=facts,
            counter=ValkeyCounter(valkey, SYSTEM_CLOCK),
            hashing=await stack.enter_async_context(hashing),
            cost=Cost(memory_kib=settings.password_memory_kib, passes=settings.password_passes),
        )
        app = assemble(settings, parts)
        await app.prepare()
        # Valkey is no condition of readiness: without it everything works, only slower.
        yield app, (Loop("auth_facts", facts.listen), *app.loops()), (Check("database", database.ping),)


def assemble(settings: Settings, parts: Parts) -> App:
    """The use cases on top of `parts`."""
    store, clock = parts.store, parts.clock
    sealing = Sealing(settings.key_encryption_secret.get_secret_value())
    signing_keys = SigningKeys(store, sealing, _rotation(settings), clock)
    passwords = Passwords(parts.hashing, parts.cost)
    principals = Principals(store, parts.facts, clock)
    recorder = Recorder(store, clock, session_idle=COOKIE_IDLE)
    access_tokens = AccessTokens(signing_keys, clock)
    return App(
        store=store,
        sessions=Sessions(
            store=store,
            passwords=passwords,
            throttle=LoginThrottle(parts.counter, _rates(settings), clock),
            principals=principals,
            access_tokens=access_tokens,
            recorder=recorder,
            succession_key=sealing.succession_key,
            clock=clock,
        ),
        exchange=Exchange(
            principals=principals,
            access_tokens=access_tokens,
            internal_tokens=InternalTokens(signing_keys, clock),
            workloads=Workloads(settings.workloads),
            recorder=recorder,
        ),
        accounts=Accounts(
            store=store,
            passwords=passwords,
            principals=principals,
            sealing=sealing,
            clock=clock,
            is_registration_open=settings.registration == "open",
        ),
        api_keys=ApiKeys(store=store, principals=principals, clock=clock),
        principals=principals,
        signing_keys=signing_keys,
        passwords=passwords,
        recorder=recorder,
        clock=clock,
    )


def _rotation(settings: Settings) -> RotationPolicy:
    return RotationPolicy(
        period=timedelta(seconds=settings.signing_key_period_s),
        publish_ahead=timedelta(seconds=settings.signing_key_publish_ahead_s),
    )


def _rates(settings: Settings) -> Rates:
    return Rates(
        account=Rate(burst=settings.login_account_burst, interval_s=settings.login_account_interval_s),
        everyone=Rate(burst=settings.login_everyone_burst, interval_s=settings.login_everyone_interval_s),
    )
