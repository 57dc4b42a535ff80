"""How strongly each sentence speaks to a question: its signals, and the weights fitted to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from services.inference.extraction import answer_types
from services.inference.extraction.sentences import Kind, Sentence, quote, split
from services.inference.extraction.terms import EMPTY_BAG, Bag, content, rarity, share, terms, words
from services.inference.model import Passage

# Content terms of the question that lie at most this far apart in a sentence count as a pair.
PAIR_REACH: Final = 3
# Terms of an earlier question count half: they say what the talk is about, not what is asked now.
EARLIER_WEIGHT: Final = 0.5
# From this many words on, a sentence that holds the whole question repeats it: an example or a heading of questions.
ECHO_WORDS_MIN: Final = 4
# New terms beyond this number say nothing more about a sentence.
NOVELTY_MAX: Final = 8


class Signals(NamedTuple):
    """What speaks for a sentence; every value lies between -1 and 1.

    Attributes:
        coverage: rarity-weighted share of the question's terms in the sentence.
        loose_coverage: as coverage, where a common beginning of four letters is enough.
        neighbourhood: as coverage, with the sentences before and after it and the title.
        pairs: share of the question's neighbouring terms that are close together in the sentence.
        phrases: share of the question's word pairs, stop words included, that are in the sentence.
        numbers: share of the question's numbers in the sentence.
        answer_type: whether it holds the kind of thing that is asked for.
        novelty: how much it says beyond the question.
        rank: one over the rank of its passage.
        first: whether it opens its passage.
    """

    coverage: float
    loose_coverage: float
    neighbourhood: float
    pairs: float
    phrases: float
    numbers: float
    answer_type: float
    novelty: float
    rank: float
    first: float


@dataclass(frozen=True, slots=True)
class Question:
    """A question as terms; those of an earlier question that it leans on weigh less."""

    text: str
    weights: dict[str, float]

    @classmethod
    def of(cls, text: str, *, earlier: str = "") -> "Question":
        """The question `text`, which leans on `earlier` when that is given."""
        weights = dict.fromkeys(terms(earlier), EARLIER_WEIGHT)
        return cls(text, weights | dict.fromkeys(terms(text), 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A sentence that may be quoted.

    Attributes:
        passage: number of its passage, from 1.
        position: number of the sentence in its passage, from 0.
    """

    passage: int
    position: int
    sentence: Sentence
    text: str
    bag: Bag
    signals: Signals

    @property
    def score(self) -> float:
        """Log-odds of being the answer, up to a constant of the question."""
        return sum(weight * value for weight, value in zip(WEIGHTS, self.signals, strict=True))


# Conditional logit over all sentences of eight BM25 passages, fitted on the `calib` half of squad2-wiki (SQuAD 2.0 dev,
# 999 questions, label: the sentence holds a gold answer). `extraction/evaluation.py` measures them on the other half.
WEIGHTS: Final = Signals(
    coverage=1.50,
    loose_coverage=3.92,
    neighbourhood=1.81,
    pairs=0.38,
    phrases=3.17,
    numbers=0.86,
    answer_type=1.04,
    novelty=-0.89,
    rank=2.10,
    first=0.33,
)


def candidates(question: Question, passages: Sequence[Passage]) -> list[Candidate]:
    """Every sentence of the passages that may answer, with its signals, in reading order.

    Headings answer nothing, and neither does a sentence that repeats the question.
    """
    cut = [[(sentence, quote(passage.text, sentence)) for sentence in split(passage.text)] for passage in passages]
    said = [[words(text) for _, text in row] for row in cut]
    bags = [[Bag.of(content(one)) for one in row] for row in said]
    asked = _Asked.of(question, bags)
    question_words = words(question.text)
    found: list[Candidate] = []
    for number, passage in enumerate(passages, start=1):
        row, row_bags = cut[number - 1], bags[number - 1]
        title = Bag.of(terms(passage.title))
        for position, (sentence, text) in enumerate(row):
            if sentence.kind is Kind.HEADING or _echoes(said[number - 1][position], question_words):
                continue
            around = _union(row_bags[max(0, position - 1) : position + 2]) | title
            signals = asked.signals(text, said[number - 1][position], row_bags[position], around)
            found.append(
                Candidate(
                    passage=number,
                    position=position,
                    sentence=sentence,
                    text=text,
                    bag=row_bags[position],
                    signals=signals._replace(rank=1 / number, first=float(position == 0)),
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """The question, weighed by how rare its terms are in the passages at hand."""

    text: str
    weights: dict[str, float]
    pairs: frozenset[tuple[str, str]]
    phrases: frozenset[tuple[str, str]]
    numbers: frozenset[str]

    @classmethod
    def of(cls, question: Question, bags: Sequence[Sequence[Bag]]) -> "_Asked":
        rarities = rarity(bag for row in bags for bag in row)
        rarest = max(rarities.values(), default=1.0)
        sequence = words(question.text)
        return cls(
            question.text,
            {term: weight * rarities.get(term, rarest) for term, weight in question.weights.items()},
            frozenset(pairwise(terms(question.text))),
            frozenset(pairwise(sequence)),
            frozenset(word for word in sequence if word.isdigit()),
        )

    def signals(self, text: str, said: Sequence[str], bag: Bag, around: Bag) -> Signals:
        sequence = content(said)
        ahead = {(one, other) for i, one in enumerate(sequence) for other in sequence[i + 1 : i + 1 + PAIR_REACH]}
        close = ahead | {(other, one) for one, other in ahead}
        return Signals(
            coverage=share(self.weights, bag),
            loose_coverage=share(self.weights, bag, loosely=True),
            neighbourhood=share(self.weights, around),
            pairs=_part(self.pairs, close),
            phrases=_part(self.phrases, set(pairwise(said))),
            numbers=_part(self.numbers, set(said)),
            answer_type=answer_types.fits(self.text, text),
            novelty=min(len(bag.terms - self.weights.keys()), NOVELTY_MAX) / NOVELTY_MAX,
            rank=0.0,
            first=0.0,
        )


def _echoes(said: Sequence[str], question: Sequence[str]) -> bool:
    length = len(question)
    if length < ECHO_WORDS_MIN:
        return False
    return any(said[start : start + length] == question for start in range(len(said) - length + 1))


def _part(wanted: frozenset[tuple[str, str]] | frozenset[str], present: set[tuple[str, str]] | set[str]) -> float:
    return len(wanted & present) / len(wanted) if wanted else 0.0


def _union(bags: Sequence[Bag]) -> Bag:
    whole = EMPTY_BAG
    for bag in bags:
        whole |= bag
    return whole
