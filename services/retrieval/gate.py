"""Decides whether a knowledge base is about a question, from what the search has found anyway.

A logistic model on five signals. A threshold on the cosine alone, fitted the same way, does not carry over to other
collections: it let in 42 % of foreign questions where this model let in 15 %. Whether the answer itself is in the
passages cannot be told from scores; that is left to the reader.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib import resources
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from services.retrieval.index.snapshot import CANDIDATES_PER_LEG, Candidates
from services.retrieval.model import Decision

_SHIPPED: Final = "gate.json"


@dataclass(frozen=True, slots=True)
class Signals:
    """What a search tells about how well question and knowledge base fit.

    Attributes:
        cosine: of the best chunk.
        coverage_best: largest share of the question's idf mass that one candidate holds.
        coverage_first: that share of the candidate that ranks first.
        agreement: share of chunks that both legs have among their first ten.
        size: logarithm of the number of chunks, up to the length of a leg: one chunk in a thousand fits any question
            better than one in three does.
    """

    cosine: float
    coverage_best: float
    coverage_first: float
    agreement: float
    size: float

    @classmethod
    def of(cls, candidates: Candidates, fused: NDArray[np.float32]) -> Self:
        """The signals of one reading of a question.

        Raises:
            ValueError: there are no candidates; nothing can be said then.
        """
        first = int(np.argmax(fused))
        return cls(
            cosine=float(candidates.dense_top[0]),
            coverage_best=float(candidates.coverage.max()),
            coverage_first=float(candidates.coverage[first]),
            agreement=candidates.shared,
            size=math.log(min(len(candidates.dense_top), CANDIDATES_PER_LEG)),
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """A fitted gate.

    Attributes:
        weights: one per signal, in the order of `Signals`.
        retrieve_at: probability from which passages are worth reading.
        weak_at: probability from which they may be.
        source: what it was fitted on, and how.
    """

    weights: tuple[float, ...]
    bias: float
    retrieve_at: float
    weak_at: float
    source: str

    @classmethod
    def shipped(cls) -> Self:
        """The gate that comes with the service; `python -m services.retrieval.evaluation fit-gate` makes it."""
        said = json.loads(resources.files(__package__).joinpath(_SHIPPED).read_text(encoding="utf-8"))
        return cls(tuple(said["weights"]), said["bias"], said["retrieve_at"], said["weak_at"], said["source"])

    def probability(self, readings: Sequence[Signals]) -> float:
        """That the knowledge base is about the question; a follow-up's readings count the same."""
        logits = [
            self.bias + sum(weight * value for weight, value in zip(self.weights, astuple(reading), strict=True))
            for reading in readings
        ]
        return 1.0 / (1.0 + math.exp(-sum(logits) / len(logits)))

    def decide(self, probability: float) -> Decision:
        """What to do about it."""
        if probability >= self.retrieve_at:
            return Decision.RETRIEVED
        return Decision.WEAK if probability >= self.weak_at else Decision.SKIPPED
