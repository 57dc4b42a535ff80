"""Quality of the ranking: where the relevant passage stands, with the index and the fusion that are shipped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.retrieval.evaluation.dataset import ANSWERABLE, Dataset
from services.retrieval.gate import Gate
from services.retrieval.index.snapshot import Snapshot
from services.retrieval.search import rank

_DEPTH: Final = 10
_RECALL_DEPTH: Final = 5


@dataclass(frozen=True, slots=True)
class RankingFigures:
    """Means over all answerable questions; one passage is relevant to each."""

    questions: int
    ndcg_at_10: float
    recall_at_5: float
    mrr_at_10: float


def measure(dataset: Dataset, gate: Gate) -> RankingFigures:
    """Searches every answerable question among all passages."""
    snapshot = Snapshot.of(0, dataset.rows)
    places: list[int] = []
    for question in dataset.of_kind(ANSWERABLE):
        ranking = rank(snapshot, [question.text], np.stack([question.vector]), gate=gate, limit=_DEPTH)
        keys = [hit.key for hit in ranking.hits]
        places.append(keys.index(question.passage) + 1 if question.passage in keys else 0)
    return figures(places)


def figures(places: Sequence[int]) -> RankingFigures:
    """Figures of the relevant passages' places, which count from 1; 0 is a miss."""
    found = [place for place in places if 0 < place <= _DEPTH]
    count = len(places) or 1
    return RankingFigures(
        questions=len(places),
        ndcg_at_10=sum(1 / math.log2(place + 1) for place in found) / count,
        recall_at_5=sum(place <= _RECALL_DEPTH for place in found) / count,
        mrr_at_10=sum(1 / place for place in found) / count,
    )
