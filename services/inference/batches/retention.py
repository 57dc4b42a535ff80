"""How long batches that have ended are kept: their answers are their owner's to fetch, not ours to collect."""

from datetime import timedelta
from typing import Final

from services.inference.batches.store import BatchQueue
from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock

BATCH_MAX: Final = 20
"""Batches that are removed in one transaction, with 1,000 items each at most."""

_log = telemetry.logger("inference.batches")


class BatchRetention:
    """Removes batches that ended long enough ago.

    Args:
        queue: keeps them.
        days: for which results are kept.
        clock: says how old they are.
    """

    def __init__(self, queue: BatchQueue, *, days: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._queue = queue
        self._age = timedelta(days=days)
        self._clock = clock

    async def forget(self) -> None:
        """Removes them all, some at a time; several replicas take different ones."""
        before, count = self._clock.now() - self._age, 0
        while removed := await self._queue.forget(before, BATCH_MAX):
            count += removed
        if count:
            _log.info("batches_forgotten", count=count, before=before.isoformat())
