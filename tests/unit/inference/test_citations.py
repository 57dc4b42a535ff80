import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.generating.citations import CitationReader
from services.inference.model import Passage, PassageCitation
from tests.support.inference import SEA, SKY

PASSAGES = (SKY, SEA)


def cited(text: str, passages: tuple[Passage, ...] = PASSAGES) -> list[tuple[str, int, str]]:
    """What is cited in `text`: the claim, the number and the quote."""
    found = CitationReader(passages).feed(text)
    return [
        (text[one.start : one.end], one.passage, passages[one.passage - 1].text[one.source_start : one.source_end])
        for one in found
    ]


def test_mark_after_a_sentence_cites_the_sentence() -> None:
    assert cited("The sky turns red at dusk [1].") == [("The sky turns red at dusk", 1, "At dusk the sky turns red.")]


def test_mark_after_the_stop_cites_the_sentence_before_it() -> None:
    assert cited("Clouds are white. [1] The sea is salty. [2]") == [
        ("Clouds are white.", 1, "Clouds are white."),
        ("The sea is salty.", 2, "The sea is salty."),
    ]


def test_each_mark_within_a_sentence_cites_its_own_part() -> None:
    assert cited("Clouds are white [1], and the sea is salty [2].") == [
        ("Clouds are white", 1, "Clouds are white."),
        ("and the sea is salty", 2, "The sea is salty."),
    ]


@pytest.mark.parametrize("marks", ["[1][2]", "[1] [2]", "[1, 2]", "[1,2]", "[1; 2]", "[ 1 ][ 2 ]"])
def test_several_marks_side_by_side_cite_the_same_claim(marks: str) -> None:
    assert [(claim, number) for claim, number, _ in cited(f"Water is wet {marks}.")] == [
        ("Water is wet", 1),
        ("Water is wet", 2),
    ]


def test_claim_begins_after_a_list_mark_or_a_heading() -> None:
    text = "# Answer\n\n- Clouds are white [1]\n2. The sea is salty [2]"

    assert [claim for claim, _, _ in cited(text)] == ["Clouds are white", "The sea is salty"]


@pytest.mark.parametrize(
    "text",
    [
        "No such passage [3].",
        "No passage zero [0].",
        "[1] with nothing before it",
        "An index `a[1]` in code",
        "```\nx = a[1]\n```",
        "An open mark [1",
        "A word [one]",
        "A year [2024]",
    ],
)
def test_what_is_no_citation(text: str) -> None:
    assert cited(text) == []


def test_mark_after_code_is_a_citation() -> None:
    assert [number for _, number, _ in cited("Use `a[0]` for clouds that are white [1].")] == [1]


def test_claim_that_shares_nothing_with_the_passage_cites_all_of_it() -> None:
    assert cited("Bananas ripen quickly [2].") == [("Bananas ripen quickly", 2, SEA.text)]


def test_same_claim_and_source_are_cited_once() -> None:
    assert len(cited("Clouds are white [1][1].")) == 1


def test_without_passages_nothing_is_cited() -> None:
    assert cited("Clouds are white [1].", ()) == []


words = st.sampled_from(
    [
        *("sky ", "blue ", "sea", " salty", "é", "空"),
        *("[1]", "[2]", "[1, 2]", "[", "]", "1", ", "),
        *(". ", "? ", "\n", "\n- ", "`", "```"),
    ]
)


@given(pieces=st.lists(words, max_size=40), data=st.data())
def test_citations_are_the_same_however_the_text_is_cut(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    whole = CitationReader(PASSAGES).feed(text)

    reader = CitationReader(PASSAGES)
    piecewise: list[PassageCitation] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        piecewise += reader.feed(text[start:end])

    assert piecewise == whole


@given(pieces=st.lists(words, max_size=40))
def test_ranges_lie_within_their_texts(pieces: list[str]) -> None:
    text = "".join(pieces)

    for one in CitationReader(PASSAGES).feed(text):
        assert 0 <= one.start < one.end <= len(text)
        assert 0 <= one.source_start < one.source_end <= len(PASSAGES[one.passage - 1].text)


def test_long_mark_is_found_whatever_stands_before_it() -> None:
    mark = "[" + ", ".join(["1"] * 16) + "]"
    reader = CitationReader(PASSAGES)

    found = [one for letter in f"]]{'x' * 300} clouds {mark}" for one in reader.feed(letter)]

    assert [one.passage for one in found] == [1]
