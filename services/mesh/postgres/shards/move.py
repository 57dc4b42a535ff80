"""Moves shards to another instance while they are used; writes wait for some seconds at the end, reads never.

    source  open → copying → leaving → left → gone
    target  arriving → following → arrived → open

Rows are copied from a snapshot while the source notes what changes, and what changed is brought after until it is
little. Then writes wait: the rest is brought after, both sides are compared, and the target takes over as soon as no
process can still believe the source. Each step is one transaction on one instance, so whoever starts the same move
again goes on where it ended.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import asyncpg
from sqlalchemy import MetaData

from services.mesh.errors import MeshError
from services.mesh.postgres.shards.copy import Changes, Copy
from services.mesh.postgres.shards.instances import TTL_S
from services.mesh.postgres.shards.schema import ALL_SHARDS, Connection, ShardState, lock_namespace, schema_of

# ruff: noqa: S608 - the name of the schema is our own

CHANGES_FEW: Final = 500
"""That may be left when writes begin to wait; they take some tenths of a second."""
ROUNDS_MAX: Final = 20
"""Of bringing changes after; then the shard changes faster than it can be copied, and writes wait for longer."""
LOCK_TRIES_MAX: Final = 30
LOCK_S: Final = 2.0
"""Nobody who uses a shard waits for longer behind a move that waits for all of them."""
READERS_S: Final = 15.0
"""After which no query that began with the old map can still run: longer than any statement may take."""
MARGIN_S: Final = 0.1

Say = Callable[[str], None]
_State = ShardState


class MoveError(MeshError):
    """The move cannot begin, or not go on."""


class Move:
    """Moves some shards of a service; see `Copy` for the arguments.

    Args:
        say: is told of each step.
        readers_s: seconds to leave the old rows for queries that run.
    """

    def __init__(
        self,
        service: str,
        metadata: MetaData,
        *,
        source: Connection,
        target: Connection,
        say: Say,
        readers_s: float = READERS_S,
    ) -> None:
        self._service = service
        self._metadata = metadata
        self._source = source
        self._target = target
        self._say = say
        self._readers_s = readers_s
        self._table = f"{schema_of(service)}.shards"

    async def run(self, shards: Sequence[int]) -> None:
        """Moves them, those that are equally far together.

        Raises:
            MoveError: the source does not have them, or somebody else moves shards.
            CopyError: the two sides differ; the source goes on as if nothing had been.
        """
        if not await self._source.fetchval(
            "SELECT pg_try_advisory_lock($1, $2)", lock_namespace(self._service), ALL_SHARDS + 2
        ):
            raise MoveError("another move from this instance is under way")
        source, target = await self._states(self._source), await self._states(self._target)
        groups: defaultdict[tuple[_State | None, _State | None], list[int]] = defaultdict(list)
        for shard in shards:
            groups[source.get(shard), target.get(shard)].append(shard)
        for (here, there), numbers in groups.items():
            await self._one(here, there, numbers)

    async def _one(self, here: _State | None, there: _State | None, shards: Sequence[int]) -> None:
        if here not in _UNDER_WAY:
            raise MoveError(f"the source does not have shards {list(shards)}: it says {here and here.value}")
        copy = Copy(self._service, self._metadata, source=self._source, target=self._target, shards=shards)
        if here is _State.OPEN or (here is _State.COPYING and there is not _State.FOLLOWING):
            await self._copy(copy)
            here, there = _State.COPYING, _State.FOLLOWING
        if here is _State.COPYING:
            await self._catch_up(copy)
            await self._freeze(copy)
            here = _State.LEAVING
        if here is _State.LEAVING:
            await self._hand_over(copy, there)
            here = _State.LEFT
        if there is not _State.OPEN:
            await asyncio.sleep(TTL_S + MARGIN_S)
            await self._change(self._target, shards, _State.OPEN, of={_State.ARRIVED})
            self._say("writes go to the target")
        await asyncio.sleep(self._readers_s)
        deleted = await copy.empty(self._source)
        await copy.forget_all()
        await self._change(self._source, shards, _State.GONE, of={_State.LEFT})
        self._say(f"{deleted} rows deleted from the source")

    async def _copy(self, copy: Copy) -> None:
        """Everything once. What was there of an earlier try is dropped."""
        shards = copy.shards
        await self._target.executemany(
            f"INSERT INTO {self._table} AS mine (shard, state, epoch) VALUES ($1, $2, $3) "
            f"ON CONFLICT (shard) DO UPDATE SET state = excluded.state, epoch = excluded.epoch, changed_at = now() "
            f"WHERE mine.state = ANY ($4)",
            [
                (shard, str(_State.ARRIVING), epoch + 1, [str(state) for state in _DROPPABLE])
                for shard, epoch in (await self._epochs(shards)).items()
            ],
        )
        await self._change(self._target, shards, _State.ARRIVING, of={_State.ARRIVING})
        await self._alone(shards, _State.COPYING, of={_State.OPEN, _State.COPYING})
        await copy.empty(self._target)
        async with copy.snapshot():
            changes = await copy.changes()
            async with copy.moving(self._target):
                await copy.all_rows()
                await self._change(self._target, shards, _State.FOLLOWING, of={_State.ARRIVING})
        await copy.forget(changes)
        self._say(f"shards {shards}: copied")

    async def _catch_up(self, copy: Copy) -> None:
        """Until little is left; at the end both sides are compared, row by row, as of one instant."""
        for round_ in range(ROUNDS_MAX):
            async with copy.snapshot():
                changes = await self._follow(copy)
                is_last = len(changes.numbers) < CHANGES_FEW or round_ == ROUNDS_MAX - 1
                rows = await copy.verify() if is_last else 0
            await copy.forget(changes)
            if is_last:
                self._say(f"{rows} rows are the same on both sides")
                return

    async def _follow(self, copy: Copy) -> Changes:
        changes = await copy.changes()
        async with copy.moving(self._target):
            await copy.follow(changes)
        return changes

    async def _freeze(self, copy: Copy) -> None:
        await self._alone(copy.shards, _State.LEAVING, of={_State.COPYING})
        self._say("writes wait")

    async def _hand_over(self, copy: Copy, there: _State | None) -> None:
        """The rest, compared, and the source gives up; if anything fails before that, writes go on there."""
        began = monotonic()
        try:
            if there is not _State.ARRIVED:
                async with copy.snapshot():
                    changes = await self._follow(copy)
                    rows = await copy.verify(changes.keys)
                await self._change(self._target, copy.shards, _State.ARRIVED, of={_State.FOLLOWING})
                self._say(f"{len(changes.numbers)} changes brought after, {rows} rows on both sides")
            await self._change(self._source, copy.shards, _State.LEFT, of={_State.LEAVING})
        except BaseException:
            await asyncio.shield(self._go_on(copy.shards))
            raise
        self._say(f"handed over in {monotonic() - began:.2f} s")

    async def _go_on(self, shards: Sequence[int]) -> None:
        """Lets writes go on at the source. Whoever may have begun to read from the target has to learn of it first."""
        states = await self._states(self._target)
        if any(states.get(shard) is _State.ARRIVED for shard in shards):
            await self._change(self._target, shards, _State.FOLLOWING, of={_State.ARRIVED})
            await asyncio.sleep(TTL_S + MARGIN_S)
        await self._change(self._source, shards, _State.COPYING, of={_State.LEAVING})
        self._say("given up: writes go on at the source")

    async def cancel(self, shards: Sequence[int]) -> None:
        """Gives up a move that has not handed over: drops what was copied, and what was noted.

        Raises:
            MoveError: it has; it can only be finished, and moved back.
        """
        source, target = await self._states(self._source), await self._states(self._target)
        for shard in shards:
            if source.get(shard) is _State.LEAVING:
                await self._go_on([shard])
            elif source.get(shard) not in {_State.OPEN, _State.COPYING} or target.get(shard) is _State.OPEN:
                raise MoveError(f"shard {shard} has no move that could be cancelled")
        await self._alone(shards, _State.OPEN, of={_State.OPEN, _State.COPYING})
        copy = Copy(self._service, self._metadata, source=self._source, target=self._target, shards=shards)
        await copy.forget_all()
        await self._change(self._target, shards, _State.ARRIVING, of={*_DROPPABLE, _State.ARRIVED})
        deleted = await copy.empty(self._target)
        await self._change(self._target, shards, _State.GONE, of={_State.ARRIVING})
        self._say(f"cancelled, {deleted} rows deleted from the target")

    async def _alone(self, shards: Sequence[int], state: _State, *, of: set[_State]) -> None:
        """Changes the state while nobody writes to the shards: who had begun has ended, who comes after sees it."""
        namespace = lock_namespace(self._service)
        for attempt in range(1, LOCK_TRIES_MAX + 1):
            try:
                async with self._source.transaction():
                    await self._source.execute(f"SET LOCAL lock_timeout = {int(LOCK_S * 1_000)}")
                    for number in (ALL_SHARDS, *sorted(shards)):
                        await self._source.execute("SELECT pg_advisory_xact_lock($1, $2)", namespace, number)
                    await self._change(self._source, shards, state, of=of)
                    return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if attempt == LOCK_TRIES_MAX:
                    raise
                self._say("waits for transactions that run")
                await asyncio.sleep(LOCK_S)

    async def _change(self, connection: Connection, shards: Sequence[int], state: _State, *, of: set[_State]) -> None:
        changed = await connection.fetch(
            f"UPDATE {self._table} SET state = $1, changed_at = now() "
            f"WHERE shard = ANY ($2) AND state = ANY ($3) RETURNING shard",
            str(state),
            list(shards),
            [str(each) for each in of],
        )
        if len(changed) != len(shards):
            raise MoveError(f"shards {list(shards)} are not {' or '.join(sorted(of))} any more: who else moves them?")

    async def _states(self, connection: Connection) -> dict[int, _State]:
        rows: list[Any] = await connection.fetch(f"SELECT shard, state FROM {self._table}")
        return {row["shard"]: _State(row["state"]) for row in rows}

    async def _epochs(self, shards: Sequence[int]) -> dict[int, int]:
        rows: list[Any] = await self._source.fetch(
            f"SELECT shard, epoch FROM {self._table} WHERE shard = ANY ($1)", list(shards)
        )
        return {row["shard"]: row["epoch"] for row in rows}


_UNDER_WAY: Final = {_State.OPEN, _State.COPYING, _State.LEAVING, _State.LEFT}
_DROPPABLE: Final = {_State.GONE, _State.ARRIVING, _State.FOLLOWING}
"""States in which an instance has nothing that anybody needs."""
