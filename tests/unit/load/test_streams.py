"""What a run of many answers says of them, while it goes and in the end."""

import pytest

from services.inference.settings import Settings
from tests.load.asking import Asking, Plan, Progress, Words
from tests.load.conversations import Stored
from tests.load.streams import STALL_S, WATCH_S, Held, Options, differs, progress_line, report
from tests.load.tally import GAP, Arrivals, Course, Tally

SEEN = Course(number=0, due_us=1, asked_us=1, opened_us=1, first_us=2, ended_us=3, turn_id="turn_1", text=" 1")
LOST = Course(number=1, due_us=1, asked_us=1, opened_us=1, ended_us=2, lost=GAP)


@pytest.mark.parametrize(
    ("stored", "how"),
    [
        ({"turn_1": Stored("completed", " 1")}, ""),
        ({}, "is not stored"),
        ({"turn_1": Stored("failed", " 1")}, "is stored as failed"),
        ({"turn_1": Stored("completed", " 2")}, "is stored as another text"),
    ],
)
def test_an_answer_is_held_against_what_is_stored_of_it(stored: dict[str, Stored], how: str) -> None:
    assert differs(SEEN, stored) == how


def test_progress_tells_why_answers_were_lost() -> None:
    asking = Asking(Plan(port=1, key="", words=Words.TURN, begin_us=1, answer_s_max=1.0, apart_us=1, questions=[]))
    asking.tally.courses += [SEEN, LOST]
    told = asking.progress()

    assert (told.asked, told.begun, told.lost, told.failed, told.causes) == (2, 1, 1, 1, {GAP: 1})
    line = progress_line(told, Progress(tokens=told.tokens - round(10 * WATCH_S)), 65.0)
    assert line == f"  65 s: asked 2, open 0, ended 2, lost 1, 10 tokens/s; 1: {GAP}"


@pytest.mark.parametrize(
    ("tokens_per_s", "set_to"), [(0.1, {}), (1 / 15, {}), (0.05, {"PARLEY_INFERENCE_STALL_S": "40"})]
)
def test_a_provider_that_is_slow_on_purpose_is_not_given_up(tokens_per_s: float, set_to: dict[str, str]) -> None:
    options = Options(streams=1, tokens_per_s=tokens_per_s, opened_per_s=1.0, hold_s=1.0, ends_s=1.0)

    assert options.patience == set_to
    assert Settings.model_fields["stall_s"].default == STALL_S


def test_report_counts_what_is_lost_and_what_is_stored_otherwise() -> None:
    options = Options(streams=2, tokens_per_s=1.0, opened_per_s=1.0, hold_s=1.0, ends_s=1.0)
    held = Held(window_us=(0, 1_000_000), spent_s={"edge": 0.5}, grown_bytes={"edge": 2_048}, open=2)

    text = "\n".join(report(options, held, Tally([SEEN, LOST], Arrivals()), {}))

    assert "opened 2, open at once 2, whole 1, equal to what is stored 0" in text
    assert f"lost 1; 1: {GAP}; 1: is not stored" in text
    *_, edge, whole = (line.split() for line in text.splitlines())
    assert (edge, whole) == (["edge", "0.50", "500000", "250000", "1.0"], ["all", "0.50", "500000", "250000", "1.0"])
