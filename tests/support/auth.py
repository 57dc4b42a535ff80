"""Auth for tests: its use cases on any store, with cheap hashes, a clock that is moved by hand and no shared state."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count
from typing import Final

from pydantic import SecretStr

from services.auth.accounts import NewUser, Registration
from services.auth.api_keys import MintedKey, NewKey
from services.auth.app import App, Parts, assemble
from services.auth.credentials import Kind
from services.auth.exchange import ApiKeySecret, Subject
from services.auth.login import TokenPair
from services.auth.model import Caller, Grant, OrganizationId, Role, SessionKind, User, UserId
from services.auth.passwords import Cost
from services.auth.principals import FactCache
from services.auth.scopes import ALL_SCOPES, ROLE_SCOPES
from services.auth.settings import Settings
from services.auth.store import Store
from services.auth.store_memory import MemoryStore
from services.auth.throttle import CounterUnavailableError, Rates, SharedCounter
from services.auth.workloads import WorkloadProof
from services.mesh.clock import Clock, ManualClock
from services.mesh.ids import new_id
from services.mesh.tasks import BoundedExecutor

PASSWORD: Final = "correct horse battery staple"
ENCRYPTION_SECRET: Final = "a secret of the test, of more than 32 characters"
EDGE: Final = WorkloadProof("edge", "the secret of the edge")
CONVERSATION: Final = WorkloadProof("conversation", "the secret of conversation")
RETRIEVAL: Final = WorkloadProof("retrieval", "the secret of retrieval")
CHEAP: Final = Cost(memory_kib=8, passes=1)
"""What Argon2 does at least; the real cost has tests of its own."""

_numbers: Final = count(1)


class NoCache:
    """Implements `principals.FactCache` by remembering nothing."""

    async def get(self, name: str, load: Callable[[], Awaitable[str | None]]) -> str | None:
        return await load()

    async def forget(self, names: Sequence[str]) -> None:
        return None


class NoCounter:
    """Implements `throttle.SharedCounter` as one that is away, so that the local limits count."""

    async def take(self, account: str, rates: Rates) -> float:
        raise CounterUnavailableError

    async def give_back(self, account: str, rates: Rates) -> None:
        raise CounterUnavailableError


def auth_settings(**changes: object) -> Settings:
    """Settings of a replica; `changes` by field name."""
    proofs = (EDGE, CONVERSATION, RETRIEVAL)
    return Settings.model_validate(
        {
            "PARLEY_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
            "PARLEY_VALKEY_URL": "redis://127.0.0.1:1/0",
            "key_encryption_secret": SecretStr(ENCRYPTION_SECRET),
            "workloads": {proof.name: sha256(proof.secret.encode()).hexdigest() for proof in proofs},
            "registration": "open",
            **changes,
        }
    )


@dataclass(slots=True, kw_only=True)
class World:
    """One replica of auth, and short words for what tests do with it."""

    app: App
    clock: Clock

    async def owner(self) -> Caller:
        """The owner of a new organization."""
        return caller_of(await self.register())

    async def register(self) -> User:
        return await self.app.accounts.register(Registration(email=new_email(), password=PASSWORD))

    async def member(self, owner: Caller, role: Role = Role.MEMBER) -> User:
        """A new member of the owner's organization."""
        return await self.app.accounts.create(owner, new_user(role=role))

    async def key(self, caller: Caller, *scopes: str) -> MintedKey:
        wanted = NewKey(display_name="test", scopes=frozenset(scopes), expires_at=None)
        return await self.app.api_keys.create(caller, wanted)

    async def tokens(self, user: User) -> TokenPair:
        """A login that is carried by tokens."""
        logged_in = await self.app.sessions.login(user.email, PASSWORD, SessionKind.TOKENS)
        assert logged_in.tokens is not None
        return logged_in.tokens

    async def cookie(self, user: User) -> str:
        """A login that is carried by a session token."""
        return (await self.app.sessions.login(user.email, PASSWORD, SessionKind.COOKIE)).session_token

    async def grant(self, subject: Subject, workload: WorkloadProof | None = None) -> Grant:
        """What a credential is good for."""
        return (await self.app.exchange.trade(subject, workload, ["auth"])).grant

    async def grant_of_key(self, secret: str) -> Grant:
        return await self.grant(ApiKeySecret(secret))

    async def log_out(self, kind: Kind, token: str) -> None:
        await self.app.sessions.logout(kind, token)


@contextmanager
def world(
    *,
    store: Store | None = None,
    facts: FactCache | None = None,
    counter: SharedCounter | None = None,
    clock: Clock | None = None,
    settings: Settings | None = None,
    cost: Cost = CHEAP,
) -> Iterator[World]:
    """A replica; call `await world.app.prepare()` before its first token."""
    executor = BoundedExecutor("passwords", threads=2, queue_max=200)
    clock = clock or ManualClock()
    parts = Parts(
        store=store or MemoryStore(),
        facts=facts or NoCache(),
        counter=counter or NoCounter(),
        hashing=executor,
        clock=clock,
        cost=cost,
    )
    try:
        yield World(app=assemble(settings or auth_settings(), parts), clock=clock)
    finally:
        executor._pool.shutdown(wait=False, cancel_futures=True)


def new_email() -> str:
    return f"person-{next(_numbers)}@example.com"


def new_user(*, request_id: str = "", role: Role = Role.MEMBER, email: str | None = None) -> NewUser:
    return NewUser(
        request_id=request_id, email=email or new_email(), password=PASSWORD, display_name="Somebody", role=role
    )


def caller_of(user: User, *, credential_id: str = "", scopes: frozenset[str] | None = None) -> Caller:
    """The user as the caller of a method, with all scopes of their role unless told."""
    return Caller(
        organization_id=user.organization_id,
        user_id=user.id,
        scopes=ROLE_SCOPES[user.role] if scopes is None else scopes,
        credential_id=credential_id or new_id("ses"),
    )


def stranger() -> Caller:
    """An owner of an organization that is not in any store."""
    return Caller(
        organization_id=OrganizationId(new_id("org")),
        user_id=UserId(new_id("usr")),
        scopes=ALL_SCOPES,
        credential_id=new_id("ses"),
    )


def narrowed(caller: Caller, *scopes: str) -> Caller:
    """The same caller with a credential of fewer scopes."""
    return replace(caller, scopes=frozenset(scopes))
