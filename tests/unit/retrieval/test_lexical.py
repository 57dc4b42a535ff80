import random
import string

import bm25s
import numpy as np
import pytest

from services.retrieval.index import lexical

_WORDS = ["".join(random.Random(seed).choices(string.ascii_lowercase, k=5)) for seed in range(60)]


def _texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(_WORDS, k=draw.randint(1, 40))) for _ in range(count)]


def _all(count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.ones(count, dtype=np.bool_)


def _postings(texts: list[str]) -> lexical.Postings:
    return lexical.build([lexical.terms(text) for text in texts])


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_bm25s(seed: int) -> None:
    texts = _texts(80, seed)
    query = " ".join(random.Random(seed + 100).choices(_WORDS, k=6)) + " unknownword"
    reference = bm25s.BM25(k1=lexical.K1, b=lexical.B, method="lucene")
    reference.index([[str(term) for term in lexical.terms(text)] for text in texts], show_progress=False)

    ours = lexical.score(lexical.terms(query), [(_postings(texts), _all(80))]).scores[0]

    theirs = reference.get_scores([str(term) for term in lexical.terms(query)])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_scores_do_not_depend_on_segments(seed: int) -> None:
    texts = _texts(60, seed)
    query = lexical.terms(" ".join(random.Random(seed).choices(_WORDS, k=5)))
    whole = lexical.score(query, [(_postings(texts), _all(60))])

    split = lexical.score(query, [(_postings(texts[:13]), _all(13)), (_postings(texts[13:]), _all(47))])

    np.testing.assert_allclose(np.concatenate(split.scores), whole.scores[0], rtol=1e-5)
    np.testing.assert_allclose(np.concatenate(split.coverage), whole.coverage[0], rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_merged_postings_score_as_if_built_from_what_is_live(seed: int) -> None:
    texts = _texts(50, seed)
    live = np.array([random.Random(seed * 100 + row).random() < 0.6 for row in range(50)])
    left, right = slice(0, 20), slice(20, 50)
    parts = [(_postings(texts[left]), live[left]), (_postings(texts[right]), live[right])]
    query = lexical.terms(" ".join(_WORDS[:6]))
    kept = [text for text, is_live in zip(texts, live, strict=True) if is_live]
    fresh = lexical.score(query, [(_postings(kept), _all(len(kept)))]).scores[0]

    merged = lexical.score(query, [(lexical.merge(parts), _all(len(kept)))]).scores[0]
    masked = lexical.score(query, parts).scores

    np.testing.assert_allclose(merged, fresh, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate(masked)[live], fresh, rtol=1e-5)
    assert not np.concatenate(masked)[~live].any()


def test_terms_are_stems_of_content_words() -> None:
    assert lexical.terms("The cats are RUNNING") == lexical.terms("cat run")
    assert lexical.terms("the of and a x") == []


def test_endless_word_is_known_by_its_first_64_letters() -> None:
    assert lexical.terms("x" * 64 + "y" * 8_000) == lexical.terms("x" * 64)
    assert lexical.terms("x" * 63 + "y") != lexical.terms("x" * 63 + "z")


def test_rarer_words_cover_more_of_a_question() -> None:
    texts = ["common rare", "common", "common", "common"]

    found = lexical.score(lexical.terms("common rare"), [(_postings(texts), _all(4))])

    assert found.coverage[0][0] == pytest.approx(1.0)
    assert 0 < found.coverage[0][1] < 0.5
    assert found.known == pytest.approx(1.0)
    assert lexical.score(lexical.terms("nowhere"), [(_postings(texts), _all(4))]).known == 0.0


def test_nothing_scores_nothing() -> None:
    assert lexical.score(lexical.terms("word"), []).scores == []
    assert lexical.score([], [(_postings(["word"]), _all(1))]).scores[0].tolist() == [0.0]
    assert lexical.build([[], []]).of(1)[0].tolist() == []
