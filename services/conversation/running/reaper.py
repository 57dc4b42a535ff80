"""The reaper: finds turns that nobody works on and moves them on. Any number of replicas may run it."""

from dataclasses import dataclass
from typing import Final

from services.conversation.queue.port import Queue
from services.conversation.running import attempts, metrics
from services.conversation.running.generation import ending_of
from services.conversation.running.recovery import Recovery
from services.conversation.store.work import Ending, TurnRef, WorkStore
from services.mesh import telemetry
from services.mesh.errors import DeadlineExceeded, MeshError

BATCH_MAX: Final = 500
PRUNE_MAX: Final = 1_000

_log = telemetry.logger("conversation.reaper")
_REPUBLISHED: Final = telemetry.counter(
    "parley_conversation_turns_republished", "Turns put into the queue again, by cause.", ["cause"]
)
_CLOSED: Final = telemetry.counter(
    "parley_conversation_turns_closed", "Turns ended without a worker, by cause.", ["cause"]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaperPace:
    """Seconds and counts; see the settings of the same names."""

    lease_s: float
    attempts_max: int
    republish_after_s: float
    request_keep_s: float


class Reaper:
    """Finds turns that nobody works on, and moves them on.

    Args:
        store: the truth.
        queue: gets the turns that wait.
        recovery: closes the turns that have no attempt or no time left.
        pace: its limits.
    """

    def __init__(self, store: WorkStore, queue: Queue, recovery: Recovery, pace: ReaperPace) -> None:
        self._store = store
        self._queue = queue
        self._recovery = recovery
        self._pace = pace

    async def reap(self) -> None:
        """One round."""
        for ref in await self._store.overdue(limit=BATCH_MAX):
            await self._close(ref, "overdue", ending_of(DeadlineExceeded("the answer was not finished in its time")))
        requeued, spent = await self._store.requeue_lapsed(attempts_max=self._pace.attempts_max, limit=BATCH_MAX)
        for lapsed in spent:
            ending = ending_of(attempts.broke_off())
            await self._close(lapsed.ref, "spent", ending)
        stale = await self._store.stale_queued(older_s=self._pace.republish_after_s, limit=BATCH_MAX)
        for one in requeued:
            _log.warning("turn_lapsed", turn_id=one.ref.turn_id, attempt=one.attempt, fence=one.fence)
        await self._publish([one.ref for one in requeued], "lapsed")
        await self._publish(stale, "stale")
        moved_up = await self._store.move_up_stranded(limit=BATCH_MAX)
        if moved_up:
            _log.warning("turns_moved_up", turns=moved_up)
            _REPUBLISHED.labels("stranded").inc(moved_up)
        await self._store.prune(older_s=self._pace.request_keep_s, limit=PRUNE_MAX)

    async def _publish(self, refs: list[TurnRef], cause: str) -> None:
        if not refs:
            return
        _log.info("turns_republished", cause=cause, turns=len(refs))
        _REPUBLISHED.labels(cause).inc(len(refs))
        try:
            await self._queue.publish(refs)
        except MeshError as error:  # they count as published now, so the next try is `republish_after_s` away
            _log.warning("not_republished", cause=cause, reason=error.reason)

    async def _close(self, ref: TurnRef, cause: str, ending: Ending) -> None:
        """Raises MeshError when nothing can be closed now."""
        try:
            claim = await self._store.claim(
                ref, lease_s=self._pace.lease_s, epoch=await self._recovery.epoch(), spend_attempt=False
            )
            if claim is None or not await self._recovery.close(claim, ending):
                return
        except MeshError:
            raise
        except Exception:  # noqa: BLE001 - one turn that cannot be read must not keep all others from being found
            _log.exception("turn_not_closed", cause=cause, turn_id=ref.turn_id)
            return
        _CLOSED.labels(cause).inc()
        metrics.ended(ending)
        turn = claim.turn
        _log.warning("turn_closed", cause=cause, turn_id=turn.id, attempt=turn.attempt, fence=claim.hold.fence)
