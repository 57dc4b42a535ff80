"""Numbers the steps of one turn, adds them to its draft, and journals them in the worker's group commit.

While a write is under way, adjacent pieces of text become one event: an idle worker shows each token at once, a busy
one shows the same text in fewer events.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Final, assert_never

from services.conversation.events import Payload, TextDelta, TurnEvent
from services.conversation.journal.port import Batch, Receipt
from services.conversation.running.recovery import Recovered
from services.conversation.store.work import Claim
from services.mesh.errors import MeshError
from services.mesh.groupcommit import GroupCommit

TEXT_LENGTH_MAX: Final = 4_096
"""Of one event, in code points."""
BATCH_MAX: Final = 256
UNSENT_MAX: Final = 2_000
"""Events kept while the journal is away. Older ones are dropped: they are folded by then."""
RETRY_S: Final = 0.2


class Loss(StrEnum):
    """What tells a worker that a turn is no longer its own."""

    CLOCK = "clock"
    """Its lease has passed by its own clock: it was paused, or could not renew it."""
    JOURNAL = "journal"
    """A later fence is in the journal."""
    STORE = "store"
    """PostgreSQL refused a write under its fence."""
    SILENCE = "silence"
    """PostgreSQL was away for as long as a lease."""


class TurnWriter:
    """The only one who adds to a turn's draft while its worker has it.

    Args:
        commit: appends the batches of all turns of this worker.
        claim: the worker's.
        recovered: where the attempt begins.
        lease_until: by `clock`; a worker that was paused for longer than its lease writes nothing.
        clock: see `Timing.clock`.

    Attributes:
        draft: the answer so far; `draft.last_sequence` is the last number given.
        epoch: of the journal that it writes in.
        is_detached: whether that journal refuses it, or never could be reached. It writes nothing before somebody has
            seen to it that the turn is still this worker's, has joined the present journal, and says so here.
        sequence_limit: no event gets a higher number before a fold has raised the limit.
        changed: is set when there are new events, and when the turn is lost or the journal refuses it.
        lost: is set when a later worker has the turn.
        lost_by: what told so.
    """

    def __init__(
        self,
        commit: GroupCommit[Batch, Receipt],
        claim: Claim,
        recovered: Recovered,
        *,
        lease_until: float,
        clock: Callable[[], float],
    ) -> None:
        self.draft = recovered.draft
        self.epoch = recovered.epoch
        self.is_detached = not recovered.epoch
        self.sequence_limit = recovered.sequence_limit
        self.changed = asyncio.Event()
        self.lost = asyncio.Event()
        self.lost_by: Loss | None = None
        self._commit = commit
        self._hold = claim.hold
        self._attempt = claim.turn.attempt
        self._clock = clock
        self._lease_until = lease_until
        self._steps: list[Payload] = []
        self._unsent: list[TurnEvent] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def has_waiting(self) -> bool:
        """Whether steps wait for a number, because the limit is reached."""
        return bool(self._steps)

    def put(self, *steps: Payload) -> None:
        """Adds steps in their order; they are numbered and journalled soon."""
        self._steps.extend(steps)
        self._idle.clear()
        self._wake.set()

    def renewed(self, *, sent_at: float, lease_s: float) -> None:
        """Takes note of a renewed lease; `sent_at` is when the renewal was sent, which is before the database's now."""
        self._lease_until = sent_at + lease_s

    def raised(self, sequence_limit: int) -> None:
        """Takes note of a raised limit."""
        self.sequence_limit = sequence_limit
        self._wake.set()

    async def run(self) -> None:
        """Journals until cancelled, or until the turn is lost."""
        while not self.lost.is_set():
            await self._wake.wait()
            self._wake.clear()
            while self._number() or self._unsent:
                await self._send()
                if self.lost.is_set():
                    return
            if not self._steps:
                self._idle.set()

    async def flush(self, *, wait_s: float) -> bool:
        """Waits until everything put is journalled; False when that took longer than `wait_s` seconds.

        Either way everything put is in the draft then, up to the limit, so a fold stores it.
        """
        try:
            async with asyncio.timeout(wait_s):
                await self._idle.wait()
        except TimeoutError:
            while self._number():
                pass
            return False
        return True

    def _number(self) -> bool:
        """Numbers steps that wait and adds them to the draft; whether there were any."""
        numbered = 0
        while self._steps and numbered < BATCH_MAX and self.draft.last_sequence < self.sequence_limit:
            event = TurnEvent(self.draft.last_sequence + 1, self._attempt, self._next_step())
            self.draft.apply(event)
            self._unsent.append(event)
            numbered += 1
        if numbered:
            self.changed.set()
        if len(self._unsent) > UNSENT_MAX:
            del self._unsent[:-UNSENT_MAX]
        return numbered > 0

    def _next_step(self) -> Payload:
        step = self._steps[0]
        taken = 1
        if isinstance(step, TextDelta):
            pieces, length = [step.text], len(step.text)
            for following in self._steps[1:]:
                if not isinstance(following, TextDelta) or length + len(following.text) > TEXT_LENGTH_MAX:
                    break
                pieces.append(following.text)
                length += len(following.text)
                taken += 1
            step = TextDelta(step.part_id, step.offset, "".join(pieces))
        del self._steps[:taken]
        return step

    async def _send(self) -> None:
        if self._clock() >= self._lease_until:
            self._lose(Loss.CLOCK)
            return
        if self.is_detached:
            await asyncio.sleep(RETRY_S)
            return
        batch = Batch(self._hold.ref.turn_id, self._hold.fence, self.epoch, tuple(self._unsent[:BATCH_MAX]))
        try:
            receipt = await self._commit.add(batch)
        except MeshError:  # PostgreSQL has the answer; watchers fall back to it until the journal is back
            await asyncio.sleep(RETRY_S)
            return
        match receipt:
            case Receipt.TAKEN:
                sent = batch.events[-1].sequence
                self._unsent = [event for event in self._unsent if event.sequence > sent]
            case Receipt.OUTDATED:
                self._lose(Loss.JOURNAL)
            case Receipt.DETACHED:
                self.is_detached = True
                self.changed.set()
            case _:
                assert_never(receipt)

    def _lose(self, by: Loss) -> None:
        self.lost_by = by
        self.lost.set()
        self.changed.set()
