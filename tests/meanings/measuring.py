"""How often the cache takes two questions for one, by vectors alone and as it does it."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.inference.cache.gist import gist

PAIRS: Final = Path(__file__).with_name("pairs.jsonl")
THRESHOLDS: Final = (0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.98)

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions.

    Attributes:
        is_same: an answer to one is an answer to the other.
    """

    first: str
    second: str
    is_same: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair, the cosine of its vectors, and whether all agrees that carries content."""

    pair: Pair
    cosine: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Pairs that are taken for one at a threshold: of the same meaning and of another, by vectors and by the cache."""

    threshold: float
    hits_by_vectors: int
    false_by_vectors: int
    hits: int
    false_hits: int


def shipped() -> list[Pair]:
    """Pairs that were written for this project: ordinary questions to a help desk."""
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    return [Pair(row["first"], row["second"], row["same"]) for row in rows]


def near_misses(folder: Path) -> list[Pair]:
    """Questions over the same paragraph: each that it answers with each that it does not, or answers otherwise.

    Those with the very same words of the paragraph for an answer count as one meaning, which many of them are not: they
    tell how many hits there may be at most, and nothing of how many there should be.
    """
    by_paragraph: dict[str, list[dict[str, Any]]] = {}  # Any: JSON
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] != "no_retrieval":
            by_paragraph.setdefault(row["near_passage"], []).append(row)
    found: list[Pair] = []
    for rows in by_paragraph.values():
        for one, other in combinations(rows, 2):
            if (one["answerable"] or other["answerable"]) and one["text"] != other["text"]:
                found.append(Pair(one["text"], other["text"], bool(_answers(one) & _answers(other))))
    return found


def judged(pairs: Sequence[Pair], encode: Encode) -> list[Judged]:
    """What vectors and words say of each pair."""
    questions = sorted({question for pair in pairs for question in (pair.first, pair.second)})
    vectors = dict(zip(questions, encode(questions), strict=True))
    gists = {question: gist(question) for question in questions}
    return [
        Judged(
            pair,
            float(vectors[pair.first] @ vectors[pair.second]),
            gists[pair.first].agrees(gists[pair.second]),
        )
        for pair in pairs
    ]


def table(found: Iterable[Judged]) -> list[Row]:
    """The figures by threshold."""
    kept = list(found)
    return [_row(kept, threshold) for threshold in THRESHOLDS]


def _row(found: Sequence[Judged], threshold: float) -> Row:
    near = [one for one in found if one.cosine >= threshold]
    same = [one for one in near if one.pair.is_same]
    other = [one for one in near if not one.pair.is_same]
    return Row(
        threshold=threshold,
        hits_by_vectors=len(same),
        false_by_vectors=len(other),
        hits=sum(one.agrees for one in same),
        false_hits=sum(one.agrees for one in other),
    )


def _answers(row: dict[str, Any]) -> set[tuple[int, int]]:  # Any: JSON
    return {(answer["char_start"], answer["char_end"]) for answer in row["answers"]}
