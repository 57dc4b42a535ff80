"""Seams: whatever the pieces, and whatever a target repeats, the reader gets one text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.inference.generating.continuation import (
    AfterAgreement,
    AfterOverlap,
    AfterPrefix,
    Placed,
    Plain,
    Seam,
    Way,
    anchor_of,
    prefix_of,
    seam_of,
    turns_after,
    way_of,
)
from services.inference.model import Generation, Parameters, Prompt, Role
from services.inference.parts import AnswerFormat, Tool
from services.inference.prompts.tokens import TokenEstimate
from services.inference.providers.base import Profile
from tests.support.inference import user

TEXT = "Air scatters short waves most, and so the sky is blue. At dusk the light goes a longer way, and it turns red."
TOKENS = TokenEstimate(ascii_chars_per_token=4)


def joined(seam: Seam, standing: str, written: str, sizes: list[int]) -> str:
    """The answer of a reader who follows each placement."""
    text = standing
    pieces = []
    for size in sizes:
        pieces.append(written[:size])
        written = written[size:]
    pieces.append(written)
    for placed in [*(seam.feed(piece) for piece in pieces if piece), seam.end()]:
        if placed is not None:
            text = text[: placed.offset] + placed.text
    return text


cuts = st.integers(1, len(TEXT) - 1)
sizes = st.lists(st.integers(1, 12), max_size=40)


@given(cuts, sizes)
def test_prefix_is_gone_on_with(cut: int, pieces: list[int]) -> None:
    standing = TEXT[:cut]
    written = TEXT[len(prefix_of(standing)) :]

    assert joined(AfterPrefix(standing), standing, written, pieces) == TEXT


@given(st.integers(12, len(TEXT) - 1), sizes, st.integers(8, 80))
@example(13, [7], 8)  # all but the blank of what is repeated comes first
def test_repeated_end_is_taken_away(cut: int, pieces: list[int], repeated: int) -> None:
    standing = TEXT[:cut]
    written = TEXT[max(0, cut - repeated) :]

    assert joined(AfterOverlap(standing), standing, written, pieces) == TEXT


@given(st.integers(1, len(TEXT) - 1), sizes)
def test_answer_that_begins_again_is_taken_away_as_far_as_it_stands(cut: int, pieces: list[int]) -> None:
    standing = TEXT[:cut]

    assert joined(AfterOverlap(standing), standing, TEXT, pieces) == TEXT


@given(st.integers(12, len(TEXT) - 1), sizes)
def test_blanks_that_a_model_drops_at_the_seam_are_not_doubled(cut: int, pieces: list[int]) -> None:
    standing = TEXT[:cut]
    anchor = standing[-20:].strip()
    written = anchor + TEXT[len(standing.rstrip()) :]

    assert joined(AfterOverlap(standing), standing, written, pieces) == TEXT


@given(count=st.integers(1, 30), pieces=sizes, has_blank=st.booleans())
def test_words_that_repeat_themselves_are_not_lost(*, count: int, pieces: list[int], has_blank: bool) -> None:
    standing = "Row, row, row your boat. " + "La " * count
    whole = standing + "La " * 7 + "end."
    anchor = anchor_of(standing) if has_blank else anchor_of(standing).rstrip()
    written = anchor + whole[len(standing) if has_blank else len(standing.rstrip()) :]

    assert joined(AfterOverlap(standing), standing, written, pieces) == whole


@given(st.integers(1, len(TEXT) - 1), sizes)
def test_text_without_any_repetition_follows(cut: int, pieces: list[int]) -> None:
    standing = TEXT[:cut]

    assert joined(AfterOverlap(standing), standing, "\u2014 quite so.", pieces) == standing + "\u2014 quite so."


@given(cuts, sizes)
def test_same_answer_from_the_start_is_followed(cut: int, pieces: list[int]) -> None:
    standing = TEXT[:cut]

    assert joined(AfterAgreement(standing), standing, TEXT, pieces) == TEXT


@given(cuts, sizes)
def test_other_answer_from_the_start_takes_the_place_of_what_stood(cut: int, pieces: list[int]) -> None:
    other = TEXT[: cut // 2] + "#" + TEXT[::-1]

    assert joined(AfterAgreement(TEXT[:cut]), TEXT[:cut], other, pieces) == other


def test_shorter_answer_from_the_start_takes_the_place_of_what_stood() -> None:
    assert joined(AfterAgreement(TEXT), TEXT, TEXT[:10], [3]) == TEXT[:10]


def test_pieces_of_a_first_attempt_follow_one_another() -> None:
    seam = seam_of(Way.INSTRUCTED, "")

    assert isinstance(seam, Plain)
    assert [seam.feed("ab"), seam.feed("c"), seam.end()] == [Placed(0, "ab"), Placed(2, "c"), None]


@pytest.mark.parametrize(
    ("profile", "parameters", "tools", "way"),
    [
        (Profile(name="a", tokens=TOKENS), Parameters(), (), Way.INSTRUCTED),
        (Profile(name="a", tokens=TOKENS, takes_prefix=True), Parameters(), (), Way.PREFIX),
        (Profile(name="a", tokens=TOKENS, cites=True), Parameters(), (), Way.RESTART),
        (Profile(name="a", tokens=TOKENS), Parameters(format=AnswerFormat()), (), Way.RESTART),
        (Profile(name="a", tokens=TOKENS), Parameters(), (Tool(name="look_up"),), Way.RESTART),
    ],
)
def test_way_is_the_targets_and_the_wishs(
    profile: Profile, parameters: Parameters, tools: tuple[Tool, ...], way: Way
) -> None:
    wish = Generation(prompt=Prompt(messages=(user("q?"),), tools=tools), parameters=parameters)

    assert way_of(profile, wish) is way


def test_model_is_shown_its_answer_and_where_to_go_on() -> None:
    shown, told = turns_after(TEXT[:50])

    assert (shown.role, shown.text) == (Role.ASSISTANT, TEXT[:50])
    assert told.role is Role.USER
    assert told.text.endswith(TEXT[:50])
