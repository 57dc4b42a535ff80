"""Items on their way through a vendor's batch endpoint: handed over, looked after, collected.

What is about to be handed over is written down first. Whoever finds it later without the vendor's name of it asks the
vendor what became of it, and hands nothing over again before that is known.
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from services.inference.batches import metrics
from services.inference.batches.model import (
    HANDOVER_PREFIX,
    ITEMS_MAX,
    UNFINISHED,
    Batch,
    Claim,
    Handover,
    Item,
    ItemState,
)
from services.inference.batches.outcomes import Stop, after_batch, again, failed, stopped
from services.inference.batches.pacing import Pace
from services.inference.batches.paying import Till
from services.inference.batches.planning import Planner
from services.inference.batches.reading import ItemReader, Read
from services.inference.batches.store import BatchQueue
from services.inference.providers.batching import (
    UNSURE,
    BatchEndpoint,
    BatchItem,
    Fate,
    ItemOutcome,
    State,
    Submission,
    Unrun,
    split,
)
from services.inference.providers.failures import Failure, Kind
from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import MeshError, ProviderRejected, ProviderTimeout, ProviderUnavailable
from services.mesh.ids import new_id

LATE_S_MAX: Final = 3_600.0
"""After its batch was due, a handover is waited for so long: its end was asked for, and comes within minutes."""
KEPT_AT_ONCE: Final = 50
"""Results that are settled and kept in one go."""
KNOWN_SINCE: Final = timedelta(days=2)
"""Of other handovers: a batch that may be the one looked for is no older than that."""

_log = telemetry.logger("inference.batches")


@dataclass(frozen=True, slots=True)
class _Held:
    """A handover in hand."""

    claim: Claim
    handover: Handover
    endpoint: BatchEndpoint
    stop: Stop | None

    @property
    def batch(self) -> Batch:
        return self.claim.batch

    @property
    def submission(self) -> Submission:
        one = self.handover
        return Submission(marker=one.id, model=one.model, submitted_at=one.submitted_at, items_count=one.items_count)


class Vendors:
    """Hands items over to vendors.

    Args:
        queue: where they are kept.
        planner: says what a vendor is asked, and who takes batches.
        reader: reads answers.
        till: settles them.
        pace: how often a vendor is asked.
        clock: says when.
    """

    def __init__(
        self, queue: BatchQueue, planner: Planner, reader: ItemReader, till: Till, *, pace: Pace, clock: Clock
    ) -> None:
        self._queue = queue
        self._planner = planner
        self._reader = reader
        self._till = till
        self._pace = pace
        self._clock = clock

    async def advance(self, claim: Claim, handover: Handover, stop: Stop | None) -> datetime | None:
        """Looks after one handover; gives when to look again, None when nothing more is expected of it.

        Raises:
            LeaseLostError: somebody else has the batch.
            MeshError: PostgreSQL is away.
        """
        now = self._clock.now()
        is_too_late = now >= claim.batch.due_at + timedelta(seconds=LATE_S_MAX)
        key = self._planner.key(handover.model, handover.key_id)
        if is_too_late:
            await self._lose(claim, handover, stop)
            return None
        if key is None or key.line.batches is None:
            # Its results can be had with this key alone; it may be configured again.
            _log.warning("batch_key_missing", batch=claim.batch.id, handover=handover.id, key=handover.key_id)
            return self._pace.poll_at(handover.submitted_at, now)
        try:
            with key.line.used():
                return await self._look(_Held(claim, handover, key.line.batches, stop))
        except Failure as failure:
            _log.warning("batch_not_looked_at", batch=claim.batch.id, handover=handover.id, kind=failure.kind.value)
            return self._pace.retry_at(1, self._clock.now(), asked_s=failure.error.retry_after_s)

    async def hand_over(self, claim: Claim) -> list[datetime]:
        """Hands over what waits for it; gives when to look at each handover.

        Raises:
            LeaseLostError, MeshError: as `advance`.
        """
        waiting = await self._queue.waiting(claim, now=self._clock.now(), is_batched=True, limit=ITEMS_MAX)
        looks: list[datetime] = []
        for model in dict.fromkeys(item.model for item in waiting):
            looks += await self._hand_over_to(claim, model, [item for item in waiting if item.model == model])
        return looks

    async def _hand_over_to(self, claim: Claim, model: str, items: Sequence[Item]) -> list[datetime]:
        key = self._planner.offered(model)
        if key is None or key.line.batches is None:  # the file says something else than it did, or the key is refused
            await self._queue.write(claim, [replace(item, is_batched=False) for item in items])
            return []
        endpoint, looks = key.line.batches, []
        by_id = {item.id: item for item in items}
        with key.line.used():
            for chunk in split(endpoint, await self._prepared(claim, items, endpoint)):
                handover = Handover(
                    id=new_id(HANDOVER_PREFIX),
                    model=model,
                    key_id=key.id,
                    items_count=len(chunk),
                    submitted_at=self._clock.now(),
                )
                held = _Held(claim, handover, endpoint, None)
                looks.append(await self._submit(held, [by_id[one.id] for one in chunk], chunk))
        return looks

    async def _prepared(self, claim: Claim, items: Sequence[Item], endpoint: BatchEndpoint) -> list[BatchItem]:
        """What the vendor will be asked; an item that cannot be asked any more has failed."""
        prepared: list[BatchItem] = []
        for item in items:
            try:
                plan = await self._planner.again(claim.batch, item)
                one = BatchItem(id=item.id, task=plan.task(item.output_tokens_max))
                endpoint.size_of(one)
            except MeshError as error:
                await self._keep(claim, [Read(failed(item, error))])
            else:
                prepared.append(one)
        return prepared

    async def _submit(self, held: _Held, items: Sequence[Item], asked: Sequence[BatchItem]) -> datetime:
        handover = held.handover
        begun = [
            replace(item, state=ItemState.SUBMITTED, attempts=item.attempts + 1, handover_id=handover.id)
            for item in items
        ]
        await self._queue.hand_over(held.claim, handover, begun)
        try:
            vendor_id = await held.endpoint.submit(held.submission, asked)
        except Failure as failure:
            now = self._clock.now()
            _log.warning("batch_not_submitted", batch=held.batch.id, handover=handover.id, kind=failure.kind.value)
            if failure.kind in UNSURE:
                return self._pace.retry_at(1, now, asked_s=failure.error.retry_after_s)
            await self._give_back(held, failure)
            return now
        await self._taken(held, vendor_id, "taken")
        return self._pace.poll_at(handover.submitted_at, self._clock.now())

    async def _look(self, held: _Held) -> datetime | None:
        if not held.handover.vendor_id:
            found = await self._found(held)
            if not isinstance(found, _Held):
                return found
            held = found
        if held.stop is not None and held.handover.cancelled_at is None:
            await held.endpoint.cancel(held.handover.vendor_id)
            held = replace(held, handover=replace(held.handover, cancelled_at=self._clock.now()))
            await self._queue.taken(held.claim, held.handover)
        progress = await held.endpoint.progress(held.handover.vendor_id)
        match progress.state:
            case State.RUNNING:
                since = held.handover.cancelled_at or held.handover.submitted_at
                return self._pace.poll_at(since, self._clock.now())
            case State.REFUSED:
                await self._give_back(held, progress.failure or _refused(held.handover))
                return None
            case State.GONE:
                await self._lose(held.claim, held.handover, held.stop)
                return None
            case State.ENDED:
                await self._collect(held)
                return None

    async def _found(self, held: _Held) -> "_Held | datetime | None":
        """What became of a handover without a name: it with its name, when to ask again, or None when it was none."""
        if not await self._queue.submitted(held.claim, held.handover.id):
            await self._close(held.claim, held.handover)
            return None
        since = held.handover.submitted_at - KNOWN_SINCE
        others = await self._queue.vendor_ids(held.handover.key_id, since=since)
        found = await held.endpoint.find(held.submission, others=others)
        match found.fate:
            case Fate.TAKEN:
                return await self._taken(held, found.batch_id, "found")
            case Fate.UNKNOWN:
                return self._pace.poll_at(held.handover.submitted_at, self._clock.now())
            case Fate.NOT_TAKEN:
                await self._give_back(held, _unreachable(held.handover))
                return None

    async def _taken(self, held: _Held, vendor_id: str, outcome: str) -> _Held:
        handover = replace(held.handover, vendor_id=vendor_id)
        await self._queue.taken(held.claim, handover)
        _count(handover, outcome)
        _log.info("batch_submitted", batch=held.batch.id, handover=handover.id, outcome=outcome)
        return replace(held, handover=handover)

    async def _collect(self, held: _Held) -> None:
        """Settles and keeps every result that there is."""
        waiting = {item.id: item for item in await self._queue.submitted(held.claim, held.handover.id)}
        card = self._planner.card(held.handover.model, held.endpoint)
        reads: list[Read] = []
        async with aclosing(held.endpoint.results(held.handover.vendor_id, held.submission)) as results:
            async for result in results:
                item = waiting.pop(result.item_id, None)
                if item is None:  # kept by an earlier runner, or told twice
                    continue
                outcome = result.outcome
                if isinstance(outcome, Failure | Unrun):
                    reads.append(Read(self._not_answered(held, item, outcome)))
                else:
                    reads.append(await self._reader.read(held.batch, item, outcome.events, card))
                if len(reads) >= KEPT_AT_ONCE:
                    await self._keep(held.claim, reads)
                    reads = []
        await self._keep(held.claim, reads)
        await self._keep(held.claim, [Read(self._lost(item, held.stop)) for item in waiting.values()])
        await self._close(held.claim, held.handover)
        _count(held.handover, "ended")
        await self._discard(held)

    async def _discard(self, held: _Held) -> None:
        """What the vendor keeps of it is not needed any more."""
        try:
            await held.endpoint.discard(held.handover.vendor_id)
        except Failure as failure:  # it keeps it for a month, and then not
            _log.warning("batch_not_discarded", batch=held.batch.id, kind=failure.kind.value)

    def _not_answered(self, held: _Held, item: Item, outcome: ItemOutcome) -> Item:
        if held.stop is not None:
            return stopped(item, held.stop)
        now = self._clock.now()
        if isinstance(outcome, Failure):
            return after_batch(item, outcome, self._pace, now)
        error = ProviderTimeout("the vendor's batch ended before it was run", metadata={"model": item.model})
        return again(item, error, now, is_batched=False)

    async def _give_back(self, held: _Held, failure: Failure) -> None:
        """None of it ran, and none is billed."""
        items = await self._queue.submitted(held.claim, held.handover.id)
        await self._keep(held.claim, [Read(self._not_answered(held, item, failure)) for item in items])
        await self._close(held.claim, held.handover)
        _count(held.handover, "refused")

    async def _lose(self, claim: Claim, handover: Handover, stop: Stop | None) -> None:
        """Nobody can tell what became of it: what is held for it lapses, and so counts as spent."""
        items = await self._queue.submitted(claim, handover.id)
        _log.error("batch_lost", batch=claim.batch.id, handover=handover.id, items=len(items))
        await self._keep(claim, [Read(self._lost(item, stop)) for item in items])
        await self._close(claim, handover)
        _count(handover, "lost")

    def _lost(self, item: Item, stop: Stop | None) -> Item:
        metrics.UNSETTLED.inc()
        left = replace(item, call_id="")
        if stop is not None:
            return stopped(left, stop)
        error = ProviderUnavailable("the vendor gave no result", metadata={"model": item.model})
        return again(left, error, self._clock.now(), is_batched=False)

    async def _close(self, claim: Claim, handover: Handover) -> None:
        await self._queue.close(claim, handover.id, self._clock.now())

    async def _keep(self, claim: Claim, reads: Sequence[Read]) -> None:
        """Settles first: whoever comes after a crash in between reads the same result, and settles the same again."""
        await self._till.settle(claim.batch, [(one.item, one.consumed) for one in reads if one.consumed is not None])
        unused = [one.item for one in reads if one.consumed is None and one.item.state not in UNFINISHED]
        await self._till.release(claim.batch, unused)
        if reads:
            await self._queue.write(claim, [one.item for one in reads])
        for one in reads:
            metrics.count(one.item)
            one.tell()


def _count(handover: Handover, outcome: str) -> None:
    metrics.HANDOVERS.labels(handover.model.partition("/")[0], outcome).inc()


def _refused(handover: Handover) -> Failure:
    return Failure(Kind.REFUSED, ProviderRejected("the vendor refused the batch", metadata={"model": handover.model}))


def _unreachable(handover: Handover) -> Failure:
    error = ProviderUnavailable("the vendor did not take the batch", metadata={"model": handover.model})
    return Failure(Kind.UNREACHABLE, error)
