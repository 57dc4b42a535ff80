"""One attempt at an answer: history, search, generation, and the steps that watchers see of them.

Knows nothing of leases, queues and journals: it puts steps and says how the attempt ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from services.conversation.context import ContextReport, PromptReference
from services.conversation.events import (
    CitationAdded,
    Draft,
    PartStarted,
    ProviderSwitched,
    RetrievalDecided,
    TextDelta,
    TurnStarted,
    UsageUpdated,
)
from services.conversation.history.branches import Branch, History
from services.conversation.history.recall import Everything, Past, Recalling
from services.conversation.model import (
    ANSWER_PART_ID,
    SYSTEM_PROMPT_LENGTH_MAX,
    Citation,
    FinishReason,
    RetrievalMode,
    RetrievalTrace,
    Role,
    TurnError,
    TurnState,
)
from services.conversation.ports import (
    CONTEXT_QUERIES_MAX,
    QUERY_LENGTH_MAX,
    Evidence,
    Generated,
    GeneratedCitation,
    GeneratedText,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    Inference,
    Passage,
    PromptMessage,
    Question,
    Retrieval,
)
from services.conversation.running.accounts import Account
from services.conversation.running.attempts import is_transient
from services.conversation.running.continuation import Continuation, Extension, Written
from services.conversation.store.work import Claim, Ending
from services.mesh import telemetry
from services.mesh.errors import (
    ContextLengthExceeded,
    Internal,
    MeshError,
    Unavailable,
)

_log = telemetry.logger("conversation.generation")

Put: TypeAlias = Callable[..., None]

CONTINUED_LENGTH_MAX: Final = 16_000
"""Code points of the end of a continued answer that the model is shown; the room for system text is 32,000."""
EVENT_TEXT_LENGTH_MAX: Final = 4_096
"""Code points of one event of the text that an answer begins with, as of other text."""
_GO_ON: Final = (
    "Your answer to the last question broke off. Go on exactly where it breaks off, in the middle of a word if need "
    "be, without repeating or announcing anything. This is the end of the answer so far:\n\n"
)


def _unheard(claim: Claim, past: Past, answer: str) -> None:
    """Nobody makes summaries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where an answer comes from.

    Attributes:
        recall: tells what is shown of a long history.
        ended: hears of a turn that has ended, of what its model was shown, and of what was answered.
    """

    history: History
    retrieval: Retrieval
    inference: Inference
    passages_max: int
    prompt_tokens_max: int = 0
    recall: Recalling = field(default_factory=Everything)
    ended: Callable[[Claim, Past, str], None] = _unheard


class Stage(StrEnum):
    """What an attempt was about when something ended it."""

    HISTORY = "history"
    SEARCH = "search"
    ANSWER = "answer"


class Interrupted(Exception):  # noqa: N818 - it is no error of the turn: another attempt may well end it
    """The attempt broke off for a reason that another attempt may not meet; the text so far stands.

    Args:
        error: what it met.
    """

    def __init__(self, error: MeshError) -> None:
        super().__init__(error.message)
        self.error = error


class Generation:
    """One attempt.

    Args:
        sources: where the answer comes from.
        claim: the turn.
        draft: the answer as the last attempt left it; only read.
        put: takes the steps.

    Attributes:
        stage: what it is about now.
        history: what the question follows, once it is read.
        past: what the model is shown of it.
    """

    def __init__(self, sources: Sources, claim: Claim, draft: Draft, put: Put) -> None:
        self._sources = sources
        self._claim = claim
        self._draft = draft
        self._put = put
        self._passages: tuple[Passage, ...] = ()
        self._has_part = draft.has_part
        self._standing = (claim.continued.text or "") if claim.continued is not None else ""
        self._extension = Extension(self._standing)
        self._account = Account(draft, standing=len(self._standing))
        # A model that has begun was paid for. The part alone tells it where the model's name was not folded in time.
        self._is_repeat = bool(draft.model) or (draft.has_part and not self._standing)
        self.stage = Stage.HISTORY
        self.history: Branch | None = None
        self.past: Past | None = None

    async def run(self) -> Ending:
        """How the answer ended.

        Raises:
            MeshError: why it failed.
            Interrupted: another attempt may succeed.
        """
        try:
            return await self._run()
        except MeshError as error:
            if is_transient(error):
                raise Interrupted(error) from error
            raise

    async def _run(self) -> Ending:
        claim = self._claim
        if not self._draft.is_started:
            turn = claim.turn
            self._put(TurnStarted(turn.id, turn.conversation_id, turn.user_message_id, turn.assistant_message_id))
        # Read before the steps are put: they reach the draft while this attempt waits for its history.
        text, citations = self._draft.text, tuple(self._draft.citations)
        text, citations = self._stand(text, citations)
        self.history = await self._sources.history.before(claim.owner, claim.question)
        past = self.past = await self._sources.recall.past(claim.owner, claim.turn.conversation_id, self.history)
        self.stage = Stage.SEARCH
        evidence = await self._search(self.history)
        self.stage = Stage.ANSWER
        continuation = self._continuation(evidence, text, citations)
        self._passages = evidence.passages
        request = GenerationRequest(
            model=claim.turn.options.model,
            system=self._system(),
            examples=claim.settings.examples,
            messages=(*past.messages, _prompt_of(claim)),
            summary="" if past.summary is None else past.summary.text,
            prompt=self._prompt(),
            input_tokens_max=self._sources.prompt_tokens_max,
            passages=evidence.passages,
            parameters=claim.turn.options.parameters,
            # Watchers of a turn can be told to take text back, but not that of the answer which this one goes on with.
            accepts_restart=not self._standing,
            continue_from=continuation.offered,
            credential_id=claim.credential_id,
            is_repeat=self._is_repeat,
            is_anew=bool(claim.answer.revision_of),
        )
        return await self._generate(request, continuation)

    def _stand(self, text: str, citations: tuple[Citation, ...]) -> tuple[str, tuple[Citation, ...]]:
        """Opens an answer that goes on with another one, as far as no attempt has; what stands of it then."""
        continued = self._claim.continued
        if continued is None or not self._standing:
            return text, citations
        self._open_part()
        missing = range(len(text), len(self._standing), EVENT_TEXT_LENGTH_MAX)
        for start in missing:
            piece = self._standing[start : start + EVENT_TEXT_LENGTH_MAX]
            self._put(TextDelta(ANSWER_PART_ID, start, piece))
        added = tuple(citation for citation in continued.citations if citation not in citations)
        self._put(*(CitationAdded(citation) for citation in added))
        return (self._standing if missing else text), citations + added

    def _open_part(self) -> None:
        if not self._has_part:
            self._has_part = True
            self._put(PartStarted(ANSWER_PART_ID))

    def _system(self) -> str:
        """The system text, with the end of an answer that is to be gone on with."""
        system = self._claim.settings.system_prompt
        if not self._standing:
            return system
        head = f"{system}\n\n{_GO_ON}" if system else _GO_ON
        room = min(SYSTEM_PROMPT_LENGTH_MAX - len(head), CONTINUED_LENGTH_MAX)
        if room <= 0:
            raise ContextLengthExceeded("the system prompt leaves no room for an answer to go on with")
        return head + self._standing[-room:]

    def _prompt(self) -> PromptReference | None:
        """The turn's prompt; once an attempt has begun, at the revision that its model was given."""
        wanted, given = self._claim.turn.options.prompt, self._draft.context
        if wanted is None or given is None or not given.prompt_revision:
            return wanted
        return wanted.at(given.prompt_revision)

    async def _search(self, history: Branch) -> Evidence:
        options = self._claim.turn.options
        if not options.knowledge_base_id or options.retrieval_mode is RetrievalMode.NEVER:
            return Evidence()
        asked = [message.text[:QUERY_LENGTH_MAX] for message in history.messages if message.role is Role.USER]
        question = Question(
            knowledge_base_id=options.knowledge_base_id,
            query=(self._claim.question.text or "")[:QUERY_LENGTH_MAX],
            context_queries=tuple(text for text in asked if text)[-CONTEXT_QUERIES_MAX:],
            limit=self._sources.passages_max,
            mode=options.retrieval_mode,
        )
        return await self._sources.retrieval.search(self._claim.owner, question)

    def _continuation(self, evidence: Evidence, text: str, citations: Sequence[Citation]) -> Continuation:
        """Opens the attempt; on other evidence than before, the old text and its citations are void.

        So they are where an alias led to a prompt that nobody has stored: it may lead to another one now.
        """
        draft, trace = self._draft, evidence.trace()
        is_takeover = self._claim.turn.attempt > 1 or self._claim.hold.fence > 1
        is_same = draft.retrieval is None or _same(draft.retrieval, trace)
        prompt = self._prompt()
        is_settled = prompt is None or prompt.revision > 0
        continuation = Continuation(
            self._claim.turn.attempt, text, citations, resumes=is_same and is_settled, base=len(self._standing)
        )
        is_decided = draft.retrieval is not None and is_same
        self._put(*continuation.begin(is_takeover=is_takeover and draft.is_started))
        if not is_decided and self._claim.turn.options.knowledge_base_id:
            self._put(RetrievalDecided(trace))
        return continuation

    async def _generate(self, request: GenerationRequest, continuation: Continuation) -> Ending:
        ending: Ending | None = None
        try:
            async with self._sources.inference.generate(self._claim.owner, request) as batches:
                async for batch in batches:
                    ending = self._take(batch, continuation) or ending
        finally:  # also where it was cancelled: what it wrote was written
            if ending is None and self._account.has_news:
                self._put(UsageUpdated(self._account.broken_off()))
        if ending is None:
            raise Interrupted(Unavailable("inference ended without an end"))
        return ending

    def _take(self, batch: Sequence[Generated], continuation: Continuation) -> Ending | None:
        for step in batch:
            match step:
                case GeneratedText() | GeneratedCitation() | ProviderSwitched():
                    self._write(step, continuation)
                case GenerationStarted():
                    self._start(step, continuation)
                case GenerationFinished():
                    self._put(*continuation.end(), UsageUpdated(self._account.finished(step.usage)))
                    self._draft.model = step.model or self._draft.model
                    self._given(step.context)
                    return Ending(TurnState.COMPLETED, step.finish_reason)
                case _:
                    assert_never(step)
        return None

    def _write(self, step: Written, continuation: Continuation) -> None:
        if isinstance(step, GeneratedText):
            step = GeneratedText(step.offset, _storable(step.text))
            self._account.written += len(step.text)
        for placed in self._extension.place(step):
            match placed:
                case GeneratedText():
                    self._put(*continuation.text(placed.offset, placed.text))
                case GeneratedCitation():
                    self._cite(placed, continuation)
                case ProviderSwitched():
                    self._put(*continuation.step(placed))
                case _:
                    assert_never(placed)

    def _start(self, step: GenerationStarted, continuation: Continuation) -> None:
        if step.offset:
            continuation.stands(step.offset)
        self._draft.model = step.model
        self._given(step.context)
        self._account.begun(step.input_tokens)
        self._open_part()

    def _given(self, context: ContextReport | None) -> None:
        """The model was given this to read."""
        if context is not None and self.past is not None:
            self._draft.context = self.past.reported(context)

    def _cite(self, step: GeneratedCitation, continuation: Continuation) -> None:
        citation = _citation(step, self._passages)
        if citation is None:
            _log.warning("citation_refused", turn_id=self._claim.turn.id, passage=step.passage)
            return
        self._put(*continuation.step(CitationAdded(citation)))


def ending_of(error: MeshError) -> Ending:
    """How a turn ends that met this error."""
    return failed(error.reason, error.message)


def failed(reason: str, message: str) -> Ending:
    """A failed turn's ending; reason and message are safe to show."""
    return Ending(TurnState.FAILED, FinishReason.ERROR, TurnError(reason, message))


CANCELLED: Final = Ending(TurnState.CANCELLED, FinishReason.CANCELLED)
INTERNAL: Final = Internal("the answer broke off by a fault of the platform")


def _citation(step: GeneratedCitation, passages: Sequence[Passage]) -> Citation | None:
    """A citation of a document, from one of a passage; None when its ranges do not fit."""
    if not 1 <= step.passage <= len(passages):
        return None
    passage = passages[step.passage - 1]
    if not (0 <= step.source_start < step.source_end <= len(passage.text) and 0 <= step.start < step.end):
        return None
    return Citation(
        document_id=passage.document_id,
        document_version=passage.document_version,
        document_name=passage.document_name,
        knowledge_base_id=passage.knowledge_base_id,
        chunk_id=passage.chunk_id,
        part_id=ANSWER_PART_ID,
        start=step.start,
        end=step.end,
        source_start=passage.start + step.source_start,
        source_end=passage.start + step.source_end,
        quote=passage.text[step.source_start : step.source_end],
        locator=passage.locator,
        score=passage.score,
        number=step.passage,
    )


def _prompt_of(claim: Claim) -> PromptMessage:
    return PromptMessage(Role.USER, claim.question.text or "")


def _same(old: RetrievalTrace, new: RetrievalTrace) -> bool:
    """Whether two searches gave the model the same passages; scores may differ in the last digit."""
    return [passage.chunk_id for passage in old.passages] == [passage.chunk_id for passage in new.passages]


def _storable(text: str) -> str:
    """PostgreSQL stores no NUL; another single code point keeps all offsets."""
    return text.replace("\0", "\ufffd")
