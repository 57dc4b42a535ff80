import os
import time

import orjson
import pytest

from tests.load.bench import HIT, LONG, MESSAGES, SHORT, WHOLE, Figures
from tests.load.client import Endpoint, Work
from tests.load.cpu import cpu_s
from tests.load.double import text
from tests.load.report import tables

BURN_S = 0.1


def figures(factor: float) -> Figures:
    """A stream costs 2 ms, and 0.5 ms more with each token, in two processes."""
    made = Figures()
    for connections in (1, 16):
        for work in (WHOLE, SHORT, LONG):
            cost_s = factor * (0.002 + 0.0005 * work.tokens)
            made.spent[connections, work] = [{"edge": cost_s / 4, "inference": cost_s * 3 / 4}] * 3
    made.idle = [{"edge": 0.001, "inference": 0.002}] * 3
    return made


def event(content: str) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"delta": {"content": content}}]}) + b"\n\n"


def test_cost_of_a_token_is_what_a_long_stream_costs_beyond_a_short_one() -> None:
    assert figures(1.0).token_ms(16) == pytest.approx(0.5)
    assert figures(1.0).opening_ms(16) == pytest.approx(2.0)


def test_table_holds_each_subject_against_the_first_two() -> None:
    lines = list(tables({"bare": figures(1.0), "before": figures(3.0), "now": figures(6.0)}))

    (line, _) = (line for line in lines if line.startswith("  token") and " now " in line)  # at 1 and at 16 open
    assert line.split() == ["token", "now", "3.000", "6.00", "2.00"]


def test_what_one_subject_lacks_is_told_of_the_others() -> None:
    bare, before = figures(1.0), figures(3.0)
    bare.spent[1, HIT] = [{"proxy": 0.002}]
    now = figures(6.0)
    now.spent[1, HIT] = [{"edge": 0.001, "inference": 0.005}]

    lines = tables({"bare": bare, "before": before, "now": now})
    rows = [line.split() for line in lines if line.startswith("  " + HIT.name)]

    assert [row[len(HIT.name.split()) :] for row in rows] == [
        ["bare", "2.000", "1.00", "-"],
        ["now", "6.000", "3.00", "-"],
    ]


def test_only_what_is_known_is_asked_for() -> None:
    old = Endpoint(1, "key", "m")
    assert [old.answers(work) for work in (SHORT, MESSAGES, HIT)] == [True, False, False]
    new = Endpoint(1, "key", "m", cached_model="c", has_messages=True)
    assert all(new.answers(work) for work in (SHORT, MESSAGES, HIT))


def test_no_two_requests_are_equal_but_those_for_a_stored_answer() -> None:
    assert SHORT.body("m", 1) != SHORT.body("m", 2)
    assert HIT.body("m", 1) == HIT.body("m", 2)


def test_answer_that_lacks_a_word_is_refused() -> None:
    work = Work(name="two", tokens=2, is_stream=True)
    work.check(event(text(1)) + event(text(2).removeprefix(text(1))) + b"data: [DONE]\n\n")
    with pytest.raises(AssertionError):
        work.check(event(text(1)) + b"data: [DONE]\n\n")


def test_answer_in_the_words_of_messages_is_read() -> None:
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text(MESSAGES.tokens)}}
    begun = b"event: message_start\ndata: " + orjson.dumps({"type": "message_start"}) + b"\n\n"
    MESSAGES.check(begun + b"event: content_block_delta\ndata: " + orjson.dumps(delta) + b"\n\n")
    with pytest.raises(AssertionError):
        MESSAGES.check(begun)


def test_cpu_time_is_that_of_the_process() -> None:
    before = cpu_s(os.getpid())
    until = time.process_time() + BURN_S
    while time.process_time() < until:
        pass

    # The kernel tells it in steps of 10 ms.
    assert cpu_s(os.getpid()) - before >= BURN_S - 0.02
