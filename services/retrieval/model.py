"""The nouns of retrieval and their invariants: knowledge bases, documents, chunks, passages, decisions.

Offsets count Unicode code points of a document's stored text, everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType

import numpy as np
from numpy.typing import NDArray

OrganizationId = NewType("OrganizationId", str)
KnowledgeBaseId = NewType("KnowledgeBaseId", str)
DocumentId = NewType("DocumentId", str)
ChunkKey = NewType("ChunkKey", int)
"""A chunk's row number in PostgreSQL and its identity in the index; never used twice."""

Vector = NDArray[np.float32]

DISPLAY_NAME_CHARACTERS_MAX: Final = 100  # of a knowledge base
DESCRIPTION_CHARACTERS_MAX: Final = 1_000
FILE_NAME_CHARACTERS_MAX: Final = 255
QUERY_CHARACTERS_MAX: Final = 8_000
CONTEXT_QUERIES_MAX: Final = 3
PASSAGES_MAX: Final = 50
PASSAGES_DEFAULT: Final = 8
TEXTS_PER_EMBED_MAX: Final = 256
TEXT_RANGE_CHARACTERS_MAX: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeBase:
    """A named collection of documents that is searched as one.

    Attributes:
        encoder: revision of the embedding model, fixed at creation.
        sequence: number of the latest change of its searchable content.
    """

    id: KnowledgeBaseId
    organization_id: OrganizationId
    display_name: str
    description: str
    encoder: str
    create_time: datetime
    update_time: datetime
    document_count: int = 0
    chunk_count: int = 0
    sequence: int = 0


class MediaType(StrEnum):
    """What can be read; always found from the content."""

    TEXT = "text/plain"
    MARKDOWN = "text/markdown"
    HTML = "text/html"
    PDF = "application/pdf"


class DocumentState(StrEnum):
    """Where a document stands on its way into the index."""

    QUEUED = "queued"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DocumentFailure:
    """Why a document could not be made searchable.

    Attributes:
        reason: an ErrorReason without its prefix.
        message: for people; tells what to do.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One file of a knowledge base, as of its latest upload.

    Attributes:
        version: counts the uploads under this name, from 1.
        chunk_count: searchable chunks, which are those of the version before while a new one is on its way.
        progress: share of the work done, 0 to 1.
    """

    id: DocumentId
    organization_id: OrganizationId
    knowledge_base_id: KnowledgeBaseId
    version: int
    display_name: str
    media_type: MediaType
    size_bytes: int
    sha256: str
    state: DocumentState
    create_time: datetime
    update_time: datetime
    failure: DocumentFailure | None = None
    chunk_count: int = 0
    progress: float = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether nothing will change without another upload."""
        return self.state in {DocumentState.READY, DocumentState.FAILED}


class BlockKind(StrEnum):
    """What a block of text is, as far as cutting it into chunks is concerned."""

    PARAGRAPH = "paragraph"
    HEADING = "heading"
    LINES = "lines"
    """Code, tables, lists: its lines are its units, not sentences."""


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph of a document's text: no chunk crosses its borders.

    Attributes:
        start: offset of its first code point.
        end: offset after its last code point.
        headings: the headings above it, outermost first.
        page: counts from 1; 0 where the format has no pages.
    """

    start: int
    end: int
    kind: BlockKind = BlockKind.PARAGRAPH
    headings: tuple[str, ...] = ()
    page: int = 0


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """The text of a file and its structure. Offsets of citations refer to this text."""

    media_type: MediaType
    text: str
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        """Blocks lie in the text, in order, and do not overlap.

        Raises:
            ValueError: they do not.
        """
        end = 0
        for block in self.blocks:
            if not end <= block.start <= block.end <= len(self.text):
                raise ValueError("blocks of a parsed document overlap or leave its text")
            end = block.end


@dataclass(frozen=True, slots=True)
class Chunk:
    """A searchable piece of a document: `text == document_text[start:end]`, always.

    Attributes:
        title: what stands in front of the text when it is embedded: document name and headings.
        locator: tells people where to look.
    """

    text: str
    start: int
    end: int
    title: str
    locator: str

    @property
    def searchable_text(self) -> str:
        """What encoder and lexical index see."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedChunk:
    """A chunk with its public id and its unit vector."""

    id: str
    chunk: Chunk
    vector: Vector


@dataclass(frozen=True, slots=True, eq=False)
class IndexRow:
    """What the index holds of a chunk."""

    key: ChunkKey
    document_id: DocumentId
    searchable_text: str
    vector: Vector


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A chunk as stored, with what a citation of it needs."""

    key: ChunkKey
    chunk_id: str
    document_id: DocumentId
    document_version: int
    document_name: str
    text: str
    start: int
    end: int
    locator: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A stored passage that a search found, with its scores and its rank from 1."""

    stored: StoredPassage
    knowledge_base_id: KnowledgeBaseId
    score: float
    dense_score: float
    lexical_score: float
    rank: int


class SearchMode(StrEnum):
    """When to search."""

    ALWAYS = "always"
    SELECTIVE = "selective"
    NEVER = "never"


class Decision(StrEnum):
    """What the gate decided."""

    RETRIEVED = "retrieved"
    WEAK = "weak"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question to a knowledge base.

    Attributes:
        context: the user's earlier questions, oldest first.
        min_sequence: the search waits until the index holds this change.
    """

    text: str
    context: Sequence[str] = ()
    limit: int = PASSAGES_DEFAULT
    mode: SearchMode = SearchMode.ALWAYS
    min_sequence: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """What a search found.

    Attributes:
        probability: that the knowledge base is about the question, 0 to 1.
        sequence: the latest change that the search saw.
    """

    passages: tuple[Passage, ...]
    decision: Decision
    probability: float
    sequence: int


@dataclass(frozen=True, slots=True)
class TextRange:
    """A part of a document's text."""

    text: str
    start: int
    end: int
    length: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that was read and is ready to be stored."""

    organization_id: OrganizationId
    knowledge_base_id: KnowledgeBaseId
    display_name: str
    size_bytes: int
    sha256: str
    parsed: ParsedDocument = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A document that a worker holds for a while.

    Attributes:
        lease: token that every write of the worker must match; a takeover sets another one.
        attempt: counts from 1.
    """

    document_id: DocumentId
    organization_id: OrganizationId
    knowledge_base_id: KnowledgeBaseId
    version: int
    display_name: str
    encoder: str
    lease: str
    attempt: int
    parsed: ParsedDocument = field(repr=False)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a knowledge base stands: its latest change, and the encoder of its vectors."""

    sequence: int
    encoder: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to a knowledge base after some sequence.

    Attributes:
        sequence: the latest change included.
        documents: the documents whose searchable chunks changed.
        rows: all present chunks of those documents; none for a deleted one.
    """

    sequence: int
    documents: tuple[DocumentId, ...]
    rows: tuple[IndexRow, ...]
