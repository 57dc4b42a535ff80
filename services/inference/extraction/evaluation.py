"""Measures the built-in model on squad2-wiki: `python -m services.inference.extraction.evaluation FOLDER`.

For each answerable question of the `test` half the gold passage is shown among seven others, as BM25 ranks them; a hit
is an answer that quotes a gold answer from its own place. Chit-chat and the same questions with passages of other
articles should be refused. Needs nothing but the data set (corpus.jsonl and queries.jsonl, see its README).
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from services.inference.extraction.evidence import Question
from services.inference.extraction.selection import Selection, Strength, select
from services.inference.extraction.terms import terms
from services.inference.model import Passage

PASSAGES: Final = 8

# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; the usual parameters.
_K1: Final = 1.2
_B: Final = 0.75

# Any: rows of the data set, whose README has their fields.
Row = dict[str, Any]


@dataclass(slots=True)
class Tally:
    """Counts of one run."""

    questions: int = 0
    first_hits: int = 0
    hits: int = 0
    refused: int = 0
    sentences: int = 0

    def line(self, name: str) -> str:
        """The figures in one line."""
        answered = max(1, self.questions - self.refused)
        return (
            f"{name:28} questions {self.questions:5}  quotes the answer {self.hits / self.questions:6.1%}  "
            f"first sentence holds it {self.first_hits / self.questions:6.1%}  "
            f"refused {self.refused / self.questions:6.1%}  sentences {self.sentences / answered:4.2f}\n"
        )


def main(folder: Path) -> None:
    """Prints the figures of the data set in `folder`."""
    corpus = _rows(folder / "corpus.jsonl")
    queries = [row for row in _rows(folder / "queries.jsonl") if row["split"] == "test"]
    ranking = _Ranking(corpus)
    tallies = {name: Tally() for name in ("answerable", "other articles only", "near miss", "no question of facts")}
    started = perf_counter()
    for query in queries:
        kind = query["kind"]
        if kind == "answerable":
            _count(tallies["answerable"], query, ranking.with_gold(query))
            _count(tallies["other articles only"], query, ranking.without_article(query))
        elif kind == "adversarial":
            _count(tallies["near miss"], query, ranking.with_gold(query))
        else:
            _count(tallies["no question of facts"], query, ranking.best(query["text"], PASSAGES))
    seconds = perf_counter() - started
    for name, tally in tallies.items():
        sys.stdout.write(tally.line(name))
    asked = sum(tally.questions for tally in tallies.values())
    sys.stdout.write(f"{1000 * seconds / asked:.1f} ms per question, ranking included\n")


class _Ranking:
    """BM25 over the paragraphs of all articles."""

    def __init__(self, corpus: Sequence[Row]) -> None:
        self._corpus = list(corpus)
        self._by_id = {row["_id"]: row for row in corpus}
        bags = [Counter(terms(f"{row['title']} {row['text']}")) for row in corpus]
        lengths = [sum(bag.values()) for bag in bags]
        mean = sum(lengths) / len(lengths)
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for index, (bag, length) in enumerate(zip(bags, lengths, strict=True)):
            for term, count in bag.items():
                weight = count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * length / mean))
                self._postings.setdefault(term, []).append((index, weight))

    def best(self, question: str, count: int) -> list[Row]:
        scores: dict[int, float] = {}
        for term in set(terms(question)):
            found = self._postings.get(term, [])
            rarity = log(1 + (len(self._corpus) - len(found) + 0.5) / (len(found) + 0.5))
            for index, weight in found:
                scores[index] = scores.get(index, 0.0) + rarity * weight
        ranked = sorted(scores, key=lambda index: (-scores[index], index))
        return [self._corpus[index] for index in ranked[:count]]

    def with_gold(self, query: Row) -> list[Row]:
        found = self.best(query["text"], PASSAGES)
        gold = self._by_id[query["near_passage"]]
        return found if gold in found else [*found[: PASSAGES - 1], gold]

    def without_article(self, query: Row) -> list[Row]:
        found = self.best(query["text"], len(self._corpus))
        return [row for row in found if row["doc_id"] != query["doc_id"]][:PASSAGES]


def _count(tally: Tally, query: Row, shown: Sequence[Row]) -> None:
    selection = select(Question.of(query["text"]), [Passage(row["title"], row["text"]) for row in shown])
    tally.questions += 1
    tally.refused += selection.strength is Strength.NONE
    tally.sentences += len(selection.sentences)
    tally.hits += _holds(selection, query, shown, first_only=False)
    tally.first_hits += _holds(selection, query, shown, first_only=True)


def _holds(selection: Selection, query: Row, shown: Sequence[Row], *, first_only: bool) -> bool:
    ranked = sorted(selection.sentences, key=lambda one: -one.score)
    for one in ranked[:1] if first_only else ranked:
        row = shown[one.passage - 1]
        start, end = row["char_start"] + one.sentence.start, row["char_start"] + one.sentence.end
        inside = (start <= answer["char_start"] and answer["char_end"] <= end for answer in query["answers"])
        if row["doc_id"] == query["doc_id"] and any(inside):
            return True
    return False


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in _lines(path)]


def _lines(path: Path) -> Iterable[str]:
    with path.open(encoding="utf-8") as file:
        yield from file


if __name__ == "__main__":
    main(Path(sys.argv[1]))
