"""Finds passages: both legs over one snapshot, fused, gated, and checked against the rows before anything leaves."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.mesh import deadline, telemetry
from services.mesh.errors import RetrievalUnavailable, invalid_field
from services.mesh.tasks import BoundedExecutor
from services.retrieval.embedding.encoder import Vectors
from services.retrieval.embedding.service import Embedder
from services.retrieval.fusion import fuse
from services.retrieval.gate import Gate, Signals
from services.retrieval.index import lexical
from services.retrieval.index.shelf import Shelf
from services.retrieval.index.snapshot import Snapshot
from services.retrieval.model import (
    CONTEXT_QUERIES_MAX,
    PASSAGES_MAX,
    QUERY_CHARACTERS_MAX,
    ChunkKey,
    Decision,
    Findings,
    Head,
    KnowledgeBaseId,
    OrganizationId,
    Passage,
    Question,
    SearchMode,
    StoredPassage,
)
from services.retrieval.store import IndexStore

# A follow-up is also read together with what the user asked before: the last three questions as one.
_TURNS_READ_TOGETHER: Final = 3
_WEAK_PASSAGES_MAX: Final = 2
# Rows that were deleted or replaced since the snapshot fall out; a few more than asked for usually make up for them.
_SPARE_PASSAGES: Final = 8
_TRIES: Final = 10
_SEQUENCE_WAIT_S_MAX: Final = 5.0
_SEQUENCE_POLL_S: Final = 0.05

_SEARCHES: Final = telemetry.counter(
    "parley_retrieval_searches", "Searches by mode and decision.", ["mode", "decision"]
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk of a snapshot with its scores."""

    key: ChunkKey
    score: float
    dense_score: float
    lexical_score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best hits of a snapshot, and the probability that it is about the question."""

    hits: tuple[Hit, ...]
    probability: float


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one try found; full when no more passages are there to be had."""

    findings: Findings
    is_full: bool


class Search:
    """Search over knowledge bases.

    Args:
        store: what hits are checked against.
        shelf: where the indexes are.
        embedder: of questions.
        gate: decides in SELECTIVE mode.
        executor: where rankings are computed.
    """

    def __init__(
        self, *, store: IndexStore, shelf: Shelf, embedder: Embedder, gate: Gate, executor: BoundedExecutor
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._embedder = embedder
        self._gate = gate
        self._executor = executor

    async def find(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, question: Question) -> Findings:
        """The passages that fit the question best.

        Raises:
            InvalidArgument: the question is out of bounds.
            NotFound: there is no such knowledge base.
            RetrievalUnavailable: it was embedded by another encoder, or has not reached `min_sequence` in time.
        """
        _check(question)
        head = await self._head(organization, knowledge_base, question.min_sequence)
        if question.mode is SearchMode.NEVER:
            return _counted(question, Findings((), Decision.SKIPPED, 0.0, head.sequence))
        if head.encoder != self._embedder.revision:
            raise RetrievalUnavailable(
                f"the knowledge base was embedded by {head.encoder!r}, and this server runs {self._embedder.revision!r}"
            )
        readings = readings_of(question)
        vectors = await self._embedder.embed_questions(readings)
        for tries_left in reversed(range(_TRIES)):
            attempt = await self._attempt(organization, knowledge_base, question, head, (readings, vectors))
            if attempt.is_full or not tries_left:
                return _counted(question, attempt.findings)
            # So much was replaced meanwhile that the snapshot cannot fill the page: take a newer one.
            head = await self._store.head(organization, knowledge_base)
        raise AssertionError("the last try returns")

    async def _attempt(
        self,
        organization: OrganizationId,
        knowledge_base: KnowledgeBaseId,
        question: Question,
        head: Head,
        asked: tuple[Sequence[str], Vectors],
    ) -> _Attempt:
        snapshot = await self._shelf.at(
            organization, knowledge_base, sequence=head.sequence, required=question.min_sequence
        )
        ranking = await self._executor.run(
            rank, snapshot, *asked, gate=self._gate, limit=question.limit + _SPARE_PASSAGES
        )
        decision = _decision(self._gate, question.mode, ranking)
        wanted = _wanted(question, decision)
        keys = [hit.key for hit in ranking.hits] if wanted else []
        stored = await self._store.passages(organization, knowledge_base, keys) if keys else {}
        passages = _passages(ranking, stored, wanted, knowledge_base)
        findings = Findings(passages, decision, ranking.probability, snapshot.sequence)
        return _Attempt(findings, is_full=len(passages) >= min(wanted, len(keys)))

    async def _head(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, min_sequence: int) -> Head:
        head = await self._store.head(organization, knowledge_base)
        if head.sequence >= min_sequence:
            return head
        try:
            async with asyncio.timeout(deadline.budget_s(_SEQUENCE_WAIT_S_MAX)):
                while head.sequence < min_sequence:
                    await asyncio.sleep(_SEQUENCE_POLL_S)
                    head = await self._store.head(organization, knowledge_base)
        except TimeoutError as err:
            raise RetrievalUnavailable(
                f"the knowledge base is at change {head.sequence}, not yet at {min_sequence}", retry_after_s=1.0
            ) from err
        return head


def readings_of(question: Question) -> list[str]:
    """The texts that stand for a question: itself, and with earlier questions the last three as one, newest first.

    Newest first, because the encoder cuts what is too long at its end.
    """
    context = [text for text in question.context if text.strip()]
    together = [question.text, *reversed(context)][:_TURNS_READ_TOGETHER]
    return [question.text, "\n".join(together)] if context else [question.text]


def rank(snapshot: Snapshot, readings: Sequence[str], vectors: Vectors, *, gate: Gate, limit: int) -> Ranking:
    """The best hits of a snapshot, best first. Pure, and for a thread: FAISS and NumPy work here."""
    turns = snapshot.search([(vector, lexical.terms(text)) for vector, text in zip(vectors, readings, strict=True)])
    fused = fuse(turns)
    if not len(fused):
        return Ranking((), 0.0)
    probability = gate.probability([Signals.of(turn, fuse([turn])) for turn in turns])
    best = np.argsort(-fused, kind="stable")[:limit]
    asked = turns[0]
    hits = zip(
        snapshot.keys_of(asked.rows[best]),
        fused[best].tolist(),
        asked.dense[best].tolist(),
        asked.lexical[best].tolist(),
        strict=True,
    )
    return Ranking(tuple(Hit(*hit) for hit in hits), probability)


def _check(question: Question) -> None:
    if not question.text.strip() or len(question.text) > QUERY_CHARACTERS_MAX:
        raise invalid_field("query", f"must be 1 to {QUERY_CHARACTERS_MAX} characters, and not only white space")
    if len(question.context) > CONTEXT_QUERIES_MAX:
        raise invalid_field("context_queries", f"must be at most {CONTEXT_QUERIES_MAX}")
    for place, text in enumerate(question.context):
        if len(text) > QUERY_CHARACTERS_MAX:
            raise invalid_field(f"context_queries[{place}]", f"must be at most {QUERY_CHARACTERS_MAX} characters")
    if not 1 <= question.limit <= PASSAGES_MAX:
        raise invalid_field("limit", f"must be 1 to {PASSAGES_MAX}")
    if question.min_sequence < 0:
        raise invalid_field("min_sequence", "must not be negative")


def _decision(gate: Gate, mode: SearchMode, ranking: Ranking) -> Decision:
    """In ALWAYS mode passages are returned however weak, but never called better than they are."""
    if not ranking.hits:
        return Decision.SKIPPED
    decision = gate.decide(ranking.probability)
    return Decision.WEAK if mode is SearchMode.ALWAYS and decision is Decision.SKIPPED else decision


def _wanted(question: Question, decision: Decision) -> int:
    if decision is Decision.SKIPPED:
        return 0
    is_weak = question.mode is SearchMode.SELECTIVE and decision is Decision.WEAK
    return min(question.limit, _WEAK_PASSAGES_MAX) if is_weak else question.limit


def _passages(
    ranking: Ranking, stored: dict[ChunkKey, StoredPassage], wanted: int, knowledge_base: KnowledgeBaseId
) -> tuple[Passage, ...]:
    present = [hit for hit in ranking.hits if hit.key in stored][:wanted]
    return tuple(
        Passage(
            stored=stored[hit.key],
            knowledge_base_id=knowledge_base,
            score=hit.score,
            dense_score=hit.dense_score,
            lexical_score=hit.lexical_score,
            rank=place,
        )
        for place, hit in enumerate(present, start=1)
    )


def _counted(question: Question, findings: Findings) -> Findings:
    _SEARCHES.labels(question.mode.value, findings.decision.value).inc()
    return findings
