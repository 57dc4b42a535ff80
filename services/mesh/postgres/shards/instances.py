"""Several PostgreSQL instances as a store sees them: an organization belongs to a shard, a shard to an instance.

Which instance has which shard is said by the instances themselves (see `shards.schema`). A process asks each of them
some times a second, and uses no answer that is older than `TTL_S`: whoever moves a shard waits that long before it may
be changed in its new place, so nobody reads what is no longer true. Writes are checked by the instance in their own
transaction. What finds its shard on the move waits, and goes where it is then.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any, Final, TypeVar

from pydantic import SecretStr
from sqlalchemy import Column, ColumnElement, Executable, Integer, MetaData, Table, Text, func, select, text

from services.mesh import telemetry
from services.mesh.errors import MeshError, Unavailable
from services.mesh.postgres.database import (
    POOL_WAIT_S,
    AnyResult,
    Database,
    ReadOnly,
    ReadWrite,
    open_database,
    repeated,
    translated,
)
from services.mesh.postgres.errors import Conflict, ShardElsewhere
from services.mesh.postgres.places import Places
from services.mesh.postgres.replicas import open_replicas
from services.mesh.postgres.shards.lanes import ShardLanes
from services.mesh.postgres.shards.numbers import MAIN, SHARDS_COUNT, shard_of
from services.mesh.postgres.shards.schema import (
    ALL_SHARDS,
    CHANGEABLE,
    READABLE,
    ShardState,
    Standing,
    lock_namespace,
    schema_of,
)
from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.tasks import Loop, supervised

LOOK_EVERY_S: Final = 0.3
TTL_S: Final = 1.0
"""For which an answer of an instance about its shards may be used; several looks, so that a lost one costs nothing."""
WAIT_S_MAX: Final = 20.0
"""For a shard to arrive. A move takes a few seconds of it; most callers have less time anyway."""
AGAIN_S: Final = 0.1
"""Between two looks of somebody who waits."""

T = TypeVar("T")
Item = TypeVar("Item")

_log = telemetry.logger("mesh.shards")
_WAITED: Final = telemetry.histogram(
    "parley_mesh_shard_wait_seconds", "For a shard that was on the move, by those who waited for it."
)
_HELD: Final = telemetry.gauge(
    # Not `instance`: that is what Prometheus calls the process it asked.
    "parley_mesh_shards_count",
    "Shards that an instance has, by the latest answer of it.",
    ["database_instance"],
)


class Shards:
    """Implements `Places` on several instances."""

    def __init__(self, databases: Mapping[str, Database], *, service: str) -> None:
        self.instances = {name: Instance(self, name, database, service) for name, database in databases.items()}
        self._holders: list[Instance | None] = [None] * SHARDS_COUNT
        self._shards = [Part(self, frozenset({number})) for number in range(SHARDS_COUNT)]

    def of(self, organization_id: str) -> "Part":
        """See `Places.of`."""
        return self._shards[shard_of(organization_id)]

    def parts(self, items: Sequence[Item], organization_of: Callable[[Item], str]) -> list[tuple["Part", list[Item]]]:
        """See `Places.parts`: one for each instance."""
        together: defaultdict[Instance | None, list[Item]] = defaultdict(list)
        for item in items:
            together[self._holders[shard_of(organization_of(item))]].append(item)
        return [
            (Part(self, frozenset(shard_of(organization_of(item)) for item in group)), group)
            for group in together.values()
        ]

    def each(self) -> Sequence["Instance"]:
        """See `Places.each`."""
        return tuple(self.instances.values())

    def alone(self) -> Sequence["Instance"]:
        """See `Places.alone`."""
        return self.each()

    def lanes(self) -> ShardLanes:
        """See `Places.lanes`."""
        return ShardLanes(self, self.each(), lambda: Patience(self))

    async def ping(self) -> None:
        """See `Places.ping`."""
        answers = await asyncio.gather(*(instance.database.ping() for instance in self.each()), return_exceptions=True)
        failures = [answer for answer in answers if answer is not None]
        if len(failures) == len(answers):
            raise failures[0]

    async def follow(self) -> None:
        """Asks all instances again and again."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> list[MeshError]:
        """Asks all instances; returns the errors of those that are away."""
        answers = await asyncio.gather(*(instance.look() for instance in self.each()), return_exceptions=True)
        unknown = [answer for answer in answers if answer is not None and not isinstance(answer, MeshError)]
        if unknown:
            raise unknown[0]
        return [answer for answer in answers if isinstance(answer, MeshError)]

    def learned(self) -> None:
        """Draws the map anew: who says the latest word on a shard has it."""
        for number in range(SHARDS_COUNT):
            said = [
                (standing.epoch, name)
                for name, instance in self.instances.items()
                if (standing := instance.standings.get(number)) is not None and standing.state in READABLE
            ]
            self._holders[number] = self.instances[max(said)[1]] if said else None

    def changer(self, number: int) -> "Instance | None":
        """The instance on which this shard may be changed now, for who does not wait for one; None for none."""
        instance = self._holders[number]
        has = instance is not None and instance.is_fresh() and instance.lets_change(frozenset({number}))
        return instance if has else None

    async def holder(self, numbers: frozenset[int]) -> "Instance":
        """The instance that has all of these shards, as it has said a moment ago.

        Raises:
            Conflict: they have parted since they were put together.
            Unavailable: it is away, or they were on the move for too long.
        """
        patience = None
        while True:
            holders = {self._holders[number] for number in numbers}
            if len(holders) > 1:
                raise Conflict("the organizations are no longer together; try again")
            instance = holders.pop()
            if instance is not None and instance.is_fresh():
                return instance
            patience = patience or Patience(self)
            if instance is not None:
                await patience.look(instance)
            elif failures := await patience.look_around():
                raise failures[0]  # whoever has the shard may be the one that is away


class Patience:
    """How long somebody waits for shards."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._began = monotonic()

    async def look(self, instance: "Instance") -> None:
        """Asks one instance. Raises Unavailable."""
        self._check()
        await instance.look()

    async def look_around(self) -> list[MeshError]:
        """Asks all of them, after a pause; returns the errors of those that are away. Raises Unavailable."""
        self._check()
        await asyncio.sleep(AGAIN_S)
        return await self._shards.look()

    def over(self) -> None:
        """The wait has ended well."""
        _WAITED.observe(monotonic() - self._began)

    def _check(self) -> None:
        if monotonic() - self._began > WAIT_S_MAX:
            raise Unavailable("the organization's data is on the move", retry_after_s=1.0)


class Instance:
    """One PostgreSQL instance among several; implements `Whole`, and `Places` for loops of this instance alone."""

    def __init__(self, shards: Shards, name: str, database: Database, service: str) -> None:
        self.name = name
        self.database = database
        self.standings: Mapping[int, Standing] = {}
        self._shards = shards
        self._lane = database.lane()
        self._looking = asyncio.Lock()
        self._seen_at = -TTL_S
        self._ask = f"SELECT shard, state, epoch FROM {schema_of(service)}.shards"  # noqa: S608 - our own name
        self._enter = text(f"SELECT {schema_of(service)}.enter(:numbers)")
        self._enter_all = select(func.pg_advisory_xact_lock_shared(lock_namespace(service), ALL_SHARDS))
        table = Table("shards", MetaData(schema=schema_of(service)), Column("shard", Integer), Column("state", Text))
        self._changeable = select(table.c.shard).where(table.c.state.in_([str(state) for state in CHANGEABLE]))

    def is_fresh(self) -> bool:
        """Whether its latest word may still be used."""
        return monotonic() - self._seen_at < TTL_S

    async def look(self) -> None:
        """Asks it which shards it has, together with whoever asks at the same time.

        Raises:
            Unavailable: it is away.
        """
        asked_at = monotonic()
        async with self._looking:
            if self._seen_at >= asked_at:
                return
            began = monotonic()
            with translated():
                rows = await self._lane.fetch(self._ask)
            said = {row["shard"]: Standing(ShardState(row["state"]), row["epoch"]) for row in rows}
            self._seen_at = began
        if said != self.standings:
            self.standings = said
            self._shards.learned()
            _HELD.labels(self.name).set(sum(one.state in READABLE for one in said.values()))

    def lets_change(self, numbers: frozenset[int]) -> bool:
        """Whether these shards could be changed here, by its latest word."""
        return all(number in self.standings and self.standings[number].state in CHANGEABLE for number in numbers)

    async def enter(self, write: ReadWrite, numbers: frozenset[int]) -> bool:
        """Keeps these shards in place until the transaction ends; False if they are not here."""
        return bool((await write.execute(self._enter, {"numbers": sorted(numbers)})).scalar_one())

    def read(self) -> AbstractAsyncContextManager[ReadOnly]:
        """See `Units.read`."""
        return self.database.read()

    async def view(
        self, work: Callable[[ReadOnly], Awaitable[T]], *, is_settled: Callable[[T], bool] = lambda _: True
    ) -> T:
        """See `Units.view`."""
        return await self.database.view(work, is_settled=is_settled)

    # Any: columns hold anything.
    async def change(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> AnyResult:
        """See `Units.change`; in a transaction, so that what is `present` stays so."""
        async with self.write() as write:
            return await write.execute(statement, parameters)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[ReadWrite]:
        """See `Units.write`: no shard begins or ends to leave meanwhile."""
        async with self.database.write() as write:
            await write.execute(self._enter_all)
            yield write

    async def transact(self, work: Callable[[ReadWrite], Awaitable[T]]) -> T:
        """See `Units.transact`."""
        return await repeated(self.write, work)

    def present(self, organization_id: ColumnElement[str]) -> ColumnElement[bool]:
        """See `Whole.present`."""
        digest = func.sha256(func.convert_to(organization_id, "UTF8"))
        return (func.get_byte(digest, 0, type_=Integer) % SHARDS_COUNT).in_(self._changeable)

    def of(self, organization_id: str) -> "Part":
        """See `Places.of`."""
        return self._shards.of(organization_id)

    def parts(self, items: Sequence[Item], organization_of: Callable[[Item], str]) -> list[tuple["Part", list[Item]]]:
        """See `Places.parts`."""
        return self._shards.parts(items, organization_of)

    def each(self) -> Sequence["Instance"]:
        """See `Places.alone`."""
        return (self,)

    def alone(self) -> Sequence["Instance"]:
        """See `Places.alone`."""
        return (self,)

    def lanes(self) -> ShardLanes:
        """See `Places.lanes`."""
        return self._shards.lanes()

    async def ping(self) -> None:
        """See `Places.ping`."""
        await self.database.ping()


class Part:
    """Shards that are together; implements `Units`."""

    def __init__(self, shards: Shards, numbers: frozenset[int]) -> None:
        self._shards = shards
        self._numbers = numbers

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadOnly]:
        """See `Units.read`."""
        instance = await self._shards.holder(self._numbers)
        async with instance.database.read() as read:
            yield read

    async def view(
        self, work: Callable[[ReadOnly], Awaitable[T]], *, is_settled: Callable[[T], bool] = lambda _: True
    ) -> T:
        """See `Units.view`."""
        instance = await self._shards.holder(self._numbers)
        return await instance.database.view(work, is_settled=is_settled)

    # Any: columns hold anything.
    async def change(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> AnyResult:
        """See `Units.change`: refused by the instance's trigger where the shard is not, and then repeated."""
        if len(self._numbers) > 1:  # in no order that the trigger could keep, so all of them are entered at first
            async with self.write() as write:
                return await write.execute(statement, parameters)
        patience = None
        while True:
            instance = await self._shards.holder(self._numbers)
            if instance.lets_change(self._numbers):
                try:
                    changed = await instance.database.change(statement, parameters)
                except ShardElsewhere:
                    _log.info("shard_elsewhere", instance=instance.name)
                else:
                    if patience is not None:
                        patience.over()
                    return changed
            patience = patience or Patience(self._shards)
            await patience.look_around()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[ReadWrite]:
        """See `Units.write`: the shards stay where they are until it ends."""
        async with AsyncExitStack() as stack:
            yield await self._entered(stack)

    async def transact(self, work: Callable[[ReadWrite], Awaitable[T]]) -> T:
        """See `Units.transact`."""
        return await repeated(self.write, work)

    async def _entered(self, stack: AsyncExitStack) -> ReadWrite:
        patience = None
        while True:
            instance = await self._shards.holder(self._numbers)
            if instance.lets_change(self._numbers):
                async with AsyncExitStack() as attempt:
                    write = await attempt.enter_async_context(instance.database.write())
                    if await instance.enter(write, self._numbers):
                        stack.push_async_exit(attempt.pop_all())
                        if patience is not None:
                            patience.over()
                        return write
            patience = patience or Patience(self._shards)
            await patience.look_around()


@asynccontextmanager
async def open_places(
    settings: ShardSettings, *, application: str, service: str, pool_wait_s: float = POOL_WAIT_S
) -> AsyncIterator[Places]:
    """The instances that the settings name, closed on leaving; the one that most installations have is a `Database`.

    Args:
        settings: addresses, and what `open_database` wants.
        application: name that `pg_stat_activity` shows.
        service: whose schema it is.
        pool_wait_s: seconds that a transaction waits for a free connection.
    """
    async with AsyncExitStack() as stack:
        databases = {
            name: await stack.enter_async_context(
                open_database(
                    settings.model_copy(update={"database_url": SecretStr(url)}),
                    application=application,
                    pool_wait_s=pool_wait_s,
                )
            )
            for name, url in settings.instances().items()
        }
        for name, urls in settings.database_replicas.items():
            replicas = open_replicas(
                databases[name], urls, settings, application=application, place=f"{service}.{name}"
            )
            await stack.enter_async_context(replicas)
        if len(databases) == 1:
            yield databases[MAIN]
            return
        shards = Shards(databases, service=service)
        await stack.enter_async_context(supervised((Loop("shards", shards.follow),), drain_s=LOOK_EVERY_S))
        yield shards
