import os
import time

import orjson
import pytest

from tests.load.bench import LONG, SHORT, WHOLE, Figures
from tests.load.client import Work
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


def test_no_two_requests_are_equal() -> None:
    assert SHORT.body("m", 1) != SHORT.body("m", 2)


def test_answer_that_lacks_a_word_is_refused() -> None:
    work = Work(name="two", tokens=2, is_stream=True)
    work.check(event(text(1)) + event(text(2).removeprefix(text(1))) + b"data: [DONE]\n\n")
    with pytest.raises(AssertionError):
        work.check(event(text(1)) + b"data: [DONE]\n\n")


def test_cpu_time_is_that_of_the_process() -> None:
    before = cpu_s(os.getpid())
    until = time.process_time() + BURN_S
    while time.process_time() < until:
        pass

    # The kernel tells it in steps of 10 ms.
    assert cpu_s(os.getpid()) - before >= BURN_S - 0.02
