"""What a search costs in processor time and memory, by the number of chunks: encoder, both legs, fusion, gate.

Chunks are made up: words by Zipf's law, as those of texts are, and vectors in all directions, for which an exact search
costs what it costs for any others.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dev.tools.tidiness import ROOT
from services.retrieval.embedding.encoder import Encoder
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from services.retrieval.gate import Gate
from services.retrieval.index.snapshot import Snapshot
from services.retrieval.model import ChunkKey, DocumentId, IndexRow
from services.retrieval.search import rank

SIZES: Final = (10_000, 100_000)
_WORDS_PER_CHUNK: Final = 100
_WORDS_PER_QUESTION: Final = 10
_VOCABULARY: Final = 60_000
_ZIPF: Final = 1.2
_QUESTIONS: Final = 200
_LIMIT: Final = 16
_SEED: Final = 20_261_123


@dataclass(frozen=True, slots=True)
class Searched:
    """Of one number of chunks.

    Attributes:
        chunks: in the index.
        index_bytes: that it takes.
        rank_ms: processor time of ranking one question.
        encode_ms: processor time of encoding one question.
    """

    chunks: int
    index_bytes: int
    rank_ms: float
    encode_ms: float


def searched() -> Iterator[Searched]:
    """Measure every size."""
    encoder, gate, random = OnnxEncoder(ModelFiles.packaged(), threads=1), Gate.shipped(), np.random.default_rng(_SEED)
    encode_ms = _encode_ms(encoder, random)
    questions = _texts(random, _QUESTIONS, _WORDS_PER_QUESTION)
    vectors = encoder.encode(questions)
    for chunks in SIZES:
        snapshot = _snapshot(random, chunks, encoder.dimension)
        rank(snapshot, questions[:1], vectors[:1], gate=gate, limit=_LIMIT)
        begun = time.process_time()
        for place in range(_QUESTIONS):
            chosen = slice(place, place + 1)
            rank(snapshot, questions[chosen], vectors[chosen], gate=gate, limit=_LIMIT)
        yield Searched(chunks, snapshot.size_bytes, _ms_since(begun), encode_ms)


def _encode_ms(encoder: Encoder, random: np.random.Generator) -> float:
    """Of one question alone; its words are of a text, because made-up ones are several tokens each."""
    words = re.findall(r"\b[a-z]+\b", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    asked = [" ".join(random.choice(words, _WORDS_PER_QUESTION)) for _ in range(_QUESTIONS)]
    encoder.encode(asked[:1])
    begun = time.process_time()
    for question in asked:
        encoder.encode([question])
    return _ms_since(begun)


def _ms_since(begun: float) -> float:
    return (time.process_time() - begun) * 1000 / _QUESTIONS


def _snapshot(random: np.random.Generator, chunks: int, dimension: int) -> Snapshot:
    vectors = random.standard_normal((chunks, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = _texts(random, chunks, _WORDS_PER_CHUNK)
    rows = [
        IndexRow(ChunkKey(place), DocumentId(f"doc_{place // 20}"), text, vector)
        for place, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]
    return Snapshot.of(1, rows)


def _texts(random: np.random.Generator, count: int, words: int) -> Sequence[str]:
    drawn = np.minimum(random.zipf(_ZIPF, (count, words)), _VOCABULARY)
    return [" ".join(f"word{number}" for number in row) for row in drawn.tolist()]
