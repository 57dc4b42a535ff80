"""The store in memory, for tests: one process, one event loop, gone with it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.inference.batches.model import (
    OPEN_MAX,
    UNFINISHED,
    Backlog,
    Batch,
    BatchState,
    Claim,
    Counts,
    Handover,
    Item,
    ItemState,
    Owner,
)
from services.inference.batches.store import LeaseLostError, check_open
from services.inference.prompts.model import Repeat
from services.mesh.idempotency import check_repeat


@dataclass
class _Kept:
    batch: Batch
    items: dict[str, Item]
    claimable_at: datetime
    lease: str = ""
    handovers: dict[str, Handover] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def told(self) -> Batch:
        states = Counter(item.state.value for item in self.items.values())
        return replace(self.batch, counts=Counts(**states))


class MemoryBatches:
    """Implements `store.BatchStore`."""

    def __init__(self, *, open_max: int = OPEN_MAX) -> None:
        self._open_max = open_max
        self._kept: dict[str, _Kept] = {}
        self._requests: dict[tuple[str, str, str], tuple[bytes, str]] = {}

    async def create(
        self, batch: Batch, items: Sequence[Item], repeat: Repeat | None, *, given_up_at: datetime
    ) -> Batch:
        """See `store.BatchShelf.create`."""
        key = (batch.organization_id, batch.user_id, repeat.request_id) if repeat is not None else None
        known = self._requests.get(key) if key is not None else None
        if known is not None and repeat is not None and known[1] in self._kept:
            check_repeat(known[0], repeat.body_hash)
            return self._kept[known[1]].told()
        own = (one.batch for one in self._kept.values() if one.batch.organization_id == batch.organization_id)
        check_open(sum(one.ended_at is None for one in own), self._open_max)
        self._kept[batch.id] = _Kept(batch, {item.id: item for item in items}, given_up_at)
        if key is not None and repeat is not None:
            self._requests[key] = (repeat.body_hash, batch.id)
        return self._kept[batch.id].told()

    async def start(self, batch: Batch, at: datetime) -> bool:
        """See `store.BatchShelf.start`."""
        kept = self._kept.get(batch.id)
        if kept is None or kept.batch.state is not BatchState.PREPARING or kept.lease:
            return False
        kept.batch = replace(kept.batch, state=BatchState.RUNNING)
        kept.claimable_at = at
        return True

    async def discard(self, batch: Batch) -> None:
        """See `store.BatchShelf.discard`."""
        kept = self._kept.get(batch.id)
        if kept is not None and kept.batch.state is BatchState.PREPARING and not kept.lease:
            del self._kept[batch.id]

    async def find(self, owner: Owner, batch_id: str) -> Batch | None:
        """See `store.BatchShelf.find`."""
        kept = self._seen(owner, batch_id)
        return None if kept is None else kept.told()

    async def page(self, owner: Owner, *, before: str, limit: int) -> list[Batch]:
        """See `store.BatchShelf.page`."""
        own = [kept for batch_id in self._kept if (kept := self._seen(owner, batch_id)) is not None]
        own.sort(key=lambda kept: kept.batch.id, reverse=True)
        return [kept.told() for kept in own if not before or kept.batch.id < before][:limit]

    async def results(self, owner: Owner, batch_id: str, *, after: int, limit: int) -> list[Item]:
        """See `store.BatchShelf.results`."""
        kept = self._seen(owner, batch_id)
        items = [] if kept is None else kept.items.values()
        return _by_number(one for one in items if one.state not in UNFINISHED and one.number > after)[:limit]

    async def cancel(self, owner: Owner, batch_id: str, at: datetime) -> bool:
        """See `store.BatchShelf.cancel`."""
        kept = self._seen(owner, batch_id)
        if kept is not None and kept.batch.state is BatchState.RUNNING:
            kept.batch = replace(kept.batch, state=BatchState.CANCELLING)
            _hurry(kept, at)
        return kept is not None

    async def delete(self, owner: Owner, batch_id: str, at: datetime) -> bool:
        """See `store.BatchShelf.delete`."""
        kept = self._seen(owner, batch_id)
        if kept is None:
            return False
        if kept.batch.state is BatchState.ENDED:
            del self._kept[batch_id]
            return True
        kept.batch = replace(kept.batch, deleted_at=at)
        kept.items = {one.id: replace(one, request=b"", answer=b"") for one in kept.items.values()}
        _hurry(kept, at)
        return True

    async def claim(self, *, lease: str, until: datetime, now: datetime) -> Claim | None:
        """See `store.BatchQueue.claim`."""
        ready = [one for one in self._kept.values() if one.batch.ended_at is None and one.claimable_at <= now]
        if not ready:
            return None
        kept = min(ready, key=lambda one: (one.claimable_at, one.batch.id))
        kept.lease, kept.claimable_at = lease, until
        return Claim(kept.told(), lease)

    async def renew(self, claim: Claim, *, until: datetime) -> None:
        """See `store.BatchQueue.renew`."""
        self._held(claim).claimable_at = until

    async def waiting(self, claim: Claim, *, now: datetime, is_batched: bool, limit: int) -> list[Item]:
        """See `store.BatchQueue.waiting`."""
        found = (one for one in self._waiting(claim) if one.ready_at <= now and one.is_batched is is_batched)
        return _by_number(found)[:limit]

    async def unfinished(self, claim: Claim, *, limit: int) -> list[Item]:
        """See `store.BatchQueue.unfinished`."""
        return _by_number(self._waiting(claim))[:limit]

    async def submitted(self, claim: Claim, handover_id: str) -> list[Item]:
        """See `store.BatchQueue.submitted`."""
        items = self._held(claim).items.values()
        return _by_number(one for one in items if (one.state, one.handover_id) == (ItemState.SUBMITTED, handover_id))

    async def handovers(self, claim: Claim) -> list[Handover]:
        """See `store.BatchQueue.handovers`."""
        kept = self._held(claim)
        return [one for one in kept.handovers.values() if one.id not in kept.closed]

    async def vendor_ids(self, key_id: str, *, since: datetime) -> list[str]:
        """See `store.BatchQueue.vendor_ids`."""
        everything = (one for kept in self._kept.values() for one in kept.handovers.values())
        known = [one for one in everything if one.key_id == key_id and one.submitted_at >= since]
        return [one.vendor_id for one in known if one.vendor_id]

    async def hand_over(self, claim: Claim, handover: Handover, items: Sequence[Item]) -> None:
        """See `store.BatchQueue.hand_over`."""
        kept = self._held(claim)
        kept.handovers[handover.id] = handover
        kept.items.update({item.id: item for item in items})

    async def taken(self, claim: Claim, handover: Handover) -> None:
        """See `store.BatchQueue.taken`."""
        self._held(claim).handovers[handover.id] = handover

    async def close(self, claim: Claim, handover_id: str, at: datetime) -> None:
        """See `store.BatchQueue.close`."""
        self._held(claim).closed.add(handover_id)

    async def write(self, claim: Claim, items: Sequence[Item]) -> None:
        """See `store.BatchQueue.write`."""
        kept = self._held(claim)
        for item in items:
            if kept.batch.deleted_at is not None:
                kept.items[item.id] = replace(item, request=b"", answer=b"")
            else:
                kept.items[item.id] = item if item.state in UNFINISHED else replace(item, request=b"")

    async def release(self, claim: Claim, *, at: datetime, now: datetime) -> None:
        """See `store.BatchQueue.release`."""
        kept = self._held(claim)
        before, after = claim.batch, kept.batch
        is_changed = (before.state, before.deleted_at) != (after.state, after.deleted_at)
        kept.lease, kept.claimable_at = "", now if is_changed else at

    async def next_ready(self, claim: Claim) -> datetime | None:
        """See `store.BatchQueue.next_ready`."""
        return min((one.ready_at for one in self._waiting(claim)), default=None)

    async def end(self, claim: Claim, *, at: datetime) -> None:
        """See `store.BatchQueue.end`."""
        kept = self._held(claim)
        if kept.batch.deleted_at is not None:
            del self._kept[kept.batch.id]
        kept.batch, kept.lease = replace(kept.batch, state=BatchState.ENDED, ended_at=at), ""

    async def purge(self, claim: Claim) -> None:
        """See `store.BatchQueue.purge`."""
        del self._kept[self._held(claim).batch.id]

    async def forget(self, before: datetime, limit: int) -> int:
        """See `store.BatchQueue.forget`."""
        ended = [(one.batch.ended_at, key) for key, one in self._kept.items()]
        old = [key for at, key in ended if at is not None and at < before][:limit]
        for key in old:
            del self._kept[key]
        return len(old)

    async def backlog(self) -> Backlog:
        """See `store.BatchQueue.backlog`."""
        made = [one.batch.created_at for one in self._kept.values() if one.batch.ended_at is None]
        return Backlog(len(made), min(made, default=None))

    def _seen(self, owner: Owner, batch_id: str) -> _Kept | None:
        kept = self._kept.get(batch_id)
        if kept is None or kept.batch.owner != owner or kept.batch.deleted_at is not None:
            return None
        return None if kept.batch.state is BatchState.PREPARING else kept

    def _held(self, claim: Claim) -> _Kept:
        kept = self._kept.get(claim.batch.id)
        if kept is None or kept.lease != claim.lease:
            raise LeaseLostError
        return kept

    def _waiting(self, claim: Claim) -> Iterator[Item]:
        return (one for one in self._held(claim).items.values() if one.state is ItemState.WAITING)


def _hurry(kept: _Kept, at: datetime) -> None:
    """What nobody works on is to be looked at now."""
    if not kept.lease:
        kept.claimable_at = min(kept.claimable_at, at)


def _by_number(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda one: one.number)
