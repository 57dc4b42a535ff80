"""What a turn's next worker makes of what its last one left.

Watchers may have seen more than was folded. The journal tells how much, unless it lost something; then the numbers
jump to the limit that no event ever passed, and watchers get a snapshot instead of a second event 57.
"""

from dataclasses import dataclass, replace
from typing import Final

from services.conversation.events import BrokenSequenceError, Draft, TurnEvent, TurnFinished
from services.conversation.journal.port import Batch, Journal, Receipt
from services.conversation.store.work import Claim, Ending, Finished, Fold, Hold, WorkStore
from services.mesh import telemetry
from services.mesh.errors import MeshError

SEQUENCES_RESERVED: Final = 4_096
"""Numbers that a worker may use between two folds: at one fold per second, far more than any model writes."""
READ_MAX: Final = 1_000

_log = telemetry.logger("conversation.recovery")
_RECOVERIES: Final = telemetry.counter(
    "parley_conversation_recoveries", "Turns taken over from another worker, by what the journal held.", ["journal"]
)


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where an attempt begins; `epoch` is where it journals, empty when the journal is away."""

    draft: Draft
    epoch: str
    sequence_limit: int


class Recovery:
    """Takes over turns, and closes those that nobody shall answer any more."""

    def __init__(self, store: WorkStore, journal: Journal, *, lease_s: float, journal_keep_s: int) -> None:
        self._store = store
        self._journal = journal
        self._lease_s = lease_s
        self._journal_keep_s = journal_keep_s

    async def epoch(self) -> str:
        """The journal's epoch, empty when it is away."""
        try:
            return await self._journal.epoch()
        except MeshError:
            return ""

    async def take_over(self, claim: Claim, epoch: str) -> Recovered | None:
        """The answer as the last worker left it, stored; None when the turn was lost meanwhile."""
        if claim.hold.fence == 1:
            return Recovered(Draft.of(claim.answer), epoch, claim.sequence_limit)
        draft = await self._replayed(claim, epoch)
        found = "lost" if draft is None else "whole"
        _RECOVERIES.labels(found).inc()
        turn = claim.turn
        _log.info("turn_taken_over", turn_id=turn.id, attempt=turn.attempt, fence=claim.hold.fence, journal=found)
        if draft is None:
            draft = Draft.of(claim.answer)
            draft.last_sequence = claim.sequence_limit
        limit = draft.last_sequence + SEQUENCES_RESERVED
        is_held = await self._store.fold(
            claim.hold, Fold.of(draft), lease_s=self._lease_s, sequence_limit=limit, epoch=epoch
        )
        return Recovered(draft, epoch, limit) if is_held else None

    async def join(self, hold: Hold) -> None:
        """Makes the turn known to a journal that knows nothing of it. Raises MeshError when it is away."""
        await self._journal.seize(hold.ref.turn_id, hold.fence)

    async def close(self, claim: Claim, ending: Ending) -> bool:
        """Ends a claimed turn with the text that its watchers have seen; False when it was lost meanwhile."""
        recovered = await self.take_over(claim, await self.epoch())
        if recovered is None:
            return False
        return bool(await self.finish(claim.hold, recovered.draft, claim.turn.attempt, ending))

    async def finish(self, hold: Hold, draft: Draft, attempt: int, ending: Ending) -> Finished:
        """Stores the whole answer, and only then tells the watchers."""
        last = draft.last_sequence + 1
        finished = await self._store.finish(hold, replace(Fold.of(draft), last_sequence=last), ending)
        if finished:
            await self._announce(hold, last, attempt, ending)
        return finished

    async def _announce(self, hold: Hold, sequence: int, attempt: int, ending: Ending) -> None:
        """Journals the last event; without it, watchers find the end in PostgreSQL a little later.

        Nobody else can have the turn any more, so the journal's present epoch is the right one.
        """
        event = TurnEvent(sequence, attempt, TurnFinished(ending.state))
        turn_id = hold.ref.turn_id
        try:
            batch = Batch(turn_id, hold.fence, await self._journal.epoch(), (event,))
            if await self._journal.append([batch]) == [Receipt.DETACHED]:
                await self.join(hold)
                await self._journal.append([batch])
            await self._journal.expire(turn_id, keep_s=self._journal_keep_s)
        except MeshError as error:
            _log.warning("end_not_journalled", turn_id=turn_id, reason=error.reason)

    async def _replayed(self, claim: Claim, epoch: str) -> Draft | None:
        """The draft with everything that was shown; None when the journal cannot tell."""
        if not epoch:
            return None
        draft = Draft.of(claim.answer)
        turn_id = claim.turn.id
        try:
            await self.join(claim.hold)
            if epoch != claim.journal_epoch:
                return None
            while events := await self._journal.read(turn_id, after=draft.last_sequence, limit=READ_MAX):
                for event in events:
                    draft.apply(event)
            if await self._journal.epoch() != epoch:  # it was lost before or while it was read
                return None
        except BrokenSequenceError as error:
            _log.warning("journal_broken", turn_id=turn_id, problem=str(error))
            return None
        except MeshError as error:
            _log.warning("journal_away", turn_id=turn_id, reason=error.reason)
            return None
        return draft
