"""Fits and measures the gate.

A gate has to work on a shelf of books and on a single page, so it is fitted on knowledge bases of all sizes, made of
the set's articles. Questions of left-out articles are the foreign ones, a recipe that needs no labels.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.retrieval.evaluation.dataset import ADVERSARIAL, ANSWERABLE, NO_RETRIEVAL, Dataset, LabelledQuestion
from services.retrieval.fusion import fuse
from services.retrieval.gate import Gate, Signals
from services.retrieval.index import lexical
from services.retrieval.index.snapshot import Snapshot
from services.retrieval.model import IndexRow

T = TypeVar("T")

FOREIGN: Final = "foreign"
WHOLE: Final = "whole"
# Articles per knowledge base, and how many of those are drawn.
_SHELVES: Final = ((8, 4), (4, 8), (2, 10), (1, 20))
_OWN_PER_SHELF: Final = 60
_OTHERS_PER_SHELF: Final = 40
_PAGES: Final = 300
_NEIGHBOURS_OF_PAGE: Final = (0, 1, 2, 4, 8)

_RETRIEVE_PASS: Final = 0.95  # share of answerable questions that the thresholds let through, on the calibration split
_WEAK_PASS: Final = 0.98
_RIDGE: Final = 0.1
_NEWTON_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class Case:
    """A question put to a knowledge base.

    Attributes:
        shelf: size of the knowledge base, as a name.
        kind: answerable, foreign, no_retrieval or adversarial.
    """

    shelf: str
    kind: str
    signals: Signals


def cases(dataset: Dataset, *, seed: int) -> list[Case]:
    """Questions of all kinds put to knowledge bases of all sizes."""
    draw = random.Random(seed)  # noqa: S311 - samples, not secrets
    return [*_whole(dataset), *_shelves(dataset, draw), *_pages(dataset, draw)]


def fit(found: Sequence[Case], *, source: str) -> Gate:
    """A gate by logistic regression in which every size and kind weighs the same."""
    used = [case for case in found if case.kind != ADVERSARIAL]
    labels = np.array([case.kind == ANSWERABLE for case in used], dtype=np.float64)
    inputs = np.array([(*astuple(case.signals), 1.0) for case in used])
    weights = _logistic(inputs, labels, _balance(used))
    fitted = Gate(tuple(np.round(weights[:-1], 4).tolist()), round(float(weights[-1]), 4), 0.0, 0.0, source)
    own = sorted(fitted.probability([case.signals]) for case in used if case.kind == ANSWERABLE)
    return Gate(
        fitted.weights,
        fitted.bias,
        retrieve_at=round(own[int(len(own) * (1 - _RETRIEVE_PASS))], 3),
        weak_at=round(own[int(len(own) * (1 - _WEAK_PASS))], 3),
        source=source,
    )


@dataclass(frozen=True, slots=True)
class GateFigures:
    """Shares of one kind of question on one size of knowledge base; auroc is against the answerable ones."""

    shelf: str
    kind: str
    cases: int
    retrieved: float
    weak: float
    auroc: float


def measure(found: Sequence[Case], gate: Gate) -> list[GateFigures]:
    """Figures of every size and kind that occurs."""
    groups: dict[tuple[str, str], list[float]] = {}
    for case in found:
        groups.setdefault((case.shelf, case.kind), []).append(gate.probability([case.signals]))
    return [
        GateFigures(
            shelf=shelf,
            kind=kind,
            cases=len(chances),
            retrieved=sum(chance >= gate.retrieve_at for chance in chances) / len(chances),
            weak=sum(gate.weak_at <= chance < gate.retrieve_at for chance in chances) / len(chances),
            auroc=auroc(groups[shelf, ANSWERABLE], chances),
        )
        for (shelf, kind), chances in sorted(groups.items())
    ]


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Probability that a random positive has a higher score than a random negative."""
    ordered = np.sort(np.asarray(negatives))
    below = np.searchsorted(ordered, positives, side="left")
    equal = np.searchsorted(ordered, positives, side="right") - below
    return float((below + equal / 2).sum() / (len(positives) * len(negatives)))


def _whole(dataset: Dataset) -> Iterator[Case]:
    everything = Snapshot.of(0, dataset.rows)
    for question in dataset.questions:
        yield _case(WHOLE, question.kind, everything, question)
    for article in dataset.articles():
        without = Snapshot.of(0, [row for row in dataset.rows if row.document_id != article])
        for question in dataset.of_kind(ANSWERABLE):
            if question.article == article:
                yield _case(WHOLE, FOREIGN, without, question)


def _shelves(dataset: Dataset, draw: random.Random) -> Iterator[Case]:
    answerable, chat = dataset.of_kind(ANSWERABLE), dataset.of_kind(NO_RETRIEVAL)
    for size, times in _SHELVES:
        for _ in range(times):
            articles = set(draw.sample(dataset.articles(), size))
            snapshot = Snapshot.of(0, dataset.rows_of(articles))
            own = [question for question in answerable if question.article in articles]
            others = [question for question in answerable if question.article not in articles]
            name = f"{size} articles"
            yield from (_case(name, ANSWERABLE, snapshot, it) for it in _some(draw, own, _OWN_PER_SHELF))
            yield from (_case(name, FOREIGN, snapshot, it) for it in _some(draw, others, _OTHERS_PER_SHELF))
            yield from (_case(name, NO_RETRIEVAL, snapshot, it) for it in _some(draw, chat, _OTHERS_PER_SHELF))


def _pages(dataset: Dataset, draw: random.Random) -> Iterator[Case]:
    """Knowledge bases of a few passages: what a person has who tries the platform with one file."""
    answerable, chat = dataset.of_kind(ANSWERABLE), dataset.of_kind(NO_RETRIEVAL)
    for _ in range(_PAGES):
        question = draw.choice(answerable)
        snapshot = Snapshot.of(0, _page(dataset, question, draw))
        foreign = draw.choice([it for it in answerable if it.article != question.article])
        yield _case("a page", ANSWERABLE, snapshot, question)
        yield _case("a page", FOREIGN, snapshot, foreign)
        yield _case("a page", NO_RETRIEVAL, snapshot, draw.choice(chat))


def _page(dataset: Dataset, question: LabelledQuestion, draw: random.Random) -> list[IndexRow]:
    neighbours = [row for row in dataset.rows_of({question.article}) if row.key != question.passage]
    return [dataset.rows[question.passage], *_some(draw, neighbours, draw.choice(_NEIGHBOURS_OF_PAGE))]


def _case(shelf: str, kind: str, snapshot: Snapshot, question: LabelledQuestion) -> Case:
    turn = snapshot.search([(question.vector, lexical.terms(question.text))])[0]
    return Case(shelf, kind, Signals.of(turn, fuse([turn])))


def _some(draw: random.Random, items: Sequence[T], count: int) -> list[T]:
    return draw.sample(items, min(count, len(items)))


def _balance(found: Sequence[Case]) -> NDArray[np.float64]:
    """Weights by which every size counts the same, and in each the answerable questions as much as all others."""
    sizes: dict[tuple[str, str], int] = {}
    kinds: dict[str, set[str]] = {}
    for case in found:
        sizes[case.shelf, case.kind] = sizes.get((case.shelf, case.kind), 0) + 1
        kinds.setdefault(case.shelf, set()).add(case.kind)
    weights = np.array(
        [
            (1.0 if case.kind == ANSWERABLE else 1.0 / (len(kinds[case.shelf]) - 1)) / sizes[case.shelf, case.kind]
            for case in found
        ]
    )
    balanced: NDArray[np.float64] = weights * len(weights) / weights.sum()
    return balanced


def _logistic(
    inputs: NDArray[np.float64], labels: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted logistic regression by Newton's method, with a little ridge on all but the bias."""
    ridge = np.full(inputs.shape[1], _RIDGE)
    ridge[-1] = 0.0
    solution = np.zeros(inputs.shape[1])
    for _ in range(_NEWTON_STEPS):
        chances = 1.0 / (1.0 + np.exp(-inputs @ solution))
        gradient = inputs.T @ (weights * (labels - chances)) - ridge * solution
        curvature = (inputs.T * (weights * chances * (1 - chances))) @ inputs + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        solution += step
    return solution
