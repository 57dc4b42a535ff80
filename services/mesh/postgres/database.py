"""PostgreSQL: one engine per process, units of work with distinct types for reading and writing, errors translated.

    async with database.read() as read:
        row = (await read.execute(select(...))).one_or_none()   # each query sees what is committed when it begins
    async with database.write() as write:
        await write.execute(insert(...))                        # commits on success, rolls back on any exception
    await database.change(update(...))                          # one statement that commits by itself
    await database.lane().fetch("SELECT ...", argument)          # the same without SQLAlchemy, for what every call asks

A function that takes a `ReadOnly` may be given either; one that takes a `ReadWrite` cannot be given a reader.

Stores of data that may be spread over several instances take `Places` (see `places`), of which a `Database` is one.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from time import monotonic
from typing import Any, Final, Protocol, TypeAlias, TypeVar, TypeVarTuple, overload

from sqlalchemy import ColumnElement, CompoundSelect, Executable, Select, literal, select, true
from sqlalchemy.engine import URL, CursorResult, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool, QueuePool
from sqlalchemy.sql.selectable import TypedReturnsRows

from services.mesh import telemetry
from services.mesh.errors import MeshError
from services.mesh.postgres.errors import Conflict as Conflict  # noqa: PLC0414 - these three belong to the interface
from services.mesh.postgres.errors import constraint_of as constraint_of  # noqa: PLC0414 - as above
from services.mesh.postgres.errors import translated as translated  # noqa: PLC0414 - as above
from services.mesh.postgres.lane import Lane
from services.mesh.settings import DatabaseSettings

CONNECT_TIMEOUT_S: Final = 5.0
POOL_WAIT_S: Final = 3.0
"""For a free connection. A longer wait only moves the queue from PostgreSQL to us."""
CONNECTION_AGE_S_MAX: Final = 1_800
LOCK_TIMEOUT_S: Final = 5.0
IDLE_IN_TRANSACTION_S: Final = 30.0
"""A process that stops in the middle of a transaction must not hold its locks for ever."""
COMMAND_SLACK_S: Final = 2.0
"""The driver gives up this much after PostgreSQL should have ended the statement: the link is dead then."""
ATTEMPTS_MAX: Final = 4
BACKOFF_S: Final = 0.02

_DRIVER: Final = "postgresql+asyncpg"

T = TypeVar("T")
Item = TypeVar("Item")
Ts = TypeVarTuple("Ts")

# Any: columns hold anything, and what a statement without column types returns is not known.
Parameters: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
AnyResult: TypeAlias = CursorResult[*tuple[Any, ...]]

_log = telemetry.logger("mesh.database")
_ENDED: Final = telemetry.counter(
    "parley_mesh_database_transactions",
    "Units of work by kind (read, change, write), and how they ended.",
    ["kind", "outcome"],
)
_SECONDS: Final = telemetry.histogram(
    "parley_mesh_database_transaction_seconds",
    "From the wish for a connection to the end of the unit of work, by kind.",
    ["kind"],
)
_CONNECTIONS: Final = telemetry.gauge(
    "parley_mesh_database_connections_count", "Connections of the pool: used now, and the most there may be.", ["which"]
)


class ReadOnly:
    """A connection for queries: its type admits no other statement, text least of all."""

    __slots__ = ("_connection",)

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @overload
    async def execute(self, statement: Select[*Ts], parameters: Parameters | None = None) -> CursorResult[*Ts]: ...

    @overload
    async def execute(
        self, statement: CompoundSelect[*Ts], parameters: Parameters | None = None
    ) -> CursorResult[*Ts]: ...

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> AnyResult:
        """Runs a query.

        Raises:
            Unavailable, Overloaded, DeadlineExceeded: see `translated`.
        """
        with translated():
            return await self._connection.execute(statement, parameters)


class ReadWrite(ReadOnly):
    """A transaction that may write; with a sequence of parameters a statement runs once for each of them."""

    __slots__ = ()

    @overload
    async def execute(
        self, statement: TypedReturnsRows[*Ts], parameters: Parameters | None = None
    ) -> CursorResult[*Ts]: ...

    @overload
    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> AnyResult: ...

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> AnyResult:
        """Runs a query or a change.

        Raises:
            IntegrityError: a constraint refuses the change; `constraint_of` names it.
            Unavailable, Overloaded, DeadlineExceeded: see `translated`.
        """
        with translated():
            return await self._connection.execute(statement, parameters)


class Elsewhere(Protocol):
    """Who else may answer a read of the same data; see `replicas`."""

    async def read(self, work: Callable[[ReadOnly], Awaitable[T]], is_settled: Callable[[T], bool]) -> T:
        """See `Database.view`."""
        ...

    async def tell(self) -> None:
        """Lets the caller know up to where it has seen or changed the data; called when a change has been made."""
        ...


class Database:
    """The pool of one PostgreSQL database, and the units of work on it.

    Attributes:
        elsewhere: its replicas, where there are any.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        # A statement that is its own transaction costs one round trip instead of three.
        self._alone = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lanes: list[Lane] = []
        self.elsewhere: Elsewhere | None = None

    def lane(self) -> Lane:
        """A connection beside the pool for one kind of statement; see `lane.py`. What it raises is for `translated`."""
        self._lanes.append(Lane(self.engine))
        return self._lanes[-1]

    async def close(self) -> None:
        """Ends all connections."""
        for lane in self._lanes:
            await lane.close()
        await self.engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadOnly]:
        """A connection for queries, each with a snapshot of its own, as under READ COMMITTED."""
        with _counted("read"), translated():
            async with self._alone.connect() as connection:
                yield ReadOnly(connection)

    async def view(
        self, work: Callable[[ReadOnly], Awaitable[T]], *, is_settled: Callable[[T], bool] = lambda _: True
    ) -> T:
        """Does `work`, which may be asked of a replica that has all that the caller has seen, or made.

        Args:
            work: queries; may be done twice.
            is_settled: whether an answer shows nothing that our own processes are still to change; one that does is
                asked for anew, where it is sure to be the latest.
        """
        if self.elsewhere is not None:
            return await self.elsewhere.read(work, is_settled)
        async with self.read() as read:
            return await work(read)

    async def change(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> AnyResult:
        """One statement that is a transaction of its own; a write of several is `write`.

        Raises:
            As `ReadWrite.execute`.
        """
        with _counted("change"), translated():
            async with self._alone.connect() as connection:
                changed = await connection.execute(statement, parameters)
        if self.elsewhere is not None:
            await self.elsewhere.tell()
        return changed

    @asynccontextmanager
    async def write(self) -> AsyncIterator[ReadWrite]:
        """A transaction that commits when the body ends, and rolls back when it raises or is cancelled."""
        with _counted("write"), translated():
            async with self.engine.connect() as connection, connection.begin():
                yield ReadWrite(connection)
        if self.elsewhere is not None:
            await self.elsewhere.tell()

    async def transact(
        self,
        work: Callable[[ReadWrite], Awaitable[T]],
        *,
        attempts_max: int = ATTEMPTS_MAX,
        jitter: Callable[[], float] = random.random,
    ) -> T:
        """Does `work` in a transaction, again when PostgreSQL asks for that: serialization failure or deadlock.

        `work` must have no effect outside of the transaction. Its last failure is raised as `Unavailable`.
        """
        return await repeated(self.write, work, attempts_max=attempts_max, jitter=jitter)

    def of(self, organization_id: str) -> "Database":
        """See `Places`: every organization is here."""
        del organization_id
        return self

    def parts(
        self, items: Sequence[Item], organization_of: Callable[[Item], str]
    ) -> Sequence[tuple["Database", list[Item]]]:
        """See `Places`: there is one part."""
        del organization_of
        return ((self, list(items)),)

    def each(self) -> Sequence["Database"]:
        """See `Places`."""
        return (self,)

    def alone(self) -> Sequence["Database"]:
        """See `Places`."""
        return (self,)

    def present(self, organization_id: ColumnElement[str]) -> ColumnElement[bool]:
        """See `Whole`: everything is."""
        del organization_id
        return true()

    def lanes(self) -> "OneLane":
        """See `Places`."""
        return OneLane(self.lane())

    async def ping(self) -> None:
        """Whether PostgreSQL answers; for readiness.

        Raises:
            Unavailable: it does not.
        """
        async with self.read() as read:
            await read.execute(select(literal(1)))


class OneLane:
    """See `Lanes`: the lane of the one instance."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def ask(
        self,
        items: Sequence[Item],
        organization_of: Callable[[Item], str],
        ask: Callable[[Lane, Sequence[Item]], Awaitable[T]],
    ) -> list[tuple[Sequence[int], T]]:
        """See `Lanes.ask`."""
        del organization_of
        return [(range(len(items)), await ask(self._lane, items))]

    async def ask_each(
        self,
        items: Sequence[Item],
        organization_of: Callable[[Item], str],
        ask: Callable[[Lane, Sequence[Item]], Awaitable[Sequence[T]]],
    ) -> list[T | MeshError | None]:
        """See `Lanes.ask_each`."""
        del organization_of
        try:
            return [*await ask(self._lane, items)]
        except MeshError as error:
            return [error] * len(items)


async def repeated(
    begin: Callable[[], AbstractAsyncContextManager[ReadWrite]],
    work: Callable[[ReadWrite], Awaitable[T]],
    *,
    attempts_max: int = ATTEMPTS_MAX,
    jitter: Callable[[], float] = random.random,
) -> T:
    """Does `work` in a transaction that `begin` begins, and again as `Database.transact` does."""
    for attempt in range(1, attempts_max + 1):
        try:
            async with begin() as transaction:
                return await work(transaction)
        except Conflict as conflict:
            if attempt == attempts_max:
                raise
            _log.warning("transaction_repeated", attempt=attempt, error=repr(conflict.__cause__))
            await asyncio.sleep(BACKOFF_S * 2**attempt * jitter())
    raise AssertionError("attempts_max is at least 1")


@asynccontextmanager
async def open_database(
    settings: DatabaseSettings, *, application: str, pool_wait_s: float = POOL_WAIT_S
) -> AsyncIterator[Database]:
    """The database of a process, its connections closed on leaving. It connects when it is first used.

    Args:
        settings: address, pool size, statement timeout.
        application: name that `pg_stat_activity` shows.
        pool_wait_s: seconds that a transaction waits for a free connection.
    """
    database = Database(_create_engine(settings, application=application, pool_wait_s=pool_wait_s))
    _OPEN[database] = settings.database_pool_size
    try:
        yield database
    finally:
        del _OPEN[database]
        await database.close()


def _create_engine(settings: DatabaseSettings, *, application: str, pool_wait_s: float) -> AsyncEngine:
    """The engine behind a `Database`, every bound explicit."""
    statement_ms = int(settings.database_statement_timeout_s * 1_000)
    return create_async_engine(
        normalized_url(settings.database_url.get_secret_value()),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=pool_wait_s,
        pool_recycle=CONNECTION_AGE_S_MAX,
        # No ping per use: it would cost a round trip each time, and the first error clears the whole pool anyway.
        pool_pre_ping=False,
        pool_use_lifo=True,
        hide_parameters=True,  # they hold what users wrote; statements are logged, their values never
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": settings.database_statement_timeout_s + COMMAND_SLACK_S,
            "server_settings": {
                "application_name": application,
                "statement_timeout": str(statement_ms),
                "lock_timeout": str(int(LOCK_TIMEOUT_S * 1_000)),
                "idle_in_transaction_session_timeout": str(int(IDLE_IN_TRANSACTION_S * 1_000)),
                "timezone": "UTC",
            },
        },
    )


def normalized_url(url: str) -> URL:
    """A `postgres://` or `postgresql://` URL as SQLAlchemy needs it for asyncpg.

    Raises:
        ValueError: it is no PostgreSQL URL.
    """
    parsed = make_url(url)
    if parsed.drivername not in {"postgres", "postgresql", _DRIVER}:
        raise ValueError(f"{parsed.drivername!r} is not a PostgreSQL URL")
    return parsed.set(drivername=_DRIVER)


@contextmanager
def _counted(kind: str) -> Iterator[None]:
    outcome, began = "failed", monotonic()
    try:
        yield
        outcome = "committed"
    finally:
        _ENDED.labels(kind, outcome).inc()
        _SECONDS.labels(kind).observe(monotonic() - began)


def _used(pool: Pool) -> int:
    return pool.checkedout() if isinstance(pool, QueuePool) else 0


# Of this process, each with the most connections of its pool; with shards there are several.
_OPEN: Final[dict[Database, int]] = {}
_CONNECTIONS.labels("max").set_function(lambda: sum(_OPEN.values()))
_CONNECTIONS.labels("used").set_function(lambda: sum(_used(database.engine.pool) for database in _OPEN))
