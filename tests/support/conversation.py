"""Stand-ins and makers for tests of conversation; the stand-ins keep the promises of the ports they stand in for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from time import monotonic

from pydantic import SecretStr

from services.conversation.actions import Action, NewQuestion
from services.conversation.events import Draft, Snapshot, TurnEvent, TurnFinished
from services.conversation.generation import Sources
from services.conversation.history import Branch, History
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.port import Journal, Tail
from services.conversation.model import (
    ConversationId,
    ConversationSettings,
    FinishReason,
    MessageId,
    OnConflict,
    Owner,
    Repeat,
    RetrievalDecision,
    Turn,
    TurnId,
    TurnOverrides,
    Usage,
)
from services.conversation.ports import (
    Evidence,
    Generated,
    GeneratedCitation,
    GeneratedText,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    Passage,
    Question,
)
from services.conversation.queue.memory import MemoryQueue
from services.conversation.queue.port import Queue
from services.conversation.reaper import Reaper, ReaperPace
from services.conversation.recall import Everything, Past, Recalling
from services.conversation.recovery import SEQUENCES_RESERVED, Recovery
from services.conversation.references import References
from services.conversation.relay import Relay
from services.conversation.stops import NoStops, Signals, Stops
from services.conversation.store import Claim, NewConversation, NewTurn, Store
from services.conversation.turn_run import Timing
from services.conversation.turns import Ask, TurnLimits, Turns
from services.conversation.watching import Feeds, Watching
from services.conversation.worker import Backends, Pace, Worker
from services.mesh.errors import MeshError, NotFound
from services.mesh.ids import new_id
from services.mesh.settings import DatabaseSettings, ValkeySettings
from tests.support.conversation_fakes import FakePrompts

ADA = Owner("org_acme", "usr_ada")
BOB = Owner("org_acme", "usr_bob")
EVE = Owner("org_globex", "usr_ada")
"""The same user id in another organization: nothing may lean on user ids alone."""
DOCUMENT = "Preamble. Ada Lovelace wrote notes. The end."
PASSAGE = Passage(
    chunk_id="chk_1",
    document_id="doc_1",
    document_version=3,
    document_name="notes.md",
    knowledge_base_id="kb_1",
    text=DOCUMENT[10:35],
    start=10,
    locator="Notes",
    score=0.9,
)
INPUT_TOKENS = 5
STARTED = GenerationStarted("scripted/one", INPUT_TOKENS)
FINISHED = GenerationFinished(FinishReason.STOP, "scripted/one", Usage(input_tokens=5, output_tokens=3))


def database_settings(url: str) -> DatabaseSettings:
    return DatabaseSettings(database_url=SecretStr(url))


def valkey_settings(url: str) -> ValkeySettings:
    return ValkeySettings(valkey_url=SecretStr(url))


def new_conversation(owner: Owner = ADA, **settings: str) -> NewConversation:
    return NewConversation(
        owner=owner,
        id=ConversationId(new_id("conv")),
        settings=ConversationSettings(**settings),  # type: ignore[arg-type] # tests set texts only
    )


def new_turn(
    conversation_id: str,
    text: str = "What did Ada write?",
    *,
    owner: Owner = ADA,
    parent_id: str | None = None,
    repeat: Repeat | None = None,
    deadline_s: float = 600.0,
) -> NewTurn:
    return NewTurn(
        owner=owner,
        conversation_id=ConversationId(conversation_id),
        id=TurnId(new_id("turn")),
        user_message_id=MessageId(new_id("msg")),
        assistant_message_id=MessageId(new_id("msg")),
        text=text,
        parent_id=parent_id,
        overrides=TurnOverrides(),
        deadline_s=deadline_s,
        sequence_limit=SEQUENCES_RESERVED,
        repeat=repeat,
    )


def another_answer(turn: Turn, *, continue_of: str = "", owner: Owner = ADA) -> NewTurn:
    """One more answer to a turn's question."""
    return replace(
        new_turn(turn.conversation_id, owner=owner),
        revision_of=turn.assistant_message_id,
        user_message_id=turn.user_message_id,
        text=None,
        continue_of=continue_of,
    )


class FakeRetrieval:
    """Finds one passage; `failure` is raised instead."""

    def __init__(self) -> None:
        self.evidence = Evidence(decision=RetrievalDecision.RETRIEVED, probability=0.9, passages=(PASSAGE,))
        self.failure: Exception | None = None
        self.questions: list[tuple[Owner, Question]] = []

    async def search(self, owner: Owner, question: Question) -> Evidence:
        self.questions.append((owner, question))
        if self.failure is not None:
            raise self.failure
        return self.evidence


Gate = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class FakeInference:
    """Answers with `words`, one batch per word, then a citation of the first word, then the end.

    Attributes:
        takes_prefix: whether it goes on with the beginning of an answer that it is given, as if the words were its own.
        gate: awaited before the n-th word of each answer, and with the number of words before the end; a test stops
            or fails the answer here.
        refusals: what is raised instead of an answer, first one first.
        starts: how many answers were begun.
        open: how many answers are being read now.
    """

    words: Sequence[str] = ("Ada", " wrote", " notes", ".")
    takes_prefix: bool = False
    gate: Gate | None = None
    citations: Sequence[GeneratedCitation] = (
        GeneratedCitation(passage=1, start=0, end=3, source_start=0, source_end=12),
    )
    started: GenerationStarted = STARTED
    finished: GenerationFinished = FINISHED
    refusals: list[MeshError] = field(default_factory=list)
    starts: int = 0
    open: int = 0
    requests: list[tuple[Owner, GenerationRequest]] = field(default_factory=list)

    @asynccontextmanager
    async def generate(
        self, owner: Owner, request: GenerationRequest
    ) -> AsyncIterator[AsyncIterator[Sequence[Generated]]]:
        self.requests.append((owner, request))
        self.starts += 1
        self.open += 1
        try:
            yield self._steps(request)
        finally:
            self.open -= 1

    async def _steps(self, request: GenerationRequest) -> AsyncIterator[Sequence[Generated]]:
        if self.refusals:
            raise self.refusals.pop(0)
        given = len(request.continue_from) if self.takes_prefix else 0
        yield [replace(self.started, offset=given)]
        offset = 0
        for index, word in enumerate(self.words):
            if self.gate is not None:
                await self.gate(index)
            if offset + len(word) > given:
                left = word[max(0, given - offset) :]
                yield [GeneratedText(offset + len(word) - len(left), left)]
            offset += len(word)
        if self.gate is not None:
            await self.gate(len(self.words))
        yield [*(self.citations if request.passages else ()), self.finished]


class Stop:
    """A gate that holds an answer before one of its words until it is opened."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, index: int) -> None:
        if index == self.before:
            self.reached.set()
            await self.opened.wait()


class FakeKnowledgeBases:
    """Knows the knowledge bases of every organization; `failure` is what it says instead."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.failure: Exception | None = None

    async def require(self, owner: Owner, knowledge_base_id: str) -> None:
        if self.failure is not None:
            raise self.failure
        if knowledge_base_id not in self.known:
            raise NotFound.of("knowledge_base")


class MemoryStops:
    """See `Stops`; for one listener."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._news = asyncio.Event()

    async def tell(self, conversation_id: str) -> None:
        self._told.add(conversation_id)
        self._news.set()

    async def wait(self, *, wait_s: float) -> set[str]:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        self._news.clear()
        told, self._told = self._told, set()
        return told


class MemoryHistoryCache:
    """See `HistoryCache`."""

    def __init__(self) -> None:
        self.branches: dict[tuple[Owner, str], Branch] = {}

    async def get(self, owner: Owner, conversation_id: ConversationId) -> Branch | None:
        return self.branches.get((owner, conversation_id))

    async def put(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> None:
        self.branches[owner, conversation_id] = branch

    async def drop(self, owner: Owner, conversation_id: str) -> None:
        self.branches.pop((owner, conversation_id), None)


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
        self.feeds = Feeds(self.tail)

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
            Signals(self.relay, self.stops),
            self.recovery,
            References(self.knowledge_bases, self.prompts, self.store),
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


def replayed(events: Sequence[TurnEvent], draft: Draft | None = None) -> Draft:
    """What a client makes of events; raises where they leave a gap or repeat."""
    draft = draft or Draft()
    for event in events:
        draft.apply(event)
    return draft


def text_of(events: Sequence[TurnEvent]) -> str:
    return replayed(events).text


def kinds(events: Sequence[TurnEvent]) -> list[str]:
    return [type(event.payload).__name__ for event in events]


def ending(events: Sequence[TurnEvent]) -> TurnFinished:
    last = events[-1].payload
    assert isinstance(last, TurnFinished)
    return last


def has_snapshot(events: Sequence[TurnEvent]) -> bool:
    return any(isinstance(event.payload, Snapshot) for event in events)
