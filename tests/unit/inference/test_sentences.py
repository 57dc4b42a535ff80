from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.extraction.answer_types import QUESTION_CHARS_MAX, fits
from services.inference.extraction.sentences import LIST_CHARS_MAX, Kind, quote, split


def sentences(text: str) -> list[str]:
    return [quote(text, sentence) for sentence in split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith met Mr. Jones at 5 p.m. They left.", ["Dr. Smith met Mr. Jones at 5 p.m. They left."]),
        ("J. R. Tolkien wrote it. It sold.", ["J. R. Tolkien wrote it.", "It sold."]),
        ("The U.S. Army came, e.g. Texans. They won.", ["The U.S. Army came, e.g. Texans.", "They won."]),
        ("It costs 3.5 dollars. Cheap.", ["It costs 3.5 dollars.", "Cheap."]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("A fact.[12] Another fact.", ["A fact.[12]", "Another fact."]),
        ("Ends in 1990. 2 years later it began.", ["Ends in 1990.", "2 years later it began."]),
        ("天空是蓝色的。海是咸的。", ["天空是蓝色的。", "海是咸的。"]),
        ("A line\nthat is wrapped. Next.", ["A line that is wrapped.", "Next."]),
        ("One paragraph\n\nAnother one", ["One paragraph", "Another one"]),
        ("  \n\n ... \n", []),
        ("", []),
    ],
)
def test_prose(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_list_items_stand_alone_without_their_marks() -> None:
    assert sentences("- First thing. More of it.\n* Second\n2) Third\n  wrapped") == [
        "First thing.",
        "More of it.",
        "Second",
        "Third wrapped",
    ]


def test_lead_in_is_quoted_with_its_list() -> None:
    text = "Before. The steps are:\n\n- open\n- close\n\nAfter."

    found = split(text)

    assert [(quote(text, one), one.kind) for one in found] == [
        ("Before.", Kind.PROSE),
        ("The steps are: - open - close", Kind.LIST),
        ("open", Kind.ITEM),
        ("close", Kind.ITEM),
        ("After.", Kind.PROSE),
    ]


def test_long_list_is_cut_at_an_item() -> None:
    text = "Steps:\n" + "".join(f"- item number {number}\n" for number in range(100))

    listing = split(text)[0]

    assert listing.kind is Kind.LIST
    assert listing.end <= LIST_CHARS_MAX
    assert quote(text, listing).rsplit(maxsplit=1)[-1].isdigit()


def test_headings_and_code_are_told_apart() -> None:
    text = "# Install\n\nRun this:\n\n```sh\nmake run\nmake demo\n```\n\nDone."

    assert [(quote(text, one), one.kind) for one in split(text)] == [
        ("Install", Kind.HEADING),
        ("Run this:", Kind.PROSE),
        ("make run make demo", Kind.CODE),
        ("Done.", Kind.PROSE),
    ]


@given(st.text(alphabet="aB1 .?!:\n-#`|。é\u2028\r"))
def test_ranges_are_trimmed_and_in_order(text: str) -> None:
    found = split(text)

    for one in found:
        piece = text[one.start : one.end]
        assert piece == piece.strip() != ""
    plain = [one for one in found if one.kind is not Kind.LIST]
    assert all(one.end <= other.start for one, other in pairwise(plain))


MANY = 100_000
"""Where each stop was looked at together with all before or behind it, so many took minutes, and more took hours."""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a" + "." * MANY + "b", 1),
        ("a." + " " * MANY + "b", 1),
        ("a" * MANY + "). B", 2),
        ("A. " * MANY, 1),
        ("Mr. Go. " * (MANY // 2), MANY // 2),
        ("Go there.\n\n" * (MANY // 2), MANY // 2),
    ],
    ids=["stops", "spaces", "word", "initials", "abbreviations", "paragraphs"],
)
def test_passage_that_is_built_to_be_slow_is_cut_in_its_time(text: str, count: int) -> None:
    assert len(split(text)) == count


def test_question_that_is_built_to_be_slow_is_read_in_its_time() -> None:
    assert fits("what is a" + " " * MANY + "!", "A turn is a question and its answer.") == 0.0
    assert fits("what is a" + " " * (QUESTION_CHARS_MAX - 10) + "!", "A turn is a question and its answer.") == 0.0
    assert fits("What is a   turn?", "A turn is a question and its answer.") == 1.0
