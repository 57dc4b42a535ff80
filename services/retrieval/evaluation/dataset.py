"""A labelled set in the layout of `squad2-wiki`: passages, questions of several kinds, and a split by article."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.retrieval.embedding.encoder import Encoder
from services.retrieval.model import Chunk, ChunkKey, DocumentId, IndexRow, Vector
from services.retrieval.store import pack, unpack

ANSWERABLE: Final = "answerable"
NO_RETRIEVAL: Final = "no_retrieval"
ADVERSARIAL: Final = "adversarial"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledQuestion:
    """A question and what is known of it.

    Attributes:
        kind: answerable, no_retrieval, or adversarial.
        article: that it was written about; empty for no_retrieval.
        passage: the one relevant passage of an answerable question.
    """

    text: str
    kind: str
    article: DocumentId
    passage: ChunkKey
    vector: Vector


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Passages as index rows, and the questions of one split."""

    rows: tuple[IndexRow, ...]
    questions: tuple[LabelledQuestion, ...]

    def of_kind(self, kind: str) -> list[LabelledQuestion]:
        """The questions of one kind."""
        return [question for question in self.questions if question.kind == kind]

    def articles(self) -> list[DocumentId]:
        """The articles that the answerable questions of this split are about."""
        return sorted({question.article for question in self.of_kind(ANSWERABLE)})

    def rows_of(self, articles: set[DocumentId]) -> list[IndexRow]:
        """The passages of some articles."""
        return [row for row in self.rows if row.document_id in articles]


def load(folder: Path, *, split: str, encoder: Encoder, adversarial_max: int, seed: int) -> Dataset:
    """Reads and encodes one split; vectors go through the half precision in which they are stored.

    Args:
        folder: holds corpus.jsonl and queries.jsonl.
        split: `calib` or `test`.
        encoder: of passages and questions.
        adversarial_max: how many adversarial questions to take, drawn by `seed`.
        seed: of the draw.

    Raises:
        OSError: a file is missing.
    """
    corpus = list(_lines(folder / "corpus.jsonl"))
    texts = [Chunk(line["text"], 0, 0, line["title"], "").searchable_text for line in corpus]
    vectors = [unpack(pack(vector)) for vector in encoder.encode(texts)]
    rows = tuple(
        IndexRow(ChunkKey(place), DocumentId(line["doc_id"]), text, vector)
        for place, (line, text, vector) in enumerate(zip(corpus, texts, vectors, strict=True))
    )
    keys = {line["_id"]: ChunkKey(place) for place, line in enumerate(corpus)}
    asked = [line for line in _lines(folder / "queries.jsonl") if line["split"] == split]
    return Dataset(rows, tuple(_questions(_drawn(asked, adversarial_max, seed), keys, encoder)))


def _questions(
    lines: Sequence[Mapping[str, Any]], keys: Mapping[str, ChunkKey], encoder: Encoder
) -> Iterator[LabelledQuestion]:
    vectors = encoder.encode([line["text"] for line in lines])
    for line, vector in zip(lines, vectors, strict=True):
        yield LabelledQuestion(
            text=line["text"],
            kind=line["kind"],
            article=DocumentId(line["doc_id"] or ""),
            passage=keys.get(line["near_passage"] or "", ChunkKey(-1)),
            vector=vector,
        )


def _drawn(lines: list[dict[str, Any]], adversarial_max: int, seed: int) -> list[dict[str, Any]]:
    hostile = [line for line in lines if line["kind"] == ADVERSARIAL]
    drawn = random.Random(seed).sample(hostile, min(adversarial_max, len(hostile)))  # noqa: S311 - a sample, not a secret
    return [line for line in lines if line["kind"] != ADVERSARIAL] + drawn


def _lines(path: Path) -> Iterator[dict[str, Any]]:  # Any: JSON
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
