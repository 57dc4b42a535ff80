"""Batches as runners see them: claims by SKIP LOCKED, leases that every write must match."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, bindparam, case, delete, func, insert, or_, select, update

from services.inference.batches.model import UNFINISHED, Backlog, BatchState, Claim, Handover, Item, ItemState
from services.inference.batches.store import LeaseLostError
from services.inference.store_postgres.batch_rows import (
    batch_of,
    counts_of,
    handover_of,
    handover_row,
    item_of,
    item_row,
)
from services.inference.tables import BATCH_HANDOVERS, BATCH_ITEMS, BATCHES
from services.mesh.postgres.database import ReadWrite
from services.mesh.postgres.places import Places, Whole, first_of

_batches: Final = BATCHES.c
_items: Final = BATCH_ITEMS.c
_handovers: Final = BATCH_HANDOVERS.c
_CHANGING: Final = (
    *("state", "attempts", "ready_at", "is_batched", "call_id", "handover_id", "reason", "message", "request"),
    "answer",
)
_WRITE: Final = (
    update(BATCH_ITEMS)
    .where(
        _items.organization_id == bindparam("of_organization"),
        _items.batch_id == bindparam("of_batch"),
        _items.number == bindparam("of_number"),
    )
    .values({name: bindparam(f"new_{name}") for name in _CHANGING})
)


class PostgresBatchQueue:
    """Implements `batches.store.BatchQueue`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    async def claim(self, *, lease: str, until: datetime, now: datetime) -> Claim | None:
        """See `store.BatchQueue.claim`."""

        async def ask(here: Whole) -> Claim | None:
            next_one = (
                select(_batches.organization_id, _batches.id)
                .where(_batches.ended_at.is_(None), _batches.claimable_at <= now)
                .where(here.present(_batches.organization_id))
                .order_by(_batches.claimable_at, _batches.id)
                .limit(1)
                .with_for_update(skip_locked=True)
                .cte("next_one")
            )
            claimed = (
                update(BATCHES)
                .where(_batches.organization_id == next_one.c.organization_id, _batches.id == next_one.c.id)
                .values(lease=lease, claimable_at=until)
                .returning(*_batches)
            )
            async with here.write() as write:
                row = (await write.execute(claimed)).mappings().one_or_none()
                if row is None:
                    return None
                return Claim(batch_of(row, await counts_of(write, row["organization_id"], [row["id"]])), lease)

        return await first_of(self._places.each(), ask)

    async def renew(self, claim: Claim, *, until: datetime) -> None:
        """See `store.BatchQueue.renew`."""
        await self._change(claim, claimable_at=until)

    async def waiting(self, claim: Claim, *, now: datetime, is_batched: bool, limit: int) -> list[Item]:
        """See `store.BatchQueue.waiting`."""
        ready = (_items.ready_at <= now, _items.is_batched.is_(is_batched))
        return await self._found(claim, _waiting(claim).where(*ready).limit(limit))

    async def unfinished(self, claim: Claim, *, limit: int) -> list[Item]:
        """See `store.BatchQueue.unfinished`."""
        return await self._found(claim, _waiting(claim).limit(limit))

    async def submitted(self, claim: Claim, handover_id: str) -> list[Item]:
        """See `store.BatchQueue.submitted`."""
        of_handover = (_items.state == ItemState.SUBMITTED.value, _items.handover_id == handover_id)
        return await self._found(
            claim, select(BATCH_ITEMS).where(*_of(_items, claim), *of_handover).order_by(_items.number)
        )

    async def handovers(self, claim: Claim) -> list[Handover]:
        """See `store.BatchQueue.handovers`."""
        query = select(BATCH_HANDOVERS).where(*_of(_handovers, claim), _handovers.closed_at.is_(None))
        async with self._places.of(claim.batch.organization_id).read() as read:
            rows = await read.execute(query.order_by(_handovers.submitted_at, _handovers.id))
            return [handover_of(row) for row in rows.mappings()]

    async def vendor_ids(self, key_id: str, *, since: datetime) -> list[str]:
        """See `store.BatchQueue.vendor_ids`."""
        query = select(_handovers.vendor_id).where(
            _handovers.key_id == key_id, _handovers.submitted_at >= since, _handovers.vendor_id != ""
        )
        found: dict[str, None] = {}  # a set that keeps its order: what moves is for a while in two places
        for here in self._places.each():
            async with here.read() as read:
                found.update(dict.fromkeys((await read.execute(query)).scalars()))
        return list(found)

    async def hand_over(self, claim: Claim, handover: Handover, items: Sequence[Item]) -> None:
        """See `store.BatchQueue.hand_over`."""
        async with self._held(claim) as write:
            await write.execute(insert(BATCH_HANDOVERS).values(_handover_row(claim, handover)))
            await _write(write, claim, items)

    async def taken(self, claim: Claim, handover: Handover) -> None:
        """See `store.BatchQueue.taken`."""
        async with self._held(claim) as write:
            await write.execute(
                update(BATCH_HANDOVERS)
                .where(*_of(_handovers, claim), _handovers.id == handover.id)
                .values(vendor_id=handover.vendor_id, cancelled_at=handover.cancelled_at)
            )

    async def close(self, claim: Claim, handover_id: str, at: datetime) -> None:
        """See `store.BatchQueue.close`."""
        async with self._held(claim) as write:
            await write.execute(
                update(BATCH_HANDOVERS)
                .where(*_of(_handovers, claim), _handovers.id == handover_id)
                .values(closed_at=at)
            )

    async def write(self, claim: Claim, items: Sequence[Item]) -> None:
        """See `store.BatchQueue.write`."""
        if items:
            async with self._held(claim) as write:
                await _write(write, claim, items)

    async def release(self, claim: Claim, *, at: datetime, now: datetime) -> None:
        """See `store.BatchQueue.release`."""
        is_changed = or_(
            _batches.state != claim.batch.state.value, _batches.deleted_at.is_distinct_from(claim.batch.deleted_at)
        )
        await self._change(claim, claimable_at=case((is_changed, now), else_=at), lease=None)

    async def next_ready(self, claim: Claim) -> datetime | None:
        """See `store.BatchQueue.next_ready`."""
        query = select(func.min(_items.ready_at)).where(*_of(_items, claim), _items.state == ItemState.WAITING.value)
        async with self._places.of(claim.batch.organization_id).read() as read:
            at: datetime | None = (await read.execute(query)).scalar_one()
            return at

    async def end(self, claim: Claim, *, at: datetime) -> None:
        """See `store.BatchQueue.end`."""
        deleted = delete(BATCHES).where(*_held_by(claim), _batches.deleted_at.is_not(None))
        if (await self._places.of(claim.batch.organization_id).change(deleted)).rowcount == 0:
            await self._change(claim, state=BatchState.ENDED.value, ended_at=at, lease=None)

    async def purge(self, claim: Claim) -> None:
        """See `store.BatchQueue.purge`."""
        if (
            await self._places.of(claim.batch.organization_id).change(delete(BATCHES).where(*_held_by(claim)))
        ).rowcount != 1:
            raise LeaseLostError

    async def forget(self, before: datetime, limit: int) -> int:
        """See `store.BatchQueue.forget`."""
        forgotten = 0
        for here in self._places.each():
            old = (
                select(_batches.organization_id, _batches.id)
                .where(_batches.ended_at < before, here.present(_batches.organization_id))
                .order_by(_batches.ended_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
                .cte("old")
            )
            gone = delete(BATCHES).where(_batches.organization_id == old.c.organization_id, _batches.id == old.c.id)
            forgotten += (await here.change(gone)).rowcount
        return forgotten

    async def backlog(self) -> Backlog:
        """See `store.BatchQueue.backlog`."""
        counts, oldest = [], []
        for here in self._places.each():
            query = select(func.count(), func.min(_batches.created_at)).where(
                _batches.ended_at.is_(None), here.present(_batches.organization_id)
            )
            async with here.read() as read:
                count, oldest_at = (await read.execute(query)).one()
            counts.append(count)
            oldest += [] if oldest_at is None else [oldest_at]
        return Backlog(sum(counts), min(oldest, default=None))

    async def _found(self, claim: Claim, query: Select[*tuple[Any, ...]]) -> list[Item]:  # Any: columns of any type
        async with self._places.of(claim.batch.organization_id).read() as read:
            return [item_of(row) for row in (await read.execute(query)).mappings()]

    async def _change(self, claim: Claim, **values: object) -> None:
        changed = await self._places.of(claim.batch.organization_id).change(
            update(BATCHES).where(*_held_by(claim)).values(**values)
        )
        if changed.rowcount != 1:
            raise LeaseLostError

    @asynccontextmanager
    async def _held(self, claim: Claim) -> AsyncIterator[ReadWrite]:
        """A transaction throughout which the lease holds."""
        async with self._places.of(claim.batch.organization_id).write() as write:
            held = select(_batches.id).where(*_held_by(claim)).with_for_update()
            if (await write.execute(held)).first() is None:
                raise LeaseLostError
            yield write


async def _write(write: ReadWrite, claim: Claim, items: Sequence[Item]) -> None:
    batch = claim.batch
    # The claim may be older than a deletion, which its texts must not outlive.
    deleted = select(_batches.deleted_at).where(*_held_by(claim))
    is_deleted = (await write.execute(deleted)).scalar_one() is not None
    rows = []
    for item in items:
        row = item_row(batch.organization_id, batch.id, item)
        if is_deleted or item.state not in UNFINISHED:
            row["request"] = b""
        if is_deleted:
            row["answer"] = b""
        key = {"of_organization": batch.organization_id, "of_batch": batch.id, "of_number": item.number}
        rows.append(key | {f"new_{name}": row[name] for name in _CHANGING})
    await write.execute(_WRITE, rows)


def _waiting(claim: Claim) -> Select[*tuple[Any, ...]]:  # Any: columns of any type
    return (
        select(BATCH_ITEMS).where(*_of(_items, claim), _items.state == ItemState.WAITING.value).order_by(_items.number)
    )


def _handover_row(claim: Claim, handover: Handover) -> dict[str, Any]:  # Any: as `Row`
    return handover_row(claim.batch.organization_id, claim.batch.id, handover)


def _of(columns: Any, claim: Claim) -> tuple[ColumnElement[bool], ...]:  # Any: columns by name, of either table
    return columns.organization_id == claim.batch.organization_id, columns.batch_id == claim.batch.id


def _held_by(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (
        _batches.organization_id == claim.batch.organization_id,
        _batches.id == claim.batch.id,
        _batches.lease == claim.lease,
    )
