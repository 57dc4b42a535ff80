"""Messages of the contracts to and from the nouns of the model."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeVar

from parley.retrieval.v1 import document_service_pb2, knowledge_base_pb2, search_service_pb2
from services.mesh.errors import invalid_field
from services.mesh.instants import timestamp
from services.mesh.pages import PageRequest, next_page_token
from services.retrieval.embedding.encoder import Vectors
from services.retrieval.model import (
    PASSAGES_DEFAULT,
    Decision,
    Document,
    DocumentState,
    Findings,
    KnowledgeBase,
    Passage,
    Question,
    SearchMode,
    TextRange,
)
from services.retrieval.store import Page

Listed = TypeVar("Listed", KnowledgeBase, Document)

_STATES: Final = MappingProxyType(
    {
        DocumentState.QUEUED: knowledge_base_pb2.DOCUMENT_STATE_QUEUED,
        DocumentState.PROCESSING: knowledge_base_pb2.DOCUMENT_STATE_PROCESSING,
        DocumentState.READY: knowledge_base_pb2.DOCUMENT_STATE_READY,
        DocumentState.FAILED: knowledge_base_pb2.DOCUMENT_STATE_FAILED,
    }
)
_MODES: Final[Mapping[int, SearchMode]] = MappingProxyType(
    {
        search_service_pb2.SEARCH_MODE_UNSPECIFIED: SearchMode.ALWAYS,
        search_service_pb2.SEARCH_MODE_ALWAYS: SearchMode.ALWAYS,
        search_service_pb2.SEARCH_MODE_SELECTIVE: SearchMode.SELECTIVE,
        search_service_pb2.SEARCH_MODE_NEVER: SearchMode.NEVER,
    }
)
_DECISIONS: Final = MappingProxyType(
    {
        Decision.RETRIEVED: search_service_pb2.SEARCH_DECISION_RETRIEVED,
        Decision.WEAK: search_service_pb2.SEARCH_DECISION_WEAK,
        Decision.SKIPPED: search_service_pb2.SEARCH_DECISION_SKIPPED,
    }
)


def knowledge_base(made: KnowledgeBase) -> knowledge_base_pb2.KnowledgeBase:
    """As the contract shows it."""
    return knowledge_base_pb2.KnowledgeBase(
        id=made.id,
        display_name=made.display_name,
        description=made.description,
        encoder=made.encoder,
        document_count=made.document_count,
        chunk_count=made.chunk_count,
        sequence=made.sequence,
        create_time=timestamp(made.create_time),
        update_time=timestamp(made.update_time),
    )


def document(made: Document) -> knowledge_base_pb2.Document:
    """As the contract shows it."""
    shown = knowledge_base_pb2.Document(
        id=made.id,
        knowledge_base_id=made.knowledge_base_id,
        version=made.version,
        display_name=made.display_name,
        media_type=made.media_type.value,
        size_bytes=made.size_bytes,
        sha256=made.sha256,
        state=_STATES[made.state],
        chunk_count=made.chunk_count,
        progress=made.progress,
        create_time=timestamp(made.create_time),
        update_time=timestamp(made.update_time),
    )
    if made.failure is not None:
        shown.failure.reason = made.failure.reason
        shown.failure.message = made.failure.message
    return shown


def text_range(read: TextRange) -> document_service_pb2.GetDocumentTextResponse:
    """As the contract shows it."""
    return document_service_pb2.GetDocumentTextResponse(
        text=read.text, start=read.start, end=read.end, length=read.length, document_version=read.version
    )


def question(request: search_service_pb2.SearchRequest) -> Question:
    """The question that a request asks.

    Raises:
        InvalidArgument: an unknown mode.
    """
    if request.mode not in _MODES:
        raise invalid_field("mode", "must be a SearchMode")
    return Question(
        text=request.query,
        context=tuple(request.context_queries),
        limit=request.limit or PASSAGES_DEFAULT,
        mode=_MODES[request.mode],
        min_sequence=request.min_sequence,
    )


def findings(found: Findings) -> search_service_pb2.SearchResponse:
    """As the contract shows it."""
    return search_service_pb2.SearchResponse(
        passages=[_passage(passage) for passage in found.passages],
        decision=_DECISIONS[found.decision],
        probability=found.probability,
        sequence=found.sequence,
    )


def is_question(request: search_service_pb2.EmbedRequest) -> bool:
    """Whether the texts are questions.

    Raises:
        InvalidArgument: they are of a kind that is not known.
    """
    if request.kind not in search_service_pb2.EmbeddingKind.values():
        raise invalid_field("kind", "must be an EmbeddingKind")
    return request.kind == search_service_pb2.EMBEDDING_KIND_QUESTION


def embeddings(vectors: Vectors) -> Iterable[search_service_pb2.Embedding]:
    """One per vector."""
    return [search_service_pb2.Embedding(values=vector.tolist()) for vector in vectors]


def page(request: PageRequest) -> Page:
    """The rows to read for a page: one more than are shown, to know whether others follow."""
    return Page(before=str(request.after[0]) if request.after else None, limit=request.size + 1)


def cut(found: Sequence[Listed], request: PageRequest, query: Sequence[str]) -> tuple[Sequence[Listed], str]:
    """The rows of a page, and the token of the next one; empty when this is the last."""
    shown = found[: request.size]
    return shown, next_page_token((shown[-1].id,), query=query) if len(found) > len(shown) else ""


def _passage(found: Passage) -> knowledge_base_pb2.Passage:
    stored = found.stored
    return knowledge_base_pb2.Passage(
        chunk_id=stored.chunk_id,
        document_id=stored.document_id,
        document_version=stored.document_version,
        document_name=stored.document_name,
        text=stored.text,
        start=stored.start,
        end=stored.end,
        locator=stored.locator,
        score=found.score,
        dense_score=found.dense_score,
        lexical_score=found.lexical_score,
        rank=found.rank,
        knowledge_base_id=found.knowledge_base_id,
    )
