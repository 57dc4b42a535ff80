"""Works on batches, on any replica: claim one, do what can be done now, say when to come back.

A runner may die anywhere: its lease lapses, the next one takes over, and what the dead one still writes is refused.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from services.inference.batches import metrics
from services.inference.batches.model import BatchState, Claim
from services.inference.batches.ordinary import Ordinary
from services.inference.batches.outcomes import Stop, stop_of, stopped
from services.inference.batches.pacing import Pace
from services.inference.batches.paying import Till
from services.inference.batches.store import BatchStore, LeaseLostError
from services.inference.batches.vendors import Vendors
from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import MeshError
from services.mesh.ids import new_id
from services.mesh.tasks import Loop

STOPPED_AT_ONCE: Final = 200
"""Items that are given up in one go."""

_log = telemetry.logger("inference.batches")


class Steps:
    """What is done with a batch while it is in hand.

    Args:
        store: keeps it.
        vendors: hand items over.
        ordinary: answers the others.
        till: gives back what is reserved for what is not begun.
        clock: says when.
    """

    def __init__(self, store: BatchStore, vendors: Vendors, ordinary: Ordinary, till: Till, *, clock: Clock) -> None:
        self._store = store
        self._vendors = vendors
        self._ordinary = ordinary
        self._till = till
        self._clock = clock

    async def take(self, claim: Claim) -> datetime | None:
        """Does what can be done now; gives when to come back, None when the batch is at its end.

        Raises:
            LeaseLostError: somebody else has the batch.
            MeshError: PostgreSQL is away.
        """
        batch = claim.batch
        if batch.state is BatchState.PREPARING:
            _log.warning("batch_given_up", batch=batch.id)
            await self._give_back_all(claim)
            await self._store.purge(claim)
            return None
        stop = stop_of(batch, self._clock.now())
        handovers = await self._store.handovers(claim)
        looks = [await self._vendors.advance(claim, handover, stop) for handover in handovers]
        if stop is None:
            looks += await self._vendors.hand_over(claim)
            await self._ordinary.answer_some(claim)
        else:
            await self._stop(claim, stop)
        return await self._rest(claim, looks)

    async def _stop(self, claim: Claim, stop: Stop) -> None:
        """Nothing that waits is begun any more."""
        while waiting := await self._store.unfinished(claim, limit=STOPPED_AT_ONCE):
            ended = [stopped(item, stop) for item in waiting]
            await self._till.release(claim.batch, ended)
            await self._store.write(claim, ended)
            for item in ended:
                metrics.count(item)

    async def _give_back_all(self, claim: Claim) -> None:
        """What a batch reserved that nobody was told of."""
        while waiting := await self._store.unfinished(claim, limit=STOPPED_AT_ONCE):
            await self._till.release(claim.batch, waiting)
            await self._store.write(claim, [stopped(item, Stop.CANCELLED) for item in waiting])

    async def _rest(self, claim: Claim, looks: Iterable[datetime | None]) -> datetime | None:
        """When to come back, which is not later than when the batch is due; None when nothing is open any more."""
        batch, now = claim.batch, self._clock.now()
        times = [at for at in (*looks, await self._store.next_ready(claim)) if at is not None]
        if times:
            return min(*times, batch.due_at) if now < batch.due_at else min(times)
        await self._store.end(claim, at=now)
        _log.info(
            "batch_ended",
            batch=batch.id,
            organization_id=batch.organization_id,
            duration_s=round((now - batch.created_at).total_seconds(), 1),
        )
        return None


class Runner:
    """Works on batches until it is cancelled; several at once.

    Args:
        store: where they are.
        steps: what is done with one.
        pace: how many, and how often.
        clock: says when.
    """

    def __init__(self, store: BatchStore, steps: Steps, *, pace: Pace, clock: Clock) -> None:
        self._store = store
        self._steps = steps
        self._pace = pace
        self._clock = clock
        self._free = asyncio.Semaphore(pace.batches)
        self._is_stopping = False

    def loop(self) -> Loop:
        """What has to run beside the server."""
        return Loop("inference_batches", self.run, drain=self.drain)

    async def run(self) -> None:
        """Works until cancelled, or until `drain`."""
        async with asyncio.TaskGroup() as group:
            while not self._is_stopping:
                await self._free.acquire()
                claim = await self._claimed()
                if claim is None:
                    self._free.release()
                    await asyncio.sleep(self._pace.idle_s * (0.9 + 0.2 * self._pace.chance()))
                else:
                    group.create_task(self._work_and_free(claim), name=f"batch {claim.batch.id}")

    async def drain(self) -> None:
        """Takes no further batch, and returns when those in hand are given back."""
        self._is_stopping = True
        for _ in range(self._pace.batches):
            await self._free.acquire()

    async def step(self) -> bool:
        """Works on one batch; False when none wants anything."""
        claim = await self._claimed()
        if claim is not None:
            await self._work(claim)
        return claim is not None

    async def _claimed(self) -> Claim | None:
        now = self._clock.now()
        try:
            return await self._store.claim(lease=new_id("lease"), until=now + self._pace.lease, now=now)
        except MeshError as error:
            _log.warning("batches_not_claimed", error=repr(error.__cause__ or error))
            return None

    async def _work_and_free(self, claim: Claim) -> None:
        try:
            await self._work(claim)
        finally:
            self._free.release()

    async def _work(self, claim: Claim) -> None:
        back_at: datetime | None = self._clock.now()  # for others, when this process is about to end
        try:
            back_at = await self._taken(claim)
        except* LeaseLostError:
            _log.warning("batch_lease_lost", batch=claim.batch.id)
            back_at = None
        except* MeshError as errors:
            _log.warning("batch_step_failed", batch=claim.batch.id, errors=[repr(one) for one in errors.exceptions])
            back_at = self._pace.retry_at(1, self._clock.now())
        except* Exception:  # noqa: BLE001 - the worker loop: what breaks one batch must not keep the others waiting
            _log.exception("batch_step_broke", batch=claim.batch.id)
            back_at = self._pace.retry_at(1, self._clock.now())
        finally:
            if back_at is not None:
                await asyncio.shield(self._release(claim, back_at))

    async def _taken(self, claim: Claim) -> datetime | None:
        """One step, throughout which the lease is kept up."""
        async with asyncio.TaskGroup() as group:
            upkeep = group.create_task(self._keep_up(claim), name=f"lease {claim.batch.id}")
            back_at = await self._steps.take(claim)
            upkeep.cancel()
        return back_at

    async def _keep_up(self, claim: Claim) -> None:
        """Renews the lease; when somebody else has the batch, the step ends with it."""
        while True:
            await asyncio.sleep(self._pace.lease_s / 4)
            try:
                await self._store.renew(claim, until=self._clock.now() + self._pace.lease)
            except MeshError as error:  # without a database the lease lapses by itself, and nothing can be written
                _log.warning("batch_lease_not_renewed", batch=claim.batch.id, error=repr(error))

    async def _release(self, claim: Claim, at: datetime) -> None:
        try:
            await self._store.release(claim, at=at, now=self._clock.now())
        except (MeshError, LeaseLostError) as error:  # it lapses by itself
            _log.warning("batch_lease_not_released", batch=claim.batch.id, error=repr(error))
