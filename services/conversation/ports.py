"""What conversation needs of other services, in its own words; `clients.py` speaks their contracts."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

from services.conversation.context import ContextReport, PromptReference
from services.conversation.events import ProviderSwitched
from services.conversation.model import (
    Example,
    FinishReason,
    GenerationParameters,
    Owner,
    RetrievalDecision,
    RetrievalMode,
    RetrievalTrace,
    Role,
    TracePassage,
    Usage,
)

QUERY_LENGTH_MAX: Final = 8_000
"""Of a search; the contract of retrieval."""
CONTEXT_QUERIES_MAX: Final = 3
"""Earlier questions that help with follow-ups; the contract of retrieval."""
CONTINUE_FROM_LENGTH_MAX: Final = 400_000
"""Code points of an answer that is to be gone on with; the contract of inference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to search for; both kinds of text are within `QUERY_LENGTH_MAX`."""

    knowledge_base_id: str
    query: str
    context_queries: tuple[str, ...]
    limit: int
    mode: RetrievalMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A passage of a document; `text` is the document's text from `start` on."""

    chunk_id: str
    document_id: str
    document_version: int
    document_name: str
    knowledge_base_id: str
    text: str
    start: int
    locator: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a search found, best passage first."""

    decision: RetrievalDecision = RetrievalDecision.NONE
    probability: float = 0.0
    passages: tuple[Passage, ...] = ()

    def trace(self) -> RetrievalTrace:
        """What the answer tells of it; passages are numbered from 1, as the model is shown them."""
        return RetrievalTrace(
            decision=self.decision,
            probability=self.probability,
            passages=tuple(
                TracePassage(
                    chunk_id=passage.chunk_id,
                    document_id=passage.document_id,
                    document_name=passage.document_name,
                    score=passage.score,
                    number=number,
                )
                for number, passage in enumerate(self.passages, start=1)
            ),
        )


class Prompts(Protocol):
    """Tells which prompts there are."""

    async def require(self, owner: Owner, reference: PromptReference) -> None:
        """Returns when the reference leads to a revision, and its variables can be filled.

        Raises:
            NotFound: the owner's organization has no such prompt, alias or revision.
            InvalidArgument: a variable is missing or does not fit.
            Unavailable: it cannot be told now.
        """
        ...


class Retrieval(Protocol):
    """Finds passages."""

    async def search(self, owner: Owner, question: Question) -> Evidence:
        """The passages that fit the question.

        Raises:
            NotFound: the owner's organization has no such knowledge base.
            RetrievalUnavailable: it cannot be searched now.
            Unavailable: our own side is at fault, such as no token; another attempt may succeed.
        """
        ...


class KnowledgeBases(Protocol):
    """Tells which knowledge bases there are."""

    async def require(self, owner: Owner, knowledge_base_id: str) -> None:
        """Returns when there is such a knowledge base.

        Raises:
            NotFound: the owner's organization has no such knowledge base.
            Unavailable: it cannot be told now.
        """
        ...


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """A message of the conversation so far."""

    role: Role
    text: str


class Purpose(StrEnum):
    """What a call to a model is for, in the books of those who pay."""

    ANSWER = "answer"
    SUMMARY = "summary"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What to answer; the last message is the question.

    Attributes:
        prompt: of the organization, which precedes all else; None for none.
        summary: stands for what was said before the messages; empty for none.
        input_tokens_max: that the model is given to read; 0 for what its window holds.
        accepts_restart: text that was written may be taken back, when nobody can go on with it.
        continue_from: the answer as far as an attempt before this one got with it, within `CONTINUE_FROM_LENGTH_MAX`.
        credential_id: with which the answer was asked for; its budgets pay for it.
        is_repeat: an earlier attempt came so far that it was counted as a request.
        is_anew: there is an answer already and another one is wanted, so that a stored one will not do.
    """

    model: str
    system: str
    examples: tuple[Example, ...]
    messages: tuple[PromptMessage, ...]
    passages: tuple[Passage, ...]
    parameters: GenerationParameters
    accepts_restart: bool = False
    continue_from: str = ""
    purpose: Purpose = Purpose.ANSWER
    prompt: PromptReference | None = None
    summary: str = ""
    input_tokens_max: int = 0
    credential_id: str = ""
    is_repeat: bool = False
    is_anew: bool = False


@dataclass(frozen=True, slots=True)
class GenerationStarted:
    """The model that begins, how much it was given to read, and where it goes on in what it was to continue from.

    Attributes:
        offset: 0 where the answer begins anew.
        context: what it was given to read, as far as it is told.
    """

    model: str
    input_tokens: int = 0
    offset: int = 0
    context: ContextReport | None = None


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A piece of the answer."""

    offset: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedCitation:
    """Ties a range of the answer to a range of a passage, which is counted from 1."""

    passage: int
    start: int
    end: int
    source_start: int
    source_end: int


@dataclass(frozen=True, slots=True)
class GenerationFinished:
    """The end of an answer; `context` is what its last writer was given to read, as far as it is told."""

    finish_reason: FinishReason
    model: str
    usage: Usage
    context: ContextReport | None = None


Generated: TypeAlias = GenerationStarted | GeneratedText | GeneratedCitation | ProviderSwitched | GenerationFinished


class Inference(Protocol):
    """Writes answers."""

    def generate(
        self, owner: Owner, request: GenerationRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Generated]]]:
        """The steps of an answer, those that came together in one sequence. Leaving the context stops the model.

        The iterator raises a MeshError where the answer breaks off; Unavailable when another attempt may succeed.
        """
        ...

    def is_away(self) -> bool:
        """Whether no process of it can be reached now, as far as is known here without asking."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeText:
    """What a model wrote, from the beginning to the end."""

    text: str
    finish_reason: FinishReason
    model: str
    usage: Usage


class Writer(Protocol):
    """Writes texts that nobody watches."""

    async def write(self, owner: Owner, request: GenerationRequest, *, time_s: float) -> WholeText:
        """The whole text, within so many seconds.

        Raises:
            MeshError: it cannot be had.
        """
        ...
