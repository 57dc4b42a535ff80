"""Batches as their owners see them; as runners see them, in `batch_queue`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, case, delete, func, insert, select, update

from services.inference.batches.model import OPEN_MAX, UNFINISHED, Batch, BatchState, Item, Owner
from services.inference.batches.store import check_open
from services.inference.prompts.model import Repeat
from services.inference.store_postgres.batch_queue import PostgresBatchQueue
from services.inference.store_postgres.batch_rows import batch_of, batch_row, counts_of, item_of, item_row
from services.inference.tables import BATCH_ITEMS, BATCHES
from services.mesh.idempotency import check_repeat
from services.mesh.postgres.database import ReadOnly
from services.mesh.postgres.places import Places

_LOCK_NAMESPACE: Final = 1650553185
"""Of creations, per organization; any number that no other lock of the database has."""
_ROWS_PER_INSERT: Final = 200

_batches: Final = BATCHES.c
_items: Final = BATCH_ITEMS.c


class PostgresBatches(PostgresBatchQueue):
    """Implements `batches.store.BatchStore`."""

    def __init__(self, places: Places, *, open_max: int = OPEN_MAX) -> None:
        super().__init__(places)
        self._open_max = open_max

    async def create(
        self, batch: Batch, items: Sequence[Item], repeat: Repeat | None, *, given_up_at: datetime
    ) -> Batch:
        """See `store.BatchShelf.create`."""
        organization_id = batch.organization_id
        async with self._places.of(organization_id).write() as write:
            # One creation per organization at a time: none is one too many, and equal calls make one batch.
            await write.execute(select(func.pg_advisory_xact_lock(_LOCK_NAMESPACE, func.hashtext(organization_id))))
            earlier = await _made(write, batch.owner, repeat)
            if earlier is not None:
                return earlier
            check_open(await _count_open(write, organization_id), self._open_max)
            row = batch_row(batch) | {
                "claimable_at": given_up_at,
                "request_id": None if repeat is None else repeat.request_id,
                "body_hash": None if repeat is None else repeat.body_hash,
            }
            await write.execute(insert(BATCHES).values(row))
            rows = [item_row(organization_id, batch.id, item) for item in items]
            for first in range(0, len(rows), _ROWS_PER_INSERT):
                await write.execute(insert(BATCH_ITEMS), rows[first : first + _ROWS_PER_INSERT])
            return await _counted(write, batch)

    async def start(self, batch: Batch, at: datetime) -> bool:
        """See `store.BatchShelf.start`."""
        started = update(BATCHES).where(*_preparing(batch)).values(state=BatchState.RUNNING.value, claimable_at=at)
        return (await self._places.of(batch.organization_id).change(started)).rowcount == 1

    async def discard(self, batch: Batch) -> None:
        """See `store.BatchShelf.discard`."""
        await self._places.of(batch.organization_id).change(delete(BATCHES).where(*_preparing(batch)))

    async def find(self, owner: Owner, batch_id: str) -> Batch | None:
        """See `store.BatchShelf.find`."""
        async with self._places.of(owner.organization_id).read() as read:
            row = (await read.execute(select(BATCHES).where(*_seen(owner, batch_id)))).mappings().one_or_none()
            return None if row is None else batch_of(row, await counts_of(read, owner.organization_id, [batch_id]))

    async def page(self, owner: Owner, *, before: str, limit: int) -> list[Batch]:
        """See `store.BatchShelf.page`."""
        query = select(BATCHES).where(*_seen_by(owner)).order_by(_batches.id.desc()).limit(limit)
        if before:
            query = query.where(_batches.id < before)
        async with self._places.of(owner.organization_id).read() as read:
            rows = list((await read.execute(query)).mappings())
            counts = await counts_of(read, owner.organization_id, [row["id"] for row in rows])
        return [batch_of(row, counts) for row in rows]

    async def results(self, owner: Owner, batch_id: str, *, after: int, limit: int) -> list[Item]:
        """See `store.BatchShelf.results`."""
        of_batch = and_(_batches.organization_id == _items.organization_id, _batches.id == _items.batch_id)
        is_finished = _items.state.not_in([state.value for state in UNFINISHED])
        query = (
            select(BATCH_ITEMS)
            .join(BATCHES, of_batch)
            .where(*_seen(owner, batch_id), is_finished, _items.number > after)
            .order_by(_items.number)
            .limit(limit)
        )
        async with self._places.of(owner.organization_id).read() as read:
            return [item_of(row) for row in (await read.execute(query)).mappings()]

    async def cancel(self, owner: Owner, batch_id: str, at: datetime) -> bool:
        """See `store.BatchShelf.cancel`."""
        running = (*_seen(owner, batch_id), _batches.state == BatchState.RUNNING.value)
        asked = update(BATCHES).where(*running).values(state=BatchState.CANCELLING.value, claimable_at=_hurried(at))
        if (await self._places.of(owner.organization_id).change(asked)).rowcount:
            return True
        return await self.find(owner, batch_id) is not None

    async def delete(self, owner: Owner, batch_id: str, at: datetime) -> bool:
        """See `store.BatchShelf.delete`."""
        seen = _seen(owner, batch_id)
        texts = (_items.organization_id == owner.organization_id, _items.batch_id == batch_id)
        async with self._places.of(owner.organization_id).write() as write:
            has_not_ended = (*seen, _batches.ended_at.is_(None))
            marked = update(BATCHES).where(*has_not_ended).values(deleted_at=at, claimable_at=_hurried(at))
            if (await write.execute(marked)).rowcount:
                await write.execute(update(BATCH_ITEMS).where(*texts).values(request=b"", answer=b""))
                return True
            return (await write.execute(delete(BATCHES).where(*seen))).rowcount == 1


async def _made(read: ReadOnly, owner: Owner, repeat: Repeat | None) -> Batch | None:
    """The batch that an earlier call with this request id made.

    Raises:
        IdempotencyMismatch: its owner used it for something else.
    """
    if repeat is None:
        return None
    query = select(BATCHES).where(
        _batches.organization_id == owner.organization_id,
        _batches.user_id == owner.user_id,
        _batches.request_id == repeat.request_id,
    )
    row = (await read.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    check_repeat(bytes(row["body_hash"]), repeat.body_hash)
    return await _counted(read, batch_of(row, {}))


async def _counted(read: ReadOnly, batch: Batch) -> Batch:
    counts = await counts_of(read, batch.organization_id, [batch.id])
    return batch if batch.id not in counts else replace(batch, counts=counts[batch.id])


async def _count_open(read: ReadOnly, organization_id: str) -> int:
    open_ones = select(func.count()).where(_batches.organization_id == organization_id, _batches.ended_at.is_(None))
    return (await read.execute(open_ones)).scalar_one()


def _hurried(at: datetime) -> ColumnElement[Any]:  # Any: an instant, which SQLAlchemy does not type
    """What nobody works on is to be looked at now; a lease keeps its time."""
    return case((_batches.lease.is_(None), func.least(_batches.claimable_at, at)), else_=_batches.claimable_at)


def _preparing(batch: Batch) -> tuple[ColumnElement[bool], ...]:
    return (
        _batches.organization_id == batch.organization_id,
        _batches.id == batch.id,
        _batches.state == BatchState.PREPARING.value,
        _batches.lease.is_(None),
    )


def _seen_by(owner: Owner) -> tuple[ColumnElement[bool], ...]:
    return (
        _batches.organization_id == owner.organization_id,
        _batches.user_id == owner.user_id,
        _batches.deleted_at.is_(None),
        _batches.state != BatchState.PREPARING.value,
    )


def _seen(owner: Owner, batch_id: str) -> tuple[ColumnElement[bool], ...]:
    return (*_seen_by(owner), _batches.id == batch_id)
