"""The worker: takes turns from the queue and answers many at once.

It acknowledges a message when the claim is committed: from then on the lease, not the queue, remembers the turn.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from services.conversation.journal.port import Batch, Journal, Receipt
from services.conversation.queue.port import Delivery, Queue
from services.conversation.running.generation import Sources
from services.conversation.running.keeping import Keeping, Sinks
from services.conversation.running.recovery import Recovery
from services.conversation.running.run import Interrupt, Timing, TurnRun
from services.conversation.running.stops import NoStops, Stops
from services.conversation.store.work import Hold, TurnRef, WorkStore
from services.mesh import spans, telemetry
from services.mesh.errors import MeshError
from services.mesh.groupcommit import GroupCommit

RECEIVE_WAIT_S: Final = 1.0
"""How long one look into the queue waits; the longest that a shutdown waits for it."""
RETRY_S: Final = 0.5
AWAY_LOOK_S: Final = 0.1
"""How often a worker looks whether inference is back; its channel looks for it by itself."""
LOOK_MAX: Final = 1_000
"""Turns of which one look asks whether they shall stop, beside those of which somebody says so. Of more, each has its
turn after as many looks."""
PAUSED_MAX: Final = 10_000
"""Turns that pause between two attempts and that this worker will publish; more of them are left to the reaper."""

_log = telemetry.logger("conversation.worker")
_RUNNING: Final = telemetry.gauge("parley_conversation_turns_running_count", "Turns that this worker answers now.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a worker takes work; seconds, see the settings of the same names."""

    concurrency: int
    redeliver_after_s: float
    republish_after_s: float
    cancel_poll_s: float
    hand_back_after_s: float


def _unheard() -> None:
    """Nobody relays in this process: whoever does looks by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """What a worker works on: the truth, what tells which turns wait, what takes events, what takes over turns.

    Attributes:
        hint: is called when a turn has ended and another one of its conversation stands in the outbox now.
        stops: tell when it is time to look for turns that shall stop.
    """

    store: WorkStore
    queue: Queue
    journal: Journal
    recovery: Recovery
    hint: Callable[[], None] = _unheard
    stops: Stops = field(default_factory=NoStops)


class Worker:
    """Answers turns until it is drained.

    Args:
        backends: what it works on.
        sources: where answers come from.
        timing: of each turn.
        pace: of the worker.
    """

    def __init__(self, backends: Backends, sources: Sources, *, timing: Timing, pace: Pace) -> None:
        self._store = backends.store
        self._queue = backends.queue
        self._journal = backends.journal
        self._recovery = backends.recovery
        self._hint = backends.hint
        self._stops = backends.stops
        self._sources = sources
        self._timing = timing
        self._pace = pace
        self._runs: dict[Hold, TurnRun] = {}  # a turn that lapsed here may be taken again before its last run notices
        self._taken = 0
        self._paused: dict[asyncio.Task[None], TurnRef] = {}
        self._changed = asyncio.Event()
        self._look = asyncio.Event()
        self._told: list[Hold] = []  # of these, that they may have to stop
        self._is_draining = False
        self._left = asyncio.Event()
        self._left.set()

    async def run(self) -> None:
        """Works until drained."""
        self._left.clear()
        try:
            async with (
                GroupCommit[Batch, Receipt](self._journal.append, name="conversation_journal") as commit,
                Keeping(self._store, lease_s=self._timing.lease_s) as keeping,
                asyncio.TaskGroup() as group,
            ):
                watches = [group.create_task(self._stop_unwanted()), group.create_task(self._listen())]
                sinks = Sinks(commit, keeping, self._hint)
                await self._take_waiting(group, sinks)
                while self._taken:
                    await self._wait_for_change()
                await self._leave_paused()
                for task in (*watches, *self._paused):
                    task.cancel()
        finally:
            self._left.set()

    async def drain(self) -> None:
        """Takes nothing new; lets turns end for a while, then hands the rest back without spending an attempt."""
        self._is_draining = True
        self._changed.set()
        try:
            async with asyncio.timeout(self._pace.hand_back_after_s):
                while self._taken:
                    await self._wait_for_change()
        except TimeoutError:
            for run in self._runs.values():
                run.interrupt(Interrupt.HAND_BACK)
        await self._left.wait()  # what the queue was giving meanwhile is given back

    async def _take_waiting(self, group: asyncio.TaskGroup, sinks: Sinks) -> None:
        """Takes what waits; all that a dead worker received comes first, or a backlog would hold it up for ever."""
        now, idle_s = asyncio.get_running_loop().time, self._pace.redeliver_after_s
        wait_s = min(RECEIVE_WAIT_S, idle_s)
        redeliver_at = now()
        while not self._is_draining:
            free = self._pace.concurrency - self._taken
            if free <= 0:
                await self._wait_for_change()
            elif self._sources.inference.is_away():
                await self._wait_for_inference()
            elif now() >= redeliver_at:
                found = await self._take(group, sinks, self._queue.redeliver(count_max=free, idle_s=idle_s), free)
                if found < free:
                    redeliver_at = now() + idle_s
            else:
                await self._take(group, sinks, self._queue.receive(count_max=free, wait_s=wait_s), free)
        try:
            await self._queue.leave()
        except MeshError as error:  # it notices by itself that nobody receives here any more
            _log.warning("queue_away", reason=error.reason)

    async def _wait_for_inference(self) -> None:
        """Takes nothing while nobody would write.

        Turns keep their attempts for as long as inference is away, a worker that reaches it may have them, and what it
        needs to come back is not spent on taking turns over.
        """
        _log.warning("inference_away")
        while self._sources.inference.is_away() and not self._is_draining:
            with suppress(TimeoutError):
                async with asyncio.timeout(AWAY_LOOK_S):
                    await self._wait_for_change()
        if not self._is_draining:
            _log.info("inference_back")

    async def _take(
        self,
        group: asyncio.TaskGroup,
        sinks: Sinks,
        received: Awaitable[Sequence[Delivery]],
        free: int,
    ) -> int:
        """Starts what was received; returns how many messages that were."""
        try:
            deliveries = [(delivery.ref, delivery) for delivery in await received]
        except MeshError as error:
            _log.warning("queue_away", reason=error.reason)
            await asyncio.sleep(RETRY_S)
            found = await self._waiting_in_store(free)
            self._start(group, sinks, [(ref, None) for ref in found])
            return 0
        if self._is_draining:
            await self._give_back([delivery for _, delivery in deliveries])
        else:
            self._start(group, sinks, deliveries)
        return len(deliveries)

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Lets other workers have what arrived too late for this one."""
        try:
            await self._queue.acknowledge(deliveries)
            await self._queue.publish([delivery.ref for delivery in deliveries])
        except MeshError as error:  # the reaper publishes them again
            _log.warning("not_given_back", reason=error.reason)

    async def _waiting_in_store(self, limit: int) -> list[TurnRef]:
        """Without the queue, PostgreSQL tells what waits."""
        try:
            return await self._store.stale_queued(older_s=self._pace.republish_after_s, limit=limit)
        except MeshError as error:
            _log.warning("store_away", reason=error.reason)
            return []

    def _start(
        self,
        group: asyncio.TaskGroup,
        sinks: Sinks,
        found: Sequence[tuple[TurnRef, Delivery | None]],
    ) -> None:
        for ref, delivery in found:
            self._taken += 1
            group.create_task(self._work(group, sinks, ref, delivery), name=f"turn {ref.turn_id}")

    async def _work(self, group: asyncio.TaskGroup, sinks: Sinks, ref: TurnRef, delivery: Delivery | None) -> None:
        _RUNNING.inc()
        try:
            pause_s = await self._answer(sinks, ref, delivery)
            if pause_s == 0.0:
                await self._publish(ref)
            elif pause_s is not None:
                self._publish_later(group, ref, pause_s)
        except MeshError as error:
            _log.warning("turn_left", turn_id=ref.turn_id, reason=error.reason, problem=error.message)
        except Exception:  # noqa: BLE001 - the worker's loop: one turn's failure must not end the others
            _log.exception("turn_crashed", turn_id=ref.turn_id)
        finally:
            _RUNNING.dec()
            self._taken -= 1
            self._changed.set()

    async def _answer(self, sinks: Sinks, ref: TurnRef, delivery: Delivery | None) -> float | None:
        """See `TurnRun.run`."""
        epoch = await self._recovery.epoch()
        claimed_at = self._timing.clock()
        claim = await self._store.claim(ref, lease_s=self._timing.lease_s, epoch=epoch, spend_attempt=True)
        if delivery is not None:
            await self._acknowledge(delivery)
        if claim is None:
            return None
        run = TurnRun(
            claim,
            self._sources,
            store=self._store,
            recovery=self._recovery,
            sinks=sinks,
            timing=self._timing,
        )
        self._runs[claim.hold] = run
        turn: spans.Attributes = {"parley.turn.id": ref.turn_id, "parley.turn.attempt": claim.turn.attempt}
        waited_s = claim.queued_s if claim.hold.fence == 1 else None
        try:
            with spans.resumed(claim.traceparent, "turn", turn, waited_s=waited_s):
                return await run.run(epoch, claimed_at=claimed_at)
        finally:
            del self._runs[claim.hold]

    def _publish_later(self, group: asyncio.TaskGroup, ref: TurnRef, pause_s: float) -> None:
        """Lets other workers have a turn after a pause, which takes no place of those that this one answers."""
        if len(self._paused) < PAUSED_MAX:
            task = group.create_task(self._publish(ref, after_s=pause_s), name=f"pause {ref.turn_id}")
            self._paused[task] = ref
            task.add_done_callback(lambda done: self._paused.pop(done, None))

    async def _leave_paused(self) -> None:
        """Lets the reapers publish what pauses, on time."""
        if not self._paused:
            return
        try:
            await self._store.leave_paused(list(self._paused.values()), older_s=self._pace.republish_after_s)
        except MeshError as error:  # they do it a little later
            _log.warning("pauses_not_left", turns=len(self._paused), reason=error.reason)

    async def _publish(self, ref: TurnRef, *, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        try:
            await self._queue.publish([ref])
        except MeshError as error:  # as in `_give_back`
            _log.warning("not_published", turn_id=ref.turn_id, reason=error.reason)

    async def _acknowledge(self, delivery: Delivery) -> None:
        try:
            await self._queue.acknowledge([delivery])
        except MeshError as error:  # it comes again, and finds nothing to claim
            _log.warning("not_acknowledged", turn_id=delivery.ref.turn_id, reason=error.reason)

    async def _stop_unwanted(self) -> None:
        """Stops turns that were cancelled, taken by others or deleted: one query for many turns of this worker."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.cancel_poll_s):
                    await self._look.wait()
            self._look.clear()
            told = tuple(self._told)
            runs = self._looked_at(told)
            try:
                unwanted = await self._store.unwanted(list(runs))
            except MeshError as error:
                _log.warning("store_away", reason=error.reason)
                continue
            del self._told[: len(told)]
            for hold, run in runs.items():
                if hold.ref.turn_id in unwanted:
                    _log.info("turn_unwanted", turn_id=hold.ref.turn_id, fence=hold.fence)
                    run.interrupt(Interrupt.CANCEL)

    def _looked_at(self, told: Sequence[Hold]) -> dict[Hold, TurnRun]:
        """Those that somebody told of, and those whose turn it is; they are the last from now on."""
        holds = dict.fromkeys((*told, *islice(self._runs, LOOK_MAX)))
        runs = {hold: self._runs.pop(hold) for hold in holds if hold in self._runs}
        self._runs |= runs
        return runs

    async def _listen(self) -> None:
        """Looks at once when somebody says that a turn of this worker shall stop."""
        while True:
            try:
                told = await self._stops.wait(wait_s=RECEIVE_WAIT_S)
            except MeshError as error:
                _log.warning("stops_away", reason=error.reason)
                await asyncio.sleep(RETRY_S)
                continue
            self._told += [hold for hold in self._runs if hold.ref.conversation_id in told]
            if self._told:
                self._look.set()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()
