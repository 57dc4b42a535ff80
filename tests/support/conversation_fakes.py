"""Stand-ins for tests of conversation; they keep the promises of the ports that they stand in for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count

from services.conversation.context import PromptReference
from services.conversation.history.branches import Branch, Kept
from services.conversation.model import ConversationId, FinishReason, Owner, RetrievalDecision, Usage
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
    WholeText,
)
from services.mesh.errors import MeshError, NotFound, Unavailable

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
        away: whether none of its processes can be reached.
        looks: how often somebody wanted to know that.
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
    away: bool = False
    looks: int = 0
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

    def is_away(self) -> bool:
        self.looks += 1
        return self.away

    async def _steps(self, request: GenerationRequest) -> AsyncIterator[Sequence[Generated]]:
        if self.away:
            raise Unavailable
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
        self._marks: dict[tuple[Owner, str], str] = {}
        self._numbers = count(1)

    async def get(self, owner: Owner, conversation_id: ConversationId) -> Kept:
        key = (owner, conversation_id)
        if key not in self._marks:
            self._marks[key] = f"mark-{next(self._numbers)}"
        return Kept(self._marks[key], self.branches.get(key))

    async def put(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> bool:
        key = (owner, conversation_id)
        if self._marks.get(key) != branch.mark:
            return False
        self.branches[key] = branch
        return True

    async def drop(self, owner: Owner, conversation_id: str) -> None:
        self.branches.pop((owner, conversation_id), None)
        self._marks.pop((owner, conversation_id), None)

    def lose_everything(self) -> None:
        """What a wipe does."""
        self.branches.clear()
        self._marks.clear()


class FakePrompts:
    """Knows every prompt; `failure` is what it says instead."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.asked: list[tuple[Owner, PromptReference]] = []

    async def require(self, owner: Owner, reference: PromptReference) -> None:
        self.asked.append((owner, reference))
        if self.failure is not None:
            raise self.failure


class FakeWriter:
    """Writes `text`, or raises `failure`; `gate` is awaited before."""

    def __init__(self, text: str = "They spoke.") -> None:
        self.text = text
        self.finish_reason = FinishReason.STOP
        self.failure: Exception | None = None
        self.gate: Callable[[], Awaitable[None]] | None = None
        self.requests: list[tuple[Owner, GenerationRequest]] = []

    async def write(self, owner: Owner, request: GenerationRequest, *, time_s: float) -> WholeText:
        self.requests.append((owner, request))
        if self.gate is not None:
            await self.gate()
        if self.failure is not None:
            raise self.failure
        return WholeText(
            text=self.text,
            finish_reason=self.finish_reason,
            model="cheap/one",
            usage=Usage(input_tokens=9, output_tokens=2),
        )
