"""One worker's hold on one turn: generation, journal, folds, lease, and the one ending that counts.

Everything that it writes is under the fence. What ends it from outside (cancel, deadline, shutdown, loss of the turn)
arrives as an `Interrupt`, so that generation has one place where it stops.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from time import monotonic
from typing import Any, Final

from services.conversation.events import Draft
from services.conversation.journal.writer import Loss, TurnWriter
from services.conversation.running import attempts, metrics
from services.conversation.running.generation import CANCELLED, INTERNAL, Generation, Interrupted, Sources, ending_of
from services.conversation.running.keeping import Sinks
from services.conversation.running.recovery import SEQUENCES_RESERVED, Recovered, Recovery
from services.conversation.store.work import Claim, Ending, Finished, Fold, Folding, WorkStore
from services.mesh import spans, telemetry
from services.mesh.errors import DeadlineExceeded, MeshError

FLUSH_S: Final = 2.0
"""How long an ending waits for the journal. PostgreSQL decides; the journal only tells."""
RETRY_S: Final = 0.2

_log = telemetry.logger("conversation.turn")
_ENDED: Final = telemetry.counter("parley_conversation_turns_ended", "Turns that ended here, by state.", ["state"])
_LEFT: Final = telemetry.counter(
    "parley_conversation_turns_left", "Turns that left a worker without an end, by cause.", ["cause"]
)
_TURN_S: Final = telemetry.histogram(
    "parley_conversation_turn_seconds",
    "From claim to end of a turn's attempt.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)


class Interrupt(Enum):
    """What stops a turn from outside."""

    CANCEL = auto()
    HAND_BACK = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds; see the settings of the same names.

    Attributes:
        backoff_s: see `attempts.pause_s`.
        clock: seconds that only grow. Not the event loop's: uvloop's stands still for as long as one round of it takes,
            so a worker that was paused would believe in its lease.
    """

    lease_s: float
    heartbeat_s: float
    fold_every_s: float
    attempts_max: int
    backoff_s: float = 1.0
    clock: Callable[[], float] = monotonic


@dataclass(frozen=True, slots=True)
class _Pause:
    """The attempt broke off; another one may begin after so many seconds.

    Attributes:
        is_spent: whether the one that broke off counts.
    """

    seconds: float
    is_spent: bool = True


class TurnRun:
    """Answers one claimed turn.

    Attributes:
        claim: the turn.
    """

    def __init__(
        self,
        claim: Claim,
        sources: Sources,
        *,
        store: WorkStore,
        recovery: Recovery,
        sinks: Sinks,
        timing: Timing,
    ) -> None:
        self.claim = claim
        self._sources = sources
        self._store = store
        self._recovery = recovery
        self._sinks = sinks
        self._timing = timing
        self._interrupt: asyncio.Future[Interrupt] = asyncio.get_running_loop().create_future()
        self._folded = 0
        self._renewed_at = self._deadline_at = 0.0  # until it runs
        self._given_up = False
        self._log = _log.bind(turn_id=claim.turn.id, attempt=claim.turn.attempt, fence=claim.hold.fence)

    def interrupt(self, cause: Interrupt) -> None:
        """Stops the turn; the first cause counts."""
        if not self._interrupt.done():
            self._interrupt.set_result(cause)

    async def run(self, epoch: str, *, claimed_at: float) -> float | None:
        """Answers the turn.

        Args:
            epoch: of the journal, as it was before the claim.
            claimed_at: by the clock of `Timing`, when the claim was sent: PostgreSQL's lease begins later than that.

        Returns:
            Seconds after which the turn is to be published for another attempt, for it waits again; None when it has
            ended, or is another worker's.
        """
        self._renewed_at, self._deadline_at = claimed_at, claimed_at + self.claim.deadline_s
        with _TURN_S.time():
            recovered = await self._recovery.take_over(self.claim, epoch)
            if recovered is None:
                self._lost(Loss.STORE)
                return None
            if self.claim.is_cancel_requested:
                await self._finish_recovered(recovered, CANCELLED)
                return None
            return await self._answer(recovered)

    async def _finish_recovered(self, recovered: Recovered, ending: Ending) -> None:
        finished = await self._recovery.finish(self.claim.hold, recovered.draft, self.claim.turn.attempt, ending)
        if finished:
            self._ended(recovered.draft, ending, finished)
        else:
            self._lost(Loss.STORE)

    async def _answer(self, recovered: Recovered) -> float | None:
        # Counted from the claim even where the takeover has renewed it since: the first heartbeat makes up for that.
        lease_until = self._renewed_at + self._timing.lease_s
        writer = TurnWriter(
            self._sinks.commit, self.claim, recovered, lease_until=lease_until, clock=self._timing.clock
        )
        self._folded = recovered.draft.last_sequence
        put = metrics.watched(writer.put, self.claim, clock=self._timing.clock, claimed_at=self._renewed_at)
        generation = Generation(self._sources, self.claim, recovered.draft, put)
        async with self._kept(writer):
            outcome = await self._outcome(generation)
            await writer.flush(wait_s=FLUSH_S)
        if isinstance(outcome, Ending):
            await self._end(writer, generation, outcome)
            return None
        return await self._leave(writer, outcome)

    async def _outcome(self, generation: Generation) -> "Ending | Interrupt | _Pause":
        """Runs the generation until it ends or something ends it."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._generated(generation))
            either: set[asyncio.Future[Any]] = {task, self._interrupt}  # Any: they give different things
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
        cause = self._interrupt.result()
        return CANCELLED if cause is Interrupt.CANCEL else cause

    async def _generated(self, generation: Generation) -> "Ending | _Pause":
        try:
            async with asyncio.timeout(max(0.0, self.claim.deadline_s)):
                return await generation.run()
        except TimeoutError:
            late = DeadlineExceeded("the answer was not finished in its time")
            return self._failed(generation, late, late)
        except Interrupted as interrupted:
            return self._interrupted(generation, interrupted.error)
        except MeshError as error:
            return self._failed(generation, error, error)
        except Exception:  # noqa: BLE001 - the worker's border: a bug of ours ends one turn, openly
            self._log.exception("turn_broken", stage=generation.stage)
            return ending_of(INTERNAL)

    def _interrupted(self, generation: Generation, error: MeshError) -> "Ending | _Pause":
        """Another attempt, unless there is none left, or no time for it."""
        turn = self.claim.turn
        if attempts.is_handed_on(error, fence=self.claim.hold.fence, attempt=turn.attempt):
            self._log.info("turn_handed_on", **_cause(generation, error))
            return _Pause(0.0, is_spent=False)
        pause_s = attempts.pause_s(turn.id, turn.attempt, base_s=self._timing.backoff_s, asked_s=error.retry_after_s)
        has_time = self._timing.clock() + pause_s < self._deadline_at
        is_spent = not attempts.waits_for_room(error)
        if has_time and (turn.attempt < self._timing.attempts_max or not is_spent):
            self._log.warning("turn_interrupted", **_cause(generation, error), pause_s=round(pause_s, 3))
            return _Pause(pause_s, is_spent=is_spent)
        is_ours = error.reason in attempts.OURS
        return self._failed(generation, error, attempts.broke_off() if is_ours else error)

    def _failed(self, generation: Generation, cause: MeshError, told: MeshError) -> Ending:
        """The end of a turn by an error; what is told of it may be less than what is logged."""
        self._log.warning("turn_failed", **_cause(generation, cause), told=told.reason)
        return ending_of(told)

    async def _end(self, writer: TurnWriter, generation: Generation, ending: Ending) -> None:
        while writer.has_waiting and not writer.lost.is_set():
            await self._fold(writer)
            await writer.flush(wait_s=FLUSH_S)
        claim = self.claim
        finished = await self._insist(
            lambda: self._recovery.finish(claim.hold, writer.draft, claim.turn.attempt, ending)
        )
        if not finished:
            self._lost(writer.lost_by or Loss.STORE)
            return
        self._ended(writer.draft, ending, finished)
        if generation.history is not None:
            answer = claim.answer
            await self._sources.history.append(
                claim.owner, generation.history, claim.question, answer.id, writer.draft.text
            )
        if generation.past is not None:
            self._sources.ended(claim, generation.past, writer.draft.text)

    async def _leave(self, writer: TurnWriter, cause: "Interrupt | _Pause") -> float | None:
        """Gives the turn to another worker with everything that watchers have seen."""
        if cause is Interrupt.LOST or writer.lost.is_set():
            self._lost(writer.lost_by or Loss.STORE)
            return None
        is_fault = isinstance(cause, _Pause) and cause.is_spent
        pause_s = cause.seconds if isinstance(cause, _Pause) else 0.0
        await self._insist(lambda: self._fold(writer))
        if not await self._insist(
            lambda: self._store.release(self.claim.hold, spend_attempt=is_fault, pause_s=pause_s)
        ):
            self._lost(writer.lost_by or Loss.STORE)
            return None
        self._log.info("turn_released", spent=is_fault, events=writer.draft.last_sequence)
        _LEFT.labels("interrupted" if is_fault else "handed_back").inc()
        return pause_s

    def _ended(self, draft: Draft, ending: Ending, finished: int) -> None:
        if finished == Finished.MOVED_UP:
            self._sinks.moved_up()
        _ENDED.labels(ending.state.value).inc()
        metrics.ended(ending)
        reason = ending.error.reason if ending.error else ""
        spans.note({"parley.turn.state": ending.state.value}, error=reason)
        self._log.info(
            "turn_ended",
            state=ending.state.value,
            reason=ending.error.reason if ending.error else ending.finish_reason.value,
            events=draft.last_sequence,
            characters=draft.length,
        )

    def _lost(self, by: Loss) -> None:
        """Another worker has the turn, or will soon: nothing is left to do here."""
        _LEFT.labels("lost").inc()
        self._log.warning("turn_lost", by=Loss.SILENCE if self._given_up else by)

    @asynccontextmanager
    async def _kept(self, writer: TurnWriter) -> AsyncIterator[None]:
        """Journals, folds and renews the lease while the body runs."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            scribe = group.create_task(writer.run())
            group.create_task(self._keep(writer, stop))
            try:
                yield
            finally:
                scribe.cancel()
                stop.set()  # not cancelled: a fold under way ends in its time, and its connection stays good
                writer.changed.set()

    async def _keep(self, writer: TurnWriter, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if writer.lost.is_set():
                self.interrupt(Interrupt.LOST)
                return
            try:
                async with asyncio.timeout(self._timing.fold_every_s):
                    await stop.wait()
            except TimeoutError:
                await self._keep_once(writer)
                await self._rest(writer, stop)

    async def _rest(self, writer: TurnWriter, stop: asyncio.Event) -> None:
        """Until there is something to keep, or the lease is to be renewed: of many turns, most have nothing to say."""
        if writer.is_detached or writer.lost.is_set() or writer.draft.last_sequence > self._folded:
            return
        if stop.is_set():  # while the last fold was under way
            return
        writer.changed.clear()
        due_s = self._renewed_at + self._timing.heartbeat_s - self._timing.clock()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due_s)):
                await writer.changed.wait()

    async def _keep_once(self, writer: TurnWriter) -> None:
        try:
            if writer.is_detached and (epoch := await self._recovery.epoch()):
                is_held = await self._join(writer, epoch)
            elif writer.draft.last_sequence > self._folded:
                await writer.flush(wait_s=self._timing.fold_every_s)
                is_held = await self._fold(writer)
            elif self._timing.clock() - self._renewed_at >= self._timing.heartbeat_s:
                is_held = await self._renew(writer)
            else:
                return
        except MeshError as error:  # the lease lasts for several tries, and the text is still here
            self._log.warning("turn_not_kept", reason=error.reason)
            return
        if not is_held:
            self.interrupt(Interrupt.LOST)

    async def _join(self, writer: TurnWriter, epoch: str) -> bool:
        """Goes on in a journal that was lost: once PostgreSQL has all that was shown, and says whose the turn is."""
        writer.epoch = epoch
        if not await self._fold(writer):
            return False
        await self._recovery.join(self.claim.hold)
        writer.is_detached = False
        self._log.info("journal_joined_anew", events=self._folded)
        return True

    async def _fold(self, writer: TurnWriter) -> bool:
        sent_at, fold = self._timing.clock(), Fold.of(writer.draft)
        limit = max(writer.sequence_limit, fold.last_sequence + SEQUENCES_RESERVED)
        is_held = await self._sinks.keeping.fold(Folding(self.claim.hold, fold, limit, writer.epoch))
        if is_held:
            self._folded = fold.last_sequence
            writer.raised(limit)
            self._renewed(writer, sent_at)
        return is_held

    async def _renew(self, writer: TurnWriter) -> bool:
        sent_at = self._timing.clock()
        is_held = await self._sinks.keeping.renew(self.claim.hold)
        if is_held:
            self._renewed(writer, sent_at)
        return is_held

    def _renewed(self, writer: TurnWriter, sent_at: float) -> None:
        self._renewed_at = sent_at
        writer.renewed(sent_at=sent_at, lease_s=self._timing.lease_s)

    async def _insist(self, write: Callable[[], Awaitable[int]]) -> int:
        """Repeats a write while PostgreSQL is away, for as long as a lease; every one of them is safe to repeat."""
        give_up_at = self._timing.clock() + self._timing.lease_s
        while True:
            try:
                return await write()
            except MeshError as error:
                if self._timing.clock() >= give_up_at:
                    self._log.warning("turn_given_up", reason=error.reason)
                    self._given_up = True
                    return False
                await asyncio.sleep(RETRY_S)


def _cause(generation: Generation, error: MeshError) -> dict[str, object]:
    """What a log tells of an error that an attempt met: enough to find the fault, nothing that was said."""
    return {
        "stage": generation.stage.value,
        "reason": error.reason.value,
        "problem": error.message,
        "retry_after_s": error.retry_after_s,
    }
