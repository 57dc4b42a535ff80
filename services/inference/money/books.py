"""Writes what calls consumed to the ledger, many lines at a time and behind the calls' backs.

A line is handed over in memory, so a process that is killed loses the lines of the last moments; where a budget of
money is on, their reservations outlive it and are settled in full by whoever finds them expired.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from services.inference.money import metrics
from services.inference.money.model import Alert, Consumed, Hold, Posting
from services.inference.money.rates import Charge, Rates
from services.inference.store import LedgerStore
from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import DeadlineExceeded, Overloaded, Unavailable

PENDING_MAX: Final = 65_536
"""Lines that wait while PostgreSQL is away, ~60 MB."""
BATCH_MAX: Final = 256
PACE_S: Final = 0.25
"""Between two batches, unless one is full before or somebody waits for it. Storing a batch costs PostgreSQL nearly the
same for one line as for ten, and what follows the answer of a call is in no hurry."""
LAPSE_BATCH: Final = 256
_AWAY: Final = (Unavailable, Overloaded, DeadlineExceeded)

_log = telemetry.logger("inference.books")


@dataclass(frozen=True, slots=True)
class _Entry:
    posting: Posting
    corrections: tuple[Charge, ...]


class Books:
    """The ledger as calls see it. `run` must run as a background loop, with `drain` before it is cancelled.

    Args:
        store: keeps the lines.
        rates: buckets per minute that lines put right.
        clock: says when reservations expire.
        pending_max: lines that may wait.
        pace_s: between two batches.
    """

    def __init__(
        self,
        store: LedgerStore,
        rates: Rates,
        *,
        clock: Clock = SYSTEM_CLOCK,
        pending_max: int = PENDING_MAX,
        pace_s: float = PACE_S,
    ) -> None:
        self.store = store
        self.rates = rates
        self._clock = clock
        self._pending_max = pending_max
        self._pace_s = pace_s
        self._pending: deque[_Entry] = deque()
        self._leaving: Sequence[_Entry] = ()
        self._storing = asyncio.Lock()
        self._next_at = 0.0
        self._drains = 0
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._all_stored = asyncio.Event()
        self._all_stored.set()

    def post(self, posting: Posting, corrections: tuple[Charge, ...] = ()) -> None:
        """Takes a line, and what its call used of the rates beyond its estimate. Never waits, never fails."""
        if len(self._pending) >= self._pending_max:
            metrics.LOST.inc()
            _log.error("ledger_line_lost", call_id=posting.call.id, organization_id=posting.call.organization_id)
            return
        self._pending.append(_Entry(posting, corrections))
        metrics.PENDING.set(len(self._pending))
        self._all_stored.clear()
        self._wake.set()
        if len(self._pending) >= BATCH_MAX:
            self._hurry.set()

    async def settle(self, postings: Sequence[Posting]) -> None:
        """Stores lines now, for whoever has to know that they stand; to repeat it changes nothing.

        Raises:
            Unavailable, Overloaded, DeadlineExceeded: PostgreSQL is away, and they may or may not stand.
        """
        await self._settle(postings)
        for posting in postings:
            if posting.consumed is not None:
                metrics.LINES.labels(posting.call.purpose.value).inc()

    async def run(self) -> None:
        """Stores lines until cancelled.

        Raises:
            Unavailable, Overloaded, DeadlineExceeded: PostgreSQL is away; the lines wait, the supervisor tries again.
        """
        while True:
            if not self._pending and not self._leaving:
                self._all_stored.set()
                self._wake.clear()
                await self._wake.wait()
            await self._gather()
            await self._store_batch()

    async def drain(self) -> None:
        """Returns when every line is stored, without waiting for others to gather."""
        self._drains += 1
        self._hurry.set()
        try:
            await self._all_stored.wait()
        finally:
            self._drains -= 1

    def owes(self, organization_ids: Collection[str]) -> bool:
        """Whether calls of these organizations are over whose lines are not yet stored."""
        waiting = (*self._leaving, *self._pending)
        return any(entry.posting.call.organization_id in organization_ids for entry in waiting)

    async def flush(self) -> None:
        """Stores what waits now, for somebody who needs it.

        Raises:
            Unavailable, Overloaded, DeadlineExceeded: PostgreSQL is away; the lines wait.
        """
        for _ in range(len(self._pending) // BATCH_MAX + 1):
            await self._store_batch()

    async def lapse(self) -> None:
        """Settles reservations whose holders died, as if they had consumed what they reserved."""
        while held := await self.store.expired(self._clock.now(), LAPSE_BATCH):
            await self._settle([_lapse(hold) for hold in held])
            metrics.LAPSED.inc(len(held))
            _log.warning("reservations_lapsed", count=len(held))
            if len(held) < LAPSE_BATCH:
                return

    async def _gather(self) -> None:
        """Lets lines gather for as long as the pace says."""
        time = asyncio.get_running_loop().time
        if not self._drains and len(self._pending) < BATCH_MAX and time() < self._next_at:
            self._hurry.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_at):
                    await self._hurry.wait()
        self._next_at = time() + self._pace_s

    async def _store_batch(self) -> None:
        async with self._storing:
            batch = [self._pending.popleft() for _ in range(min(len(self._pending), BATCH_MAX))]
            if not batch:
                return
            self._leaving = batch
            try:
                await self._store_lines([entry.posting for entry in batch])
            except BaseException:
                self._pending.extendleft(reversed(batch))
                raise
            finally:
                self._leaving = ()
            metrics.PENDING.set(len(self._pending))
            corrections = [one for entry in batch for one in entry.corrections]
            if corrections:
                await self.rates.correct(corrections)

    async def _store_lines(self, postings: Sequence[Posting]) -> None:
        try:
            await self._settle(postings)
        except _AWAY:
            raise
        except Exception:  # noqa: BLE001 - the worker loop: a line that cannot be stored is logged and left out
            if len(postings) > 1:  # one bad line must not keep the others out
                for posting in postings:
                    await self._store_lines([posting])
                return
            metrics.LOST.inc()
            _log.exception("ledger_line_lost", call_id=postings[0].call.id)
            return
        for posting in postings:
            if posting.consumed is not None:
                metrics.LINES.labels(posting.call.purpose.value).inc()

    async def _settle(self, postings: Sequence[Posting]) -> None:
        for alert in await self.store.settle(postings, self._clock.now()):
            _announce(alert)


def _lapse(hold: Hold) -> Posting:
    consumed = Consumed(
        input_tokens=hold.input_tokens,
        output_tokens=hold.output_tokens,
        cost_nanos=hold.cost_nanos,
        is_estimated=True,
    )
    return Posting(call=hold.call, consumed=consumed, is_lapse=True)


def _announce(alert: Alert) -> None:
    metrics.ALERTS.labels(alert.period.value, str(alert.percent)).inc()
    _log.warning(
        "budget_alert",
        organization_id=alert.organization_id,
        subject_id=alert.subject_id,
        period=alert.period.value,
        percent=alert.percent,
        limit_nanos=alert.limit_nanos,
        spent_nanos=alert.spent_nanos,
    )
