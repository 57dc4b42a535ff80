"""Read replicas of one PostgreSQL instance: who may be asked what, and how far each of them is.

A replica answers a caller that has told what it has seen (see `positions`), if the replica has replayed that. It is
left out while it is away, lags, follows another timeline or has been promoted. What it does not have, or shows as
unfinished, is asked of the primary again: the work of our own processes is no caller's write, and an end is final.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any, Final, TypeVar

from pydantic import SecretStr
from sqlalchemy import BigInteger, ColumnElement, Integer, Text, cast, column, func, literal_column, select

from services.mesh import deadline, positions, telemetry
from services.mesh.errors import DeadlineExceeded, MeshError, NotFound, Overloaded, Unavailable
from services.mesh.postgres.database import Database, ReadOnly, open_database
from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.rpc import Position
from services.mesh.tasks import Loop, supervised

LOOK_EVERY_S: Final = 0.5
ANSWER_S_MAX: Final = 3.0
"""A replica that has not said for so long how far it is is away."""
_TIMELINE_DIGITS: Final = 8

T = TypeVar("T")

_log = telemetry.logger("mesh.replicas")
_READS: Final = telemetry.counter(
    "parley_mesh_replica_reads",
    "Reads that could be answered by a replica: by one, by the primary as none was far enough, or by both.",
    ["where"],
)
_LAG_S: Final = telemetry.gauge(
    "parley_mesh_replica_lag_seconds", "How old the data of a replica is; infinite while it is left out.", ["replica"]
)

_ORIGIN: Final[ColumnElement[Any]] = literal_column("'0/0'::pg_lsn")  # Any: SQLAlchemy's type of it is not wanted
_AT: Final = func.pg_current_wal_insert_lsn()
# A file of the log is named by its timeline first.
_OF_PRIMARY: Final = select(func.pg_walfile_name(_AT, type_=Text), cast(func.pg_wal_lsn_diff(_AT, _ORIGIN), BigInteger))
# The one is known at every restart point only, the other is not known before the first one.
_TIMELINE: Final = func.greatest(
    select(column("timeline_id", Integer))
    .select_from(func.pg_control_checkpoint().table_valued("timeline_id"))
    .scalar_subquery(),
    select(column("min_recovery_end_timeline", Integer))
    .select_from(func.pg_control_recovery().table_valued("min_recovery_end_timeline"))
    .scalar_subquery(),
    type_=Integer,
)
_OF_REPLICA: Final = select(
    func.pg_is_in_recovery(),
    _TIMELINE,
    cast(func.pg_wal_lsn_diff(func.pg_last_wal_replay_lsn(), _ORIGIN), BigInteger),
)


class Replica:
    """One replica, as it has told of itself."""

    def __init__(self, name: str, database: Database) -> None:
        self.name = name
        self.database = database
        self.position: Position | None = None
        self.lag_s = float("inf")
        self._told_at = -ANSWER_S_MAX

    async def look(self) -> None:
        """Asks how far it is; one that is no replica any more, or away, has no position."""
        asked_at = monotonic()
        try:
            async with asyncio.timeout(_share_s(ANSWER_S_MAX)), self.database.read() as read:
                is_replica, timeline, lsn = (await read.execute(_OF_REPLICA)).one()
        except (MeshError, TimeoutError):
            self.leave_out()
            return
        self.position = Position(timeline, lsn) if is_replica and lsn is not None else None
        self._told_at = asked_at

    def leave_out(self) -> None:
        """Until it answers again."""
        self.position = None

    def has(self, wanted: Position) -> bool:
        """Whether it has replayed that, and goes on."""
        if self.position is None or monotonic() - self._told_at > ANSWER_S_MAX:
            return False
        return self.position.timeline == wanted.timeline and self.position.lsn >= wanted.lsn


class Replicas:
    """Implements `database.Elsewhere`.

    Args:
        primary: what the replicas are of.
        replicas: by the names that they have in metrics.
        place: name of the primary in positions.
        lag_s_max: a replica whose data is older is left out.
    """

    def __init__(self, primary: Database, replicas: Sequence[Replica], *, place: str, lag_s_max: float) -> None:
        self.replicas = replicas
        self._primary = primary
        self._place = place
        self._lag_s_max = lag_s_max
        # Where the primary stood, and when: a replica's data is as old as the latest of these that it has.
        self._stood: deque[tuple[float, Position]] = deque(maxlen=int(2 * lag_s_max / LOOK_EVERY_S) + 2)

    async def follow(self) -> None:
        """Asks all of them again and again."""
        while True:
            await self.look_around()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look_around(self) -> None:
        """Asks all of them once."""
        began = monotonic()
        try:
            self._stood.append((began, await self._position()))
        except MeshError:
            _log.warning("primary_away", place=self._place)
        await asyncio.gather(*(replica.look() for replica in self.replicas))
        for replica in self.replicas:
            lag_s = self._lag_s(replica)
            if (lag_s > self._lag_s_max) != (replica.lag_s > self._lag_s_max):
                _log.info("replica_left_out" if lag_s > self._lag_s_max else "replica_used", replica=replica.name)
            replica.lag_s = lag_s
            _LAG_S.labels(replica.name).set(lag_s)

    async def read(self, work: Callable[[ReadOnly], Awaitable[T]], is_settled: Callable[[T], bool]) -> T:
        """See `database.Elsewhere.read`."""
        wanted = positions.seen(self._place)
        replica = None if wanted is None else await self._far_enough(wanted)
        if replica is not None and (found := await self._from(replica, work)) is not None:
            if is_settled(found[0]):
                _READS.labels("replica").inc()
                return found[0]
            _READS.labels("both").inc()
        elif wanted is not None:
            _READS.labels("primary").inc()
        async with self._primary.read() as read:
            answer = await work(read)
        await self.tell()
        return answer

    async def tell(self) -> None:
        """See `database.Elsewhere.tell`."""
        if positions.are_wanted():
            try:
                positions.tell(self._place, await self._position())
            except MeshError:  # whoever is told nothing is sent to the primary
                _log.warning("primary_away", place=self._place)

    async def _position(self) -> Position:
        async with self._primary.read() as read:
            file, lsn = (await read.execute(_OF_PRIMARY)).one()
        return Position(int(file[:_TIMELINE_DIGITS], 16), lsn)

    async def _far_enough(self, wanted: Position) -> Replica | None:
        """One that has what was seen; the first one is asked, where its latest word is too old to say so."""
        usable = [replica for replica in self.replicas if replica.lag_s <= self._lag_s_max and replica.position]
        random.shuffle(usable)
        for replica in usable:
            if replica.has(wanted):
                return replica
        if usable:
            await usable[0].look()
            if usable[0].has(wanted):
                return usable[0]
        return None

    async def _from(self, replica: Replica, work: Callable[[ReadOnly], Awaitable[T]]) -> tuple[T] | None:
        """What the replica says; None where the primary has to be asked."""
        assert replica.position is not None
        at_least = replica.position
        try:
            async with asyncio.timeout(_share_s()), replica.database.read() as read:
                found = await work(read)
        except (Unavailable, TimeoutError):  # among others that a query was in the way of what it replays
            replica.leave_out()
            return None
        except (NotFound, DeadlineExceeded, Overloaded):
            return None
        # Another replica may be behind this one, and must not be asked next.
        positions.tell(self._place, at_least)
        return (found,)

    def _lag_s(self, replica: Replica) -> float:
        """How old its data is: it has what the primary had then, on the primary's own timeline."""
        if not self._stood or replica.position is None:
            return float("inf")
        now, newest = self._stood[-1]
        if replica.position.timeline != newest.timeline:
            return float("inf")
        had = [at for at, position in self._stood if position <= replica.position]
        return now - max(had) if had else float("inf")


def _share_s(most_s: float | None = None) -> float | None:
    """Half of what the caller has left: a replica that is frozen says nothing, and the primary has to be asked then."""
    left_s = deadline.remaining_s()
    if left_s is None:
        return most_s
    return left_s / 2 if most_s is None else min(most_s, left_s / 2)


@asynccontextmanager
async def open_replicas(
    primary: Database, urls: Sequence[SecretStr], settings: ShardSettings, *, application: str, place: str
) -> AsyncIterator[None]:
    """The replicas of an instance, which answer what `Database.view` asks as long as this lasts.

    Args:
        primary: what they are of.
        urls: of each.
        settings: bounds of connections and statements, as those of the primary.
        application: name that `pg_stat_activity` shows.
        place: name of the primary in positions.
    """
    async with AsyncExitStack() as stack:
        made = []
        for number, url in enumerate(urls):
            of_replica = settings.model_copy(update={"database_url": url})
            database = await stack.enter_async_context(open_database(of_replica, application=application))
            made.append(Replica(f"{place}-{number}", database))
        replicas = Replicas(primary, made, place=place, lag_s_max=settings.database_replica_lag_s_max)
        await stack.enter_async_context(supervised((Loop("replicas", replicas.follow),), drain_s=LOOK_EVERY_S))
        primary.elsewhere = replicas
        try:
            yield
        finally:
            primary.elsewhere = None
