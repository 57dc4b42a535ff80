import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.sentences import sentences


def _texts(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text, (0, len(text)))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four…", ["One.", "Two!", "Three?", "Four…"]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("Dr. Smith met Mr. Jones. They spoke.", ["Dr. Smith met Mr. Jones.", "They spoke."]),
        ("See e.g. Figure 3. It shows J. R. Tolkien.", ["See e.g. Figure 3.", "It shows J. R. Tolkien."]),
        ("It costs 3.50 euros. Or 4.", ["It costs 3.50 euros.", "Or 4."]),
        ("1. First item of a list.", ["1. First item of a list."]),
        ("It was built in 1999. It stands.", ["It was built in 1999.", "It stands."]),
        ("visit example.com. it is fine", ["visit example.com. it is fine"]),
        ("これは文です。次の文です。", ["これは文です。", "次の文です。"]),
        ("no end", ["no end"]),
        ("  \n ", []),
    ],
)
def test_sentences_end_where_people_end_them(text: str, expected: list[str]) -> None:
    assert _texts(text) == expected


@given(st.text(max_size=400))
def test_no_character_but_white_space_is_lost(text: str) -> None:
    assert "".join("".join(_texts(text)).split()) == "".join(text.split())


@given(st.text(alphabet="aB. !?\n\"'1", max_size=200), st.integers(0, 50), st.integers(50, 200))
def test_spans_lie_inside_and_in_order(text: str, start: int, end: int) -> None:
    end = min(end, len(text))
    spans = sentences(text, (min(start, end), end))

    flat = [offset for span in spans for offset in span]
    assert flat == sorted(flat)
    assert all(min(start, end) <= offset <= end for offset in flat)


_MANY = 300_000
"""Where each stop was looked at together with all before or behind it, so many took a quarter of an hour."""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a" + "." * _MANY + "b", 1),
        ("a." + '"' * _MANY + "b", 1),
        ("a." + " " * _MANY + "b", 1),
        ("a. " + "(" * _MANY + "b", 1),
        ("a" * _MANY + "). B", 2),
        ("A. " * _MANY, 1),
        ("1. A. " * (_MANY // 2), _MANY // 2),
        ("Etc. Go. " * (_MANY // 2), _MANY // 2),
    ],
    ids=["stops", "quotes", "spaces", "brackets", "word", "initials", "numbers", "abbreviations"],
)
def test_text_that_is_built_to_be_slow_is_cut_in_its_time(text: str, count: int) -> None:
    assert len(_texts(text)) == count
