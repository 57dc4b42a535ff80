"""A conversation service without its gRPC, put together for a test on the backends that it chooses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from services.conversation.asking.actions import Action, NewQuestion
from services.conversation.asking.feeds import Feeds
from services.conversation.asking.references import References
from services.conversation.asking.turns import Ask, Neighbours, TurnLimits, Turns
from services.conversation.asking.watching import Watching
from services.conversation.events import TurnEvent
from services.conversation.history.branches import History
from services.conversation.history.recall import Everything, Past, Recalling
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Journal, Tail
from services.conversation.model import OnConflict, Owner, Turn, TurnOverrides
from services.conversation.queue.memory import MemoryQueue
from services.conversation.queue.port import Queue
from services.conversation.running.generation import Sources
from services.conversation.running.reaper import Reaper, ReaperPace
from services.conversation.running.recovery import Recovery
from services.conversation.running.relay import Relay
from services.conversation.running.run import Timing
from services.conversation.running.stops import NoStops, Signals, Stops
from services.conversation.running.worker import Backends, Pace, Worker
from services.conversation.store import Store
from services.conversation.store.work import Claim
from services.mesh.ids import new_id
from tests.support.conversation import ADA, new_conversation
from tests.support.conversation_fakes import (
    FakeInference,
    FakeKnowledgeBases,
    FakePrompts,
    FakeRetrieval,
    MemoryHistoryCache,
)


@dataclass
class Rig:
    """A conversation service without its gRPC: use cases, worker, relay and reaper on given backends."""

    store: Store
    queue: Queue
    journal: Journal
    tail: Tail
    retrieval: FakeRetrieval = field(default_factory=FakeRetrieval)
    inference: FakeInference = field(default_factory=FakeInference)
    knowledge_bases: FakeKnowledgeBases = field(default_factory=lambda: FakeKnowledgeBases("kb_1"))
    prompts: FakePrompts = field(default_factory=FakePrompts)
    cache: MemoryHistoryCache = field(default_factory=MemoryHistoryCache)
    recall: Recalling = field(default_factory=Everything)
    ended: Callable[[Claim, Past, str], None] = lambda _claim, _past, _answer: None
    lease_s: float = 30.0
    turn_s_max: float = 600.0
    attempts_max: int = 5
    backoff_s: float = 0.02
    republish_after_s: float = 0.0
    cancel_poll_s: float = 0.02
    stops: Stops = field(default_factory=NoStops)
    clock: Callable[[], float] = monotonic
    concurrency: int = 8
    hand_back_after_s: float = 0.0
    hint: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.feeds = Feeds(self.tail, self.store, poll_s=0.05)

    @property
    def recovery(self) -> Recovery:
        return Recovery(self.store, self.journal, lease_s=self.lease_s, journal_keep_s=60)

    @property
    def relay(self) -> Relay:
        return Relay(self.store, self.queue, every_s=0.05)

    @property
    def turns(self) -> Turns:
        return Turns(
            self.store,
            Neighbours(
                Signals(self.relay, self.stops),
                self.recovery,
                References(self.knowledge_bases, self.prompts, self.store),
                self.feeds,
            ),
            limits=TurnLimits(lease_s=self.lease_s, turn_s_max=self.turn_s_max),
            new_id=new_id,
        )

    @property
    def watching(self) -> Watching:
        return Watching(self.store, self.journal, self.feeds, poll_s=0.05)

    @property
    def reaper(self) -> Reaper:
        pace = ReaperPace(
            lease_s=self.lease_s,
            attempts_max=self.attempts_max,
            republish_after_s=self.republish_after_s,
            request_keep_s=3_600.0,
        )
        return Reaper(self.store, self.queue, self.recovery, pace)

    def worker(self) -> Worker:
        history = History(self.store, self.cache, messages_max=100)
        sources = Sources(
            history=history,
            retrieval=self.retrieval,
            inference=self.inference,
            passages_max=8,
            recall=self.recall,
            ended=self.ended,
        )
        backends = Backends(
            store=self.store,
            queue=self.queue,
            journal=self.journal,
            recovery=self.recovery,
            hint=self.hint,
            stops=self.stops,
        )
        timing = Timing(
            lease_s=self.lease_s,
            heartbeat_s=self.lease_s / 3,
            fold_every_s=0.05,
            attempts_max=self.attempts_max,
            backoff_s=self.backoff_s,
            clock=self.clock,
        )
        pace = Pace(
            concurrency=self.concurrency,
            redeliver_after_s=0.2,
            republish_after_s=self.republish_after_s,
            cancel_poll_s=self.cancel_poll_s,
            hand_back_after_s=self.hand_back_after_s,
        )
        return Worker(backends, sources, timing=timing, pace=pace)

    async def ask(self, text: str = "What did Ada write?", *, owner: Owner = ADA, **settings: str) -> Turn:
        """A new conversation with one question, published."""
        conversation = await self.store.create_conversation(new_conversation(owner, **settings))
        return await self.ask_in(conversation.id, text, owner=owner)

    async def ask_in(self, conversation_id: str, text: str, *, owner: Owner = ADA) -> Turn:
        return await self.act(conversation_id, NewQuestion(text, None), owner=owner)

    async def act(
        self,
        conversation_id: str,
        action: Action,
        *,
        owner: Owner = ADA,
        on_conflict: OnConflict = OnConflict.REJECT,
    ) -> Turn:
        """A turn of any kind, published."""
        ask = Ask(conversation_id=conversation_id, action=action, overrides=TurnOverrides(), on_conflict=on_conflict)
        turn = await self.turns.create(owner, ask, repeat=None)
        await self.relay.relay_once()
        return turn

    async def watch(self, turn: Turn, after: int = 0, *, owner: Owner = ADA) -> list[TurnEvent]:
        """All events to the end of the turn."""
        watched = self.watching.watch(owner, turn.id, after_sequence=after, follow=True)
        return [event async for batch in watched for event in batch]

    async def look(self, turn: Turn, after: int = 0, *, owner: Owner = ADA) -> list[TurnEvent]:
        """The events up to the present tail."""
        watched = self.watching.watch(owner, turn.id, after_sequence=after, follow=False)
        return [event async for batch in watched for event in batch]


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Worker]:
    """A worker of the rig and its feeds while the body runs; leaving stops them as a kill would."""
    worker = rig.worker()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(worker.run()), group.create_task(rig.feeds.run())]
        try:
            yield worker
        finally:
            for task in tasks:
                task.cancel()


def memory_rig(store: Store, **options: float) -> Rig:
    journal = MemoryJournal()
    return Rig(store, MemoryQueue(), journal, journal, **options)  # type: ignore[arg-type] # named by the tests
