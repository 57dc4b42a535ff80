"""What has to agree before two questions may mean the same."""

import pytest

from services.inference.cache.gist import gist
from services.inference.routes.schema import SIMILARITY_MIN
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from tests.meanings.measuring import THRESHOLDS, Pair, judged, shipped, table

PAIRS = shipped()
HITS_MIN = 20
"""Of the pairs that mean the same: the others use other words, which vectors cannot tell from near misses."""


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if not pair.is_same], ids=lambda pair: pair.second)
def test_near_miss_does_not_agree(pair: Pair) -> None:
    assert not gist(pair.first).agrees(gist(pair.second))
    assert not gist(pair.second).agrees(gist(pair.first))


def test_many_questions_of_the_same_meaning_agree() -> None:
    assert sum(gist(pair.first).agrees(gist(pair.second)) for pair in PAIRS if pair.is_same) >= HITS_MIN


def test_question_agrees_with_itself() -> None:
    assert all(gist(pair.first).agrees(gist(pair.first)) for pair in PAIRS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Was kostet das Abonnement?", "Was kostete das Abonnement?"),
        ("¿Dónde está la oficina?", "¿Dónde no está la oficina?"),
        ("Wie am besten?", "Wie besten?"),
        ("如何取消订阅", "如何续订"),
    ],
)
def test_other_languages_agree_to_the_letter(first: str, second: str) -> None:
    assert not gist(first).agrees(gist(second))
    assert gist(first).agrees(gist(first))


def test_default_threshold_lets_no_near_miss_through_with_the_shipped_encoder() -> None:
    encoder = OnnxEncoder(ModelFiles.packaged(), threads=1)
    row = next(row for row in table(judged(PAIRS, encoder.encode)) if row.threshold == SIMILARITY_MIN)

    assert row.false_hits == 0
    assert row.hits >= HITS_MIN
    # Vectors alone do let them through, which is why they are not left alone.
    assert row.false_by_vectors > 0


def test_default_threshold_is_among_those_that_are_measured() -> None:
    assert SIMILARITY_MIN in THRESHOLDS
