"""BM25 over immutable postings: the lexical half of the index.

The formula is Lucene's as bm25s implements it, and a test holds the two equal. bm25s itself cannot be appended to or
deleted from, and re-indexing 10,000 chunks after each change takes it 0.8 s under the interpreter lock; postings here
are merged by NumPy, and document frequencies are taken over all segments, so that the scores do not depend on how
chunks are spread over segments.
"""

import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
import Stemmer
from numpy.typing import NDArray

TermKey = int
Scores = NDArray[np.float32]
Rows = NDArray[np.int64]

# Robertson's saturation and length normalisation, at the values that bm25s and the measurements used.
K1: Final = 1.5
B: Final = 0.75

# A token is two or more word characters, as in bm25s and scikit-learn.
_TOKEN: Final = re.compile(r"\b\w\w+\b")
# Lucene's English stop words.
STOP_WORDS: Final = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not",
    "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will",
    "with",
})  # fmt: skip
_KEY_BYTES: Final = 8
_CACHED_TOKENS_MAX: Final = 200_000
_TOKEN_CHARACTERS_MAX: Final = 64
"""By which a token is known: no word of people is longer, and one of 8,000 letters must not be remembered whole."""

_stemmer = Stemmer.Stemmer("english")
_stemmer_lock = threading.Lock()  # PyStemmer objects must not be shared between threads without one.


def terms(text: str) -> list[TermKey]:
    """Keys of the content words of `text`, in order, repeats included: lower-cased, stemmed, without stop words."""
    return [_key(token[:_TOKEN_CHARACTERS_MAX]) for token in _TOKEN.findall(text.lower()) if token not in STOP_WORDS]


@lru_cache(maxsize=_CACHED_TOKENS_MAX)
def _key(token: str) -> TermKey:
    """A stable 64-bit number of a token's stem: segments need no shared vocabulary."""
    with _stemmer_lock:
        stem = str(_stemmer.stemWord(token))
    return int.from_bytes(blake2b(stem.encode(), digest_size=_KEY_BYTES).digest(), "big")


@dataclass(frozen=True, slots=True)
class Postings:
    """Which rows hold which term how often; never changed after it is built.

    Attributes:
        keys: sorted term keys, one per term.
        starts: where the postings of each term begin in `rows` and `counts`; one longer than `keys`.
        rows: row numbers, ascending within a term.
        counts: occurrences of the term in the row.
        lengths: terms per row.
    """

    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    counts: NDArray[np.float32]
    lengths: NDArray[np.float32]

    @property
    def size_bytes(self) -> int:
        """Memory of all arrays."""
        return sum(part.nbytes for part in (self.keys, self.starts, self.rows, self.counts, self.lengths))

    def of(self, key: TermKey) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rows that hold the term, and how often."""
        place = int(np.searchsorted(self.keys, np.uint64(key)))
        if place == len(self.keys) or int(self.keys[place]) != key:
            return self.rows[:0], self.counts[:0]
        span = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return self.rows[span], self.counts[span]


def build(terms_by_row: Sequence[Sequence[TermKey]]) -> Postings:
    """Postings of rows that are given by their terms."""
    lengths = np.array([len(row) for row in terms_by_row], dtype=np.float32)
    keys = np.fromiter((key for row in terms_by_row for key in row), dtype=np.uint64, count=int(lengths.sum()))
    rows = np.repeat(np.arange(len(terms_by_row), dtype=np.int32), lengths.astype(np.int64))
    return _assemble(keys, rows, np.ones(len(keys), dtype=np.float32), lengths)


def merge(parts: Iterable[tuple[Postings, NDArray[np.bool_]]]) -> Postings:
    """Postings of the live rows of all parts, renumbered in order."""
    keys, rows, counts, lengths = [], [], [], []
    offset = 0
    for postings, live in parts:
        renumbered = np.cumsum(live) - 1 + offset
        kept = live[postings.rows]
        per_term = np.diff(postings.starts)
        keys.append(np.repeat(postings.keys, per_term)[kept])
        rows.append(renumbered[postings.rows[kept]].astype(np.int32))
        counts.append(postings.counts[kept])
        lengths.append(postings.lengths[live])
        offset += int(live.sum())
    return _assemble(np.concatenate(keys), np.concatenate(rows), np.concatenate(counts), np.concatenate(lengths))


def _assemble(
    keys: NDArray[np.uint64],
    rows: NDArray[np.int32],
    counts: NDArray[np.float32],
    lengths: NDArray[np.float32],
) -> Postings:
    order = np.lexsort((rows, keys))
    keys, rows, counts = keys[order], rows[order], counts[order]
    first_of_pair = np.ones(len(keys), dtype=np.bool_)
    first_of_pair[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])
    pairs = np.flatnonzero(first_of_pair)
    counts = np.add.reduceat(counts, pairs) if len(pairs) else counts
    keys, rows = keys[pairs], rows[pairs]
    unique, first = np.unique(keys, return_index=True)
    starts = np.append(first, len(keys)).astype(np.int64)
    return Postings(unique, starts, rows, counts.astype(np.float32), lengths)


@dataclass(frozen=True, slots=True)
class LexicalResult:
    """BM25 of a query against every row of every segment.

    Attributes:
        scores: per segment, one score per row; 0 for dead rows.
        coverage: per segment and row, the share of the query's idf mass that the row holds, 0 to 1.
        known: share of the query's idf mass whose terms occur anywhere in the knowledge base, 0 to 1.
    """

    scores: list[Scores]
    coverage: list[Scores]
    known: float


def score(query: Sequence[TermKey], segments: Sequence[tuple[Postings, NDArray[np.bool_]]]) -> LexicalResult:
    """BM25 of `query` for every live row of all segments together.

    A repeated query term counts as often as it is repeated, as in bm25s.
    """
    rows_live = sum(int(live.sum()) for _, live in segments)
    length_mean = sum(float(part.lengths[live].sum()) for part, live in segments) / rows_live if rows_live else 0.0
    scores = [np.zeros(len(live), dtype=np.float32) for _, live in segments]
    coverage = [np.zeros(len(live), dtype=np.float32) for _, live in segments]
    mass = known = 0.0
    for key, times in Counter(query).items():
        found = [_live_postings(part, live, key) for part, live in segments]
        rows_with_term = sum(len(rows) for rows, _ in found)
        idf = float(np.log1p((rows_live - rows_with_term + 0.5) / (rows_with_term + 0.5)))
        mass += idf
        known += idf if rows_with_term else 0.0
        for place, (rows, counts) in enumerate(found):
            norm = K1 * (1 - B + B * segments[place][0].lengths[rows] / length_mean) if len(rows) else 0.0
            scores[place][rows] += times * idf * counts / (norm + counts)
            coverage[place][rows] += idf
    for part in coverage:
        np.divide(part, mass or 1.0, out=part)
    return LexicalResult(scores, coverage, known / mass if mass else 0.0)


def _live_postings(
    part: Postings, live: NDArray[np.bool_], key: TermKey
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    rows, counts = part.of(key)
    kept = live[rows]
    return rows[kept], counts[kept]
