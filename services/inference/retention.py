"""How long what is over is kept."""

from datetime import datetime, timedelta
from typing import Final, Protocol

from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock

LINES_MAX: Final = 1_000
"""Lines of the ledger that are removed in one transaction: some ten milliseconds, in which nobody waits for them. What
is summed by day stays for good: it is small, and usage is told from it."""
BATCHES_MAX: Final = 20
"""Batches that are removed in one transaction, with 1,000 items each at most."""

_log = telemetry.logger("inference.retention")


class Keeper(Protocol):
    """Keeps what is over until it is old enough."""

    async def forget(self, before: datetime, limit: int) -> int:
        """Removes the oldest from before that time, so many at most; gives how many."""
        ...


class Retention:
    """Removes what is old enough.

    Args:
        keeper: keeps it.
        what: is kept, for the log.
        days: for which it is kept.
        at_once: how much one transaction removes at most.
        clock: says how old it is.
    """

    def __init__(self, keeper: Keeper, what: str, *, days: int, at_once: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._keeper = keeper
        self._what = what
        self._age = timedelta(days=days)
        self._at_once = at_once
        self._clock = clock

    async def forget(self) -> None:
        """Removes it all, some at a time; several replicas take different ones, or the others find nothing to do."""
        before, count = self._clock.now() - self._age, 0
        while removed := await self._keeper.forget(before, self._at_once):
            count += removed
        if count:
            _log.info("forgotten", what=self._what, count=count, before=before.isoformat())
