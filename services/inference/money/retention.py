"""How long the ledger keeps its lines. What is summed by day stays for good: it is small, and usage is told from it."""

from datetime import timedelta
from typing import Final

from services.inference.store import LedgerStore
from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock

BATCH_MAX: Final = 1_000
"""Lines that are deleted in one transaction: some ten milliseconds, in which nobody waits for them."""

_log = telemetry.logger("inference.retention")


class Retention:
    """Deletes lines that are old enough.

    Args:
        store: keeps the lines.
        days: for which a line is kept.
        clock: says how old it is.
    """

    def __init__(self, store: LedgerStore, *, days: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._age = timedelta(days=days)
        self._clock = clock

    async def forget(self) -> None:
        """Deletes them all, a batch at a time; one replica does it, the others find nothing to do."""
        before, count = self._clock.now() - self._age, 0
        while deleted := await self._store.forget(before, BATCH_MAX):
            count += deleted
        if count:
            _log.info("ledger_lines_forgotten", count=count, before=before.isoformat())
