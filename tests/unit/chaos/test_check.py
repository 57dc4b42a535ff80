"""The checker is quiet about a good run, and names each promise that a run breaks."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.check import Case, Verdict, judge
from tests.chaos.history import Record
from tests.chaos.provider import question
from tests.chaos.stored import Row, Stored

KEYS = ("alder.7.1.a", "alder.7.2.b")


class Run:
    """A small good run: one conversation, two turns, watched to their ends; then peace. Tests spoil it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.turns: list[Row] = []
        self.messages: list[Row] = []
        self.outbox: list[Row] = []
        self.queued = 0
        for number, key in enumerate(KEYS, 1):
            self._turn(number, key)
        for at, name in ((50.0, "healed"), (55.0, "recovered"), (57.0, "peace"), (70.0, "over")):
            self.note(at, "mark", name=name)

    def note(self, at: float, op: str, **facts: Any) -> None:
        self.records.append({"t": at, "op": op, **facts})

    def judged(self) -> Verdict:
        stored = Stored(turns=self.turns, messages=self.messages, outbox=self.outbox, queued=self.queued)
        return judge(Case(self.records, stored, turn_s_max=90.0))

    def event(self, number: int, sequence: int) -> Record:
        """The record of an event of a turn."""
        return next(
            record
            for record in self.records
            if record["op"] == "event" and record["turn"] == f"turn_{number}" and record["id"] == str(sequence)
        )

    def _turn(self, number: int, key: str) -> None:
        turn, at = f"turn_{number}", 10.0 * number
        text = f"You asked {' '.join(KEYS[:number])}; sea🌊 end."
        parent = f"answer_{number - 1}" if number > 1 else ""
        self._message(f"question_{number}", parent, "user", question(key), turn)
        self._message(f"answer_{number}", f"question_{number}", "assistant", text, turn)
        self.turns.append(
            {
                "id": turn,
                "conversation_id": "conv_1",
                "user_message_id": f"question_{number}",
                "assistant_message_id": f"answer_{number}",
                "state": "completed",
                "attempt": 1,
                "fence": 1,
                "error": None,
                "create_time": 1_000.0 + at,
                "end_time": 1_001.0 + at,
            }
        )
        self.note(at, "post", key=key, conversation="conv_1", edit_of="")
        self.note(at, "posted", key=key, status=202, turn=turn, reason="")
        self.note(at, "served", key=key, number=number, fault="none", text=text)
        half = len(text) // 2
        answer = {"id": f"answer_{number}", "parts": [{"text": {"text": text}}]}
        for sequence, (kind, payload) in enumerate(
            [
                ("turn_started", {"turn_id": turn}),
                ("text_delta", {"offset": 0, "text": text[:half]}),
                ("text_delta", {"offset": half, "text": text[half:]}),
                ("turn_finished", {"state": "completed", "message": answer}),
            ],
            1,
        ):
            data = json.dumps({"sequence": sequence, "attempt": 1, kind: payload}, ensure_ascii=False)
            self.note(at + sequence / 10, "event", viewer=number, turn=turn, id=str(sequence), event=kind, data=data)

    def _message(self, message_id: str, parent_id: str, role: str, text: str, turn: str) -> None:
        facts = {"id": message_id, "parent_id": parent_id, "role": role, "text": text, "turn_id": turn}
        self.messages.append({**facts, "state": "complete", "last_sequence": 4 if role == "assistant" else 0})


def test_good_run_breaks_nothing() -> None:
    verdict = Run().judged()

    assert verdict.violations == ()
    assert (verdict.acknowledged, verdict.completed, verdict.lost, verdict.duplicated) == (2, 2, 0, 0)
    assert verdict.recovery_s == 5.0


def _lose_a_turn(run: Run) -> None:
    del run.turns[1]


def _lose_a_question(run: Run) -> None:
    run.messages[2]["text"] = question("alder.7.9.z")


def _answer_twice(run: Run) -> None:
    run.messages.append({**run.messages[2], "id": "question_3", "turn_id": "turn_3"})


def _acknowledge_with_two_turns(run: Run) -> None:
    run.note(40.0, "posted", key=KEYS[0], status=202, turn="turn_2", reason="")


def _refuse_a_repeat(run: Run) -> None:
    run.note(40.0, "posted", key=KEYS[0], status=409, turn="", reason="TURN_ALREADY_RUNNING")


def _never_end(run: Run) -> None:
    run.turns[1] |= {"state": "running", "end_time": None}


def _end_late(run: Run) -> None:
    run.turns[1]["end_time"] += 200.0


def _fail_by_a_bug(run: Run) -> None:
    run.turns[1] |= {"state": "failed", "error": {"reason": "INTERNAL", "message": "oh"}}


def _disagree_about_the_state(run: Run) -> None:
    run.messages[3]["state"] = "in_progress"


def _give_up(run: Run) -> None:
    run.note(40.0, "gave_up", key=KEYS[1], turn="turn_2")


def _branch_off(run: Run) -> None:
    run.messages[2]["parent_id"] = ""


def _append_an_edit(run: Run) -> None:
    run.note(40.0, "post", key=KEYS[1], conversation="conv_1", edit_of="question_1")


def _overlap(run: Run) -> None:
    run.turns[1]["create_time"] = 1_005.0


def _forget_the_history(run: Run) -> None:
    text = f"You asked {KEYS[1]}; sea🌊 end."
    run.messages[3]["text"] = text
    run.note(40.0, "served", key=KEYS[1], number=3, fault="none", text=text)


def _mix_two_answers(run: Run) -> None:
    run.messages[3]["text"] += " end."


def _skip_an_event(run: Run) -> None:
    run.records.remove(run.event(2, 2))


def _repeat_an_event(run: Run) -> None:
    run.records.append(run.event(2, 3))


def _tell_another_version(run: Run) -> None:
    other = dict(run.event(2, 2))
    other |= {"viewer": 9, "data": other["data"].replace("You", "She")}
    run.records.append(other)


def _finish_at_another_sequence(run: Run) -> None:
    run.messages[3]["last_sequence"] = 5


def _refuse_to_resume(run: Run) -> None:
    run.note(40.0, "watched", viewer=2, turn="turn_2", key="", how="400 after_sequence")


def _show_it_to_a_stranger(run: Run) -> None:
    run.note(40.0, "foreign", turn="turn_2", organization="birch", status=200)


def _mix_organizations(run: Run) -> None:
    data = json.dumps({"text_delta": {"text": "You asked birch.7.1.a alder.7.2.b; "}})
    run.note(40.0, "event", viewer=8, turn="turn_8", id="1", event="error", data=data)


def _let_a_revoked_key_in(run: Run) -> None:
    run.note(40.0, "revoked", key_id="key_1")
    run.note(45.3, "used", key_id="key_1", sent_at=45.2, status=200)


def _stay_ill(run: Run) -> None:
    run.records = [record for record in run.records if record.get("name") not in {"recovered", "peace"}]


def _leave_the_outbox(run: Run) -> None:
    run.outbox.append({"turn_id": "turn_2"})


def _leave_the_queue(run: Run) -> None:
    run.queued = 1


def _refuse_in_peace(run: Run) -> None:
    run.note(60.0, "posted", key="alder.7.3.c", status=503, turn="", reason="UNAVAILABLE")


def _break_in_peace(run: Run) -> None:
    run.note(60.0, "watched", viewer=2, turn="turn_2", key="", how="broken ReadError")


def _need_two_attempts_in_peace(run: Run) -> None:
    for record in run.records:
        if record["op"] == "post" and record["key"] == KEYS[1]:
            record["t"] = 60.0
    run.turns[1]["attempt"] = 2


@pytest.mark.parametrize(
    ("invariant", "spoil"),
    [
        ("I1", _lose_a_turn),
        ("I1", _lose_a_question),
        ("I2", _answer_twice),
        ("I2", _acknowledge_with_two_turns),
        ("I2", _refuse_a_repeat),
        ("I3", _never_end),
        ("I3", _end_late),
        ("I3", _fail_by_a_bug),
        ("I3", _disagree_about_the_state),
        ("I3", _give_up),
        ("I4", _branch_off),
        ("I4", _append_an_edit),
        ("I4", _overlap),
        ("I4", _forget_the_history),
        ("I5", _mix_two_answers),
        ("I5", _skip_an_event),
        ("I5", _repeat_an_event),
        ("I5", _tell_another_version),
        ("I5", _finish_at_another_sequence),
        ("I5", _refuse_to_resume),
        ("I6", _show_it_to_a_stranger),
        ("I6", _mix_organizations),
        ("I9", _let_a_revoked_key_in),
        ("I10", _stay_ill),
        ("I10", _leave_the_outbox),
        ("I10", _leave_the_queue),
        ("I10", _refuse_in_peace),
        ("I10", _break_in_peace),
        ("I10", _need_two_attempts_in_peace),
    ],
)
def test_broken_promise_is_named(invariant: str, spoil: Callable[[Run], None]) -> None:
    run = Run()
    spoil(run)

    assert invariant in {violation.invariant for violation in run.judged().violations}


def test_what_was_acknowledged_and_is_not_there_counts_as_lost() -> None:
    run = Run()
    _lose_a_turn(run)

    assert run.judged().lost == 1


def test_edited_question_stands_beside_the_one_that_it_edits() -> None:
    run = Run()
    run.note(40.0, "post", key=KEYS[1], conversation="conv_1", edit_of="question_1")
    run.messages[2]["parent_id"] = ""
    text = f"You asked {KEYS[1]}; sea🌊 end."
    run.messages[3]["text"] = text
    run.note(40.0, "served", key=KEYS[1], number=3, fault="none", text=text)

    assert "I4" not in {violation.invariant for violation in run.judged().violations}


def test_revoked_key_may_be_let_in_for_five_seconds() -> None:
    run = Run()
    run.note(40.0, "revoked", key_id="key_1")
    run.note(44.9, "used", key_id="key_1", sent_at=44.8, status=200)

    assert run.judged().violations == ()


def test_longest_silence_before_another_attempt_is_the_longest_takeover() -> None:
    run = Run()
    for sequence in (3, 4):
        record = run.event(2, sequence)
        data = json.loads(record["data"]) | {"attempt": 2}
        record |= {"t": record["t"] + 7.0, "data": json.dumps(data)}

    assert run.judged().takeover_s_max == pytest.approx(7.1)
