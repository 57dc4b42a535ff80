import math

import orjson
import pytest

from tests.load.schedule import by_chance, steady
from tests.load.tally import GAP, Arrivals, Course, Reading, Tally, packed, percentile, unpacked
from tests.load.wish import Wish, follows, late_us, stamp, stamps_in

APART_US = 1_000
BEGUN_US = 5_000_000


def reading(arrivals: Arrivals | None = None) -> Reading:
    return Reading(Course(number=0, due_us=BEGUN_US), arrivals or Arrivals(), apart_us=APART_US)


def tokens(*numbers: int) -> bytes:
    return b"".join(stamp(BEGUN_US + number * APART_US) for number in numbers)


def test_questions_are_due_at_equal_distances() -> None:
    assert steady(4.0, 4) == [0, 250_000, 500_000, 750_000]


def test_chance_gives_the_wanted_rate_and_the_same_instants_again() -> None:
    instants = by_chance(50.0, 2_000, seed=1)

    assert instants == by_chance(50.0, 2_000, seed=1) != by_chance(50.0, 2_000, seed=2)
    assert instants == sorted(instants)
    assert instants[-1] / 1_000_000 == pytest.approx(2_000 / 50.0, rel=0.1)


def test_wish_is_found_behind_those_of_history() -> None:
    old, new = Wish(tokens=1, apart_us=2, first_us=3), Wish(tokens=4, apart_us=5, first_us=None)

    found = Wish.found_in(f"{old.words} … {new.words}".encode())

    assert found == new
    assert Wish.found_in(old.words.encode()) == old
    with pytest.raises(ValueError, match="no wish"):
        Wish.found_in(b"Good morning")


def test_stamps_tell_how_late_they_are_also_where_they_begin_anew() -> None:
    last = 10**10 - 1
    assert list(stamps_in(stamp(last) + stamp(last + 2))) == [last, 1]
    assert follows(1, last, 2)
    assert late_us(last, 10**10 + 4) == 5
    assert late_us(1, 10**10 - 1) == -2


def test_lateness_counts_from_when_a_token_was_due() -> None:
    arrivals = Arrivals()
    one = reading(arrivals)
    one.take(tokens(0), BEGUN_US + 10)
    one.take(tokens(1, 2), BEGUN_US + 2_500)
    one.end(BEGUN_US + 3_000)

    assert list(arrivals.late_us) == [10, 1_500, 500]
    assert arrivals.within(BEGUN_US + 11, BEGUN_US + 2_501) == [1_500, 500]
    assert one.course.is_whole
    assert (one.course.tokens, one.course.text) == (3, tokens(0, 1, 2).decode())


def test_token_in_two_pieces_is_one_token() -> None:
    one, text = reading(), tokens(0, 1)
    one.take(text[:15], BEGUN_US)
    one.take(text[15:], BEGUN_US)
    one.end(BEGUN_US)

    assert (one.course.tokens, one.course.lost) == (2, "")


@pytest.mark.parametrize("came", [(0, 2), (0, 0, 1), (1, 0)])
def test_answer_whose_tokens_do_not_follow_is_lost(came: tuple[int, ...]) -> None:
    one = reading()
    one.take(tokens(*came), BEGUN_US)
    one.end(BEGUN_US)

    assert one.course.lost == GAP
    assert Tally([one.course], Arrivals()).lost() == {GAP: 1}


def test_answer_that_is_cut_in_a_token_is_lost() -> None:
    one = reading()
    one.take(tokens(0)[:-1], BEGUN_US)
    one.end(BEGUN_US)

    assert not one.course.is_whole


def test_what_comes_after_the_end_changes_nothing() -> None:
    one = reading()
    one.take(tokens(0), BEGUN_US)
    one.end(BEGUN_US + 1)
    one.end(BEGUN_US + 2, lost="its connection broke")

    assert (one.course.ended_us, one.course.lost) == (BEGUN_US + 1, "")


def test_answers_that_never_came_count_as_lost_and_as_late() -> None:
    quick, silent = Course(number=0, due_us=1_000, first_us=3_000, ended_us=4_000), Course(number=1, due_us=1_000)
    tally = Tally([quick, silent], Arrivals())

    assert tally.whole == [quick]
    assert tally.lost() == {"it has not ended": 1}
    assert tally.first_ms(500) == [1.5, math.inf]
    assert percentile(tally.first_ms(), 0.99) == math.inf


def test_percentile_is_a_value_that_was_seen() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert math.isnan(percentile([], 0.5))


def test_tally_survives_its_way_between_processes() -> None:
    arrivals = Arrivals()
    arrivals.add(1, 2)
    tally = Tally([Course(number=7, due_us=1, turn_id="turn_1", lost="late")], arrivals)

    assert unpacked(orjson.loads(orjson.dumps(packed(tally)))) == tally
