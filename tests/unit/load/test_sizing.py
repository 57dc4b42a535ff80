import pytest

from tests.capacity.sizing import PAGE, Cost, Load, measured, size, written

CHEAP = Cost(turn_ms=10.0, token_us=0.0, search_ms=0.0, idle_mib=100.0, stream_kib=1024.0)
BUSY = Load(6_000, answer_s=10.0, searching=0.5)
"""100 turns a second, a thousand open answers."""


def test_the_page_s_table_is_what_follows_from_what_was_measured() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert written(text) == text, "run `python -m tests.capacity.sizing`, and commit what it changes"
    assert measured(text)


def test_streams_are_turns_times_the_time_that_each_takes() -> None:
    assert (BUSY.turns_per_s, BUSY.streams, BUSY.tokens_per_s_of_all) == (100.0, 1_000.0, 40_000.0)


def test_replicas_are_planned_below_a_whole_core_with_one_to_spare() -> None:
    found = size(CHEAP, BUSY, is_store=False)
    assert (found.cores, found.replicas) == (1.0, 3)
    # Two have to hold what three share.
    assert found.memory_mib == pytest.approx(100 + 500)


def test_a_store_is_one() -> None:
    assert size(CHEAP, BUSY, is_store=True).replicas == 1


def test_searches_count_by_their_share() -> None:
    searching = Cost(turn_ms=0.0, token_us=0.0, search_ms=10.0, idle_mib=0.0, stream_kib=0.0)
    assert size(searching, BUSY, is_store=False).cores == pytest.approx(0.5)


def test_tokens_count_each() -> None:
    writing = Cost(turn_ms=0.0, token_us=100.0, search_ms=0.0, idle_mib=0.0, stream_kib=0.0)
    assert size(writing, BUSY, is_store=False).cores == pytest.approx(4.0)
