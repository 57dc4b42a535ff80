"""Stand-ins and makers for tests of retrieval; the stand-ins keep the promises of the ports that they stand in for."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b

import numpy as np

from services.mesh.ids import new_id
from services.retrieval.embedding.encoder import Vectors, checked
from services.retrieval.model import (
    Block,
    Chunk,
    ChunkKey,
    DocumentId,
    EmbeddedChunk,
    IndexRow,
    KnowledgeBase,
    KnowledgeBaseId,
    MediaType,
    OrganizationId,
    ParsedDocument,
    Upload,
    Vector,
)
from services.retrieval.parsing import text

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACME = OrganizationId("org_acme")
GLOBEX = OrganizationId("org_globex")
ENCODER = "words@1"
DIMENSION = 32


class WordEncoder:
    """Vectors of hashed words: texts that share words are near each other. As deterministic as a real encoder."""

    revision = ENCODER
    dimension = DIMENSION
    tokens_max = 256

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        rows = [word_vector(text) for text in texts]
        return checked(
            np.stack(rows) if rows else np.empty((0, DIMENSION), np.float32), rows=len(texts), dimension=DIMENSION
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def word_vector(text: str) -> Vector:
    vector = np.full(DIMENSION, 1e-3, dtype=np.float32)
    for word in re.findall(r"\w+", text.lower()):
        vector[blake2b(word.encode(), digest_size=1).digest()[0] % DIMENSION] += 1
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class TextParser:
    """Reads every file as plain text, in process."""

    async def parse(self, content: bytes) -> ParsedDocument:
        return parsed(content.decode())


def parsed(source: str) -> ParsedDocument:
    whole, blocks = text.parse(source)
    return ParsedDocument(MediaType.TEXT, whole, tuple(Block(start, end) for start, end, *_ in blocks))


def knowledge_base(
    organization: OrganizationId = ACME, name: str = "Handbook", *, encoder: str = ENCODER
) -> KnowledgeBase:
    return KnowledgeBase(
        id=KnowledgeBaseId(new_id("kb")),
        organization_id=organization,
        display_name=name,
        description="",
        encoder=encoder,
        create_time=NOW,
        update_time=NOW,
    )


def upload(owner: KnowledgeBase, name: str = "notes.txt", source: str = "Cats sleep.\n\nDogs bark.") -> Upload:
    return Upload(
        organization_id=owner.organization_id,
        knowledge_base_id=owner.id,
        display_name=name,
        size_bytes=len(source.encode()),
        sha256=blake2b(source.encode(), digest_size=32).hexdigest(),
        parsed=parsed(source),
    )


def embedded(document: ParsedDocument, title: str = "") -> list[EmbeddedChunk]:
    chunks = [
        Chunk(document.text[block.start : block.end], block.start, block.end, title, "") for block in document.blocks
    ]
    return [EmbeddedChunk(new_id("chk"), chunk, word_vector(chunk.searchable_text)) for chunk in chunks]


def index_rows(texts: Sequence[str], *, document: str = "doc_a", first_key: int = 1) -> list[IndexRow]:
    return [
        IndexRow(ChunkKey(first_key + place), DocumentId(document), text, word_vector(text))
        for place, text in enumerate(texts)
    ]


async def pieces(content: bytes, size: int = 1 << 20) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def until(holds: Callable[[], Awaitable[bool]], *, within_s: float = 20.0) -> None:
    """As `waiting.until`, for conditions that have to be asked of a store or a process."""
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110 - what is waited for may be in another process
            await asyncio.sleep(0.002)
