"""An immutable view of a knowledge base at one sequence; a change makes a new view that shares most of the old one.

Rows live in segments that are built once. New chunks become a small segment, deleted ones a cleared bit; segments of
similar size are merged, so that adding n chunks one by one costs n log n, and a search sees few segments.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from services.retrieval.index import lexical
from services.retrieval.index.lexical import Postings, TermKey
from services.retrieval.index.vectors import FlatVectors, Mask, Rows
from services.retrieval.model import Changes, ChunkKey, DocumentId, IndexRow, Vector

CANDIDATES_PER_LEG: Final = 100
_DEAD_SHARE_MAX: Final = 0.25
# A segment is merged into the one before it when that one is less than this many times larger.
_GROWTH: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows that were indexed together.

    Attributes:
        keys: chunk of each row.
        documents: number of the document of each row; see `document_number`.
    """

    keys: NDArray[np.int64]
    documents: NDArray[np.uint64]
    vectors: FlatVectors
    postings: Postings

    @classmethod
    def of(cls, rows: Sequence[IndexRow]) -> Self:
        """A segment of new rows."""
        return cls(
            np.array([row.key for row in rows], dtype=np.int64),
            np.array([document_number(row.document_id) for row in rows], dtype=np.uint64),
            FlatVectors(np.stack([row.vector for row in rows])),
            lexical.build([lexical.terms(row.searchable_text) for row in rows]),
        )

    @property
    def size_bytes(self) -> int:
        """Memory of the segment."""
        return self.keys.nbytes + self.documents.nbytes + self.vectors.size_bytes + self.postings.size_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A segment as one snapshot sees it: some of its rows may be dead."""

    segment: Segment
    live: Mask

    @property
    def rows_live(self) -> int:
        """Number of rows that can be found."""
        return int(self.live.sum())

    def without(self, documents: NDArray[np.uint64]) -> "Part":
        """The same segment without the rows of these documents."""
        return Part(self.segment, self.live & ~np.isin(self.segment.documents, documents))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What both legs say about the rows that either of them ranks high for one query.

    Attributes:
        rows: of the snapshot, ascending.
        dense: cosine per row.
        lexical: BM25 per row.
        coverage: share of the query's idf mass that the row holds, per row.
        dense_top: cosines of the best rows of the whole knowledge base, best first.
        known: share of the query's idf mass that occurs anywhere in the knowledge base.
        shared: rows among the best ten of both legs, as a share of ten.
    """

    rows: Rows
    dense: NDArray[np.float32]
    lexical: NDArray[np.float32]
    coverage: NDArray[np.float32]
    dense_top: NDArray[np.float32]
    known: float
    shared: float


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All searchable chunks of a knowledge base as of `sequence`."""

    sequence: int
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, sequence: int, rows: Sequence[IndexRow]) -> Self:
        """A snapshot built from scratch."""
        return cls(sequence, _parts_of(rows))

    @property
    def rows_live(self) -> int:
        """Number of chunks that can be found."""
        return sum(part.rows_live for part in self.parts)

    @property
    def size_bytes(self) -> int:
        """Memory of all segments."""
        return sum(part.segment.size_bytes + part.live.nbytes for part in self.parts)

    def after(self, changes: Changes) -> "Snapshot":
        """The snapshot with the changed documents' rows replaced: a new version appears and the old one goes at once.

        Changes carry the present rows of each document, so applying them twice does no harm.
        """
        touched = np.array([document_number(document) for document in changes.documents], dtype=np.uint64)
        kept = [part.without(touched) for part in self.parts]
        return Snapshot(changes.sequence, _tidied((*kept, *_parts_of(changes.rows))))

    def keys_of(self, rows: Rows) -> list[ChunkKey]:
        """The chunks of rows."""
        keys = np.concatenate([part.segment.keys for part in self.parts]) if self.parts else np.empty(0, np.int64)
        return [ChunkKey(int(key)) for key in keys[rows]]

    def search(self, queries: Sequence[tuple[Vector, Sequence[TermKey]]]) -> list[Candidates]:
        """Candidates of each query, all over the same rows: the union of the best of both legs of every query."""
        legs = [self._legs(vector, terms) for vector, terms in queries]
        pool = np.unique(np.concatenate([leg.top for leg in legs])) if legs else np.empty(0, np.int64)
        return [
            Candidates(
                rows=pool,
                dense=self._dense(vector, pool),
                lexical=leg.lexical[pool],
                coverage=leg.coverage[pool],
                dense_top=leg.dense_top,
                known=leg.known,
                shared=leg.shared,
            )
            for (vector, _), leg in zip(queries, legs, strict=True)
        ]

    def _legs(self, vector: Vector, terms: Sequence[TermKey]) -> "_Legs":
        dense_rows, dense_scores = self._dense_top(vector)
        scored = lexical.score(terms, [(part.segment.postings, part.live) for part in self.parts])
        scores, coverage = _joined(scored.scores), _joined(scored.coverage)
        lexical_rows = _best(scores, CANDIDATES_PER_LEG)
        shared = len(set(dense_rows[:10].tolist()) & set(lexical_rows[:10].tolist())) / 10
        return _Legs(
            top=np.concatenate([dense_rows, lexical_rows]),
            dense_top=dense_scores,
            lexical=scores,
            coverage=coverage,
            known=scored.known,
            shared=shared,
        )

    def _dense_top(self, vector: Vector) -> tuple[Rows, NDArray[np.float32]]:
        found = [part.segment.vectors.search(vector, CANDIDATES_PER_LEG, part.live) for part in self.parts]
        scores = _joined([scores for scores, _ in found])
        rows = np.concatenate(
            [rows + offset for (_, rows), offset in zip(found, self._offsets(), strict=True)] or [np.empty(0, np.int64)]
        )
        order = np.argsort(-scores, kind="stable")[:CANDIDATES_PER_LEG]
        return rows[order], scores[order]

    def _dense(self, vector: Vector, rows: Rows) -> NDArray[np.float32]:
        scores = np.zeros(len(rows), dtype=np.float32)
        for part, offset in zip(self.parts, self._offsets(), strict=True):
            inside = (rows >= offset) & (rows < offset + len(part.live))
            scores[inside] = part.segment.vectors.matrix[rows[inside] - offset] @ vector
        return scores

    def _offsets(self) -> list[int]:
        sizes = [len(part.live) for part in self.parts]
        return [sum(sizes[:place]) for place in range(len(sizes))]


@dataclass(frozen=True, slots=True, eq=False)
class _Legs:
    top: Rows
    dense_top: NDArray[np.float32]
    lexical: NDArray[np.float32]
    coverage: NDArray[np.float32]
    known: float
    shared: float


def document_number(document: DocumentId) -> int:
    """A 64-bit number that stands for a document id in arrays."""
    return int.from_bytes(blake2b(document.encode(), digest_size=8).digest(), "big")


def _joined(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.float32)


def _best(scores: NDArray[np.float32], count: int) -> Rows:
    """Rows of the highest scores above zero, best first."""
    rows = np.argpartition(-scores, count)[:count] if len(scores) > count else np.arange(len(scores))
    rows = rows[scores[rows] > 0]
    return rows[np.argsort(-scores[rows], kind="stable")]


def _parts_of(rows: Sequence[IndexRow]) -> tuple[Part, ...]:
    return (Part(Segment.of(rows), np.ones(len(rows), dtype=np.bool_)),) if rows else ()


def _tidied(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Without empty parts, with half-dead ones rebuilt and neighbours of similar size merged."""
    tidy: list[Part] = []
    for part in parts:
        if part.rows_live == 0:
            continue
        is_half_dead = part.rows_live < (1 - _DEAD_SHARE_MAX) * len(part.live)
        tidy.append(_merged([part]) if is_half_dead else part)
        while len(tidy) > 1 and tidy[-2].rows_live < _GROWTH * tidy[-1].rows_live:
            tidy[-2:] = [_merged(tidy[-2:])]
    return tuple(tidy)


def _merged(parts: Sequence[Part]) -> Part:
    segments = [(part.segment, part.live) for part in parts]
    merged = Segment(
        np.concatenate([segment.keys[live] for segment, live in segments]),
        np.concatenate([segment.documents[live] for segment, live in segments]),
        FlatVectors.joined([(segment.vectors, live) for segment, live in segments]),
        lexical.merge([(segment.postings, live) for segment, live in segments]),
    )
    return Part(merged, np.ones(len(merged.keys), dtype=np.bool_))
