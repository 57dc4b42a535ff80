"""A deployment of conversation: API replicas and workers on one store, queue and journal."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from services.conversation.asking.conversations import Conversations
from services.conversation.asking.feeds import Feeds
from services.conversation.asking.references import References
from services.conversation.asking.turns import Neighbours, TurnLimits, Turns
from services.conversation.asking.watching import Watching
from services.conversation.history.branches import History as Prompts
from services.conversation.history.recall import Recall
from services.conversation.history.summaries import Summaries
from services.conversation.running.generation import Sources
from services.conversation.running.reaper import Reaper, ReaperPace
from services.conversation.running.recovery import Recovery
from services.conversation.running.relay import Relay
from services.conversation.running.run import Timing
from services.conversation.running.stops import Signals
from services.conversation.running.worker import Backends as WorkerBackends
from services.conversation.running.worker import Pace, Worker
from services.conversation.store_memory import MemoryStore
from services.mesh.tasks import Loop, periodic, supervised
from tests.simulation.backends import Backends, Board, FaultyJournal, FaultyQueue, Ids, LoopClock, Servers, backends
from tests.simulation.guard import Guard
from tests.simulation.history import History
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.sources import Model, Mood, Search
from tests.simulation.summaries import MEASURE, MESSAGES_MAX, Scribe
from tests.simulation.wire import Weather, Wire
from tests.support.conversation_fakes import FakeKnowledgeBases, FakePrompts, MemoryHistoryCache

LEASE_S: Final = 6.0
TURN_S_MAX: Final = 90.0
ATTEMPTS_MAX: Final = 5
REAP_EVERY_S: Final = 1.5
REPUBLISH_AFTER_S: Final = 3.0
HAND_BACK_AFTER_S: Final = 1.0
DRAIN_S: Final = 8.0
JOURNAL_KEEP_S: Final = 10
SUMMARISES: Final = 0.5
"""Share of deployments that have long histories summarised."""
APIS: Final = 2
WORKERS: Final = 3


@dataclass(slots=True)
class Api:
    """A replica of the API."""

    process: Process
    conversations: Conversations
    turns: Turns
    watching: Watching
    _calls: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call is under way; it is answered before the replica leaves, other than streams."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._idle.set()

    async def answered(self) -> None:
        """Returns when no call is under way, or when all had their time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._calls:
                    self._idle.clear()
                    await self._idle.wait()


@dataclass(slots=True)
class Slot:
    """A place where a process runs, and is started again."""

    name: str
    start: Callable[["Slot"], None]
    process: Process | None = None
    api: Api | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether a process runs here, and is not on its way out."""
        return self.process is not None and self.process.is_alive and not self.stop.is_set()


class World:
    """Everything that a run consists of, but people and fate.

    Args:
        loop: where it runs.
        chance: of everything here.
    """

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.history = History(loop.time)
        self.weather = Weather()
        self.mood = Mood()
        self.wire = Wire(chance, self.weather)
        self.servers = Servers(
            MemoryStore(LoopClock()), FaultyQueue(chance), FaultyJournal(), MemoryHistoryCache(), Board()
        )
        self.guard = Guard(self.servers.store, self.history)
        self.ids = Ids()
        self.summarises = chance.random() < SUMMARISES
        self.slots = [Slot(f"api-{n}", self._start_api) for n in range(APIS)]
        self.slots += [Slot(f"worker-{n}", self._start_worker) for n in range(WORKERS)]
        self.graves: list[Process] = []

    @property
    def apis(self) -> list[Api]:
        """Replicas that take calls."""
        return [slot.api for slot in self.slots if slot.is_up and slot.api is not None]

    def start(self, slot: Slot) -> None:
        """Starts a process where none runs."""
        slot.process = Process(f"{slot.name}.{len(self.graves)}")
        slot.process.off_stage = partial(self.loop.pause, slot.process)
        self.graves.append(slot.process)
        slot.stop = asyncio.Event()
        slot.start(slot)

    def kill(self, slot: Slot) -> None:
        """As kill -9 does."""
        if slot.process is not None:
            slot.process.kill()

    def bury(self) -> None:
        """The run is over: nothing that is still done changes anything."""
        self.wire.close()
        self.loop.bury(self.graves)

    def _start_api(self, slot: Slot) -> None:
        assert slot.process is not None
        mine, recovery = self._backends()
        relay = Relay(mine.store, mine.queue, every_s=1.0)
        feeds = Feeds(mine.tail, mine.store, poll_s=1.0)
        references = References(FakeKnowledgeBases("kb_1"), FakePrompts(), mine.store)
        limits = TurnLimits(lease_s=LEASE_S, turn_s_max=TURN_S_MAX)
        signals = Signals(relay, mine.stops)
        neighbours = Neighbours(signals, recovery, references, feeds)
        turns = Turns(mine.store, neighbours, limits=limits, new_id=self.ids)
        prompts = Prompts(mine.store, mine.cache, messages_max=0)
        conversations = Conversations(mine.store, mine.journal, prompts, references, signals, new_id=self.ids)
        watching = Watching(mine.store, mine.journal, feeds, poll_s=1.0)
        slot.api = Api(slot.process, conversations, turns, watching)
        self._run(slot, mine, recovery, Loop("relay", relay.run), Loop("feeds", feeds.run))

    def _start_worker(self, slot: Slot) -> None:
        mine, recovery = self._backends()
        relay = Relay(mine.store, mine.queue, every_s=1.0)
        scribe = Scribe(self.chance, self.mood, self.history)
        summaries = Summaries(mine.store, mine.store, scribe, MEASURE, new_id=self.ids)
        above_tokens = 0 if self.summarises else None  # each branch is looked at: short ones stand beside long ones
        sources = Sources(
            history=Prompts(mine.store, mine.cache, messages_max=MESSAGES_MAX),
            retrieval=Search(self.chance, self.mood, self.wire),
            inference=Model(self.chance, self.mood, self.history),
            passages_max=8,
            recall=Recall(mine.store, messages_max=MESSAGES_MAX, above_tokens=above_tokens),
        )
        loops: list[Loop] = []
        if self.summarises:
            sources = replace(sources, ended=summaries.ended)
            loops.append(Loop("summaries", summaries.run))
        worker = Worker(
            WorkerBackends(
                store=mine.store,
                queue=mine.queue,
                journal=mine.journal,
                recovery=recovery,
                hint=relay.hint,
                stops=mine.stops,
            ),
            sources,
            timing=Timing(
                lease_s=LEASE_S,
                heartbeat_s=LEASE_S / 3,
                fold_every_s=0.5,
                attempts_max=ATTEMPTS_MAX,
                clock=self.loop.time,
            ),
            pace=Pace(
                concurrency=4,
                redeliver_after_s=2.0,
                republish_after_s=REPUBLISH_AFTER_S,
                cancel_poll_s=0.5,
                hand_back_after_s=HAND_BACK_AFTER_S,
            ),
        )
        self._run(slot, mine, recovery, Loop("turns", worker.run, drain=worker.drain), Loop("relay", relay.run), *loops)

    def _backends(self) -> tuple[Backends, Recovery]:
        mine = backends(self.servers, self.wire, self.guard)
        return mine, Recovery(mine.store, mine.journal, lease_s=LEASE_S, journal_keep_s=JOURNAL_KEEP_S)

    def _run(self, slot: Slot, mine: Backends, recovery: Recovery, *loops: Loop) -> None:
        pace = ReaperPace(
            lease_s=LEASE_S, attempts_max=ATTEMPTS_MAX, republish_after_s=REPUBLISH_AFTER_S, request_keep_s=3_600.0
        )
        reaper = Reaper(mine.store, mine.queue, recovery, pace)
        all_loops = (*loops, periodic("reaper", reaper.reap, every_s=REAP_EVERY_S, jitter=self.chance.random))
        process, stop, api = slot.process, slot.stop, slot.api
        assert process is not None

        async def run() -> None:
            async with supervised(all_loops, drain_s=DRAIN_S, jitter=self.chance.random):
                await stop.wait()
                if api is not None:
                    await api.answered()
            process.kill()  # nothing of it is left by then; whoever still holds a connection to it learns so

        slot.done = process.spawn(run())
