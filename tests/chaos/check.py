"""The checker: history and end state in, broken promises out. It is pure, so that a run can be judged again later."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos import viewers
from tests.chaos.history import Record
from tests.chaos.provider import keys_of, question
from tests.chaos.stored import Row, Stored

RECOVERY_S_MAX: Final = 30.0
REVOKED_S_MAX: Final = 5.0
OPEN_REASONS: Final = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "OVERLOADED", "RATE_LIMITED", "PROVIDER_UNAVAILABLE", "PROVIDER_TIMEOUT"}
)
"""Why a turn may fail while faults last: it says so, and its client may ask again. A bug of ours is no such reason."""
ENDED: Final = frozenset({"completed", "cancelled", "failed"})
MESSAGE_STATES: Final = {"completed": "complete", "cancelled": "cancelled", "failed": "failed"}


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """A promise that was not kept.

    Attributes:
        invariant: I1 to I10 of the architecture.
        subject: key, turn, viewer or credential.
    """

    invariant: str
    subject: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.subject}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run showed.

    Attributes:
        lost: acknowledged turns that are not there, or have no end.
        duplicated: questions that are there more than once.
        takeovers: times that a turn went from one holder to another.
        takeover_s_max: longest silence that a viewer met when another attempt took over.
        recovery_s: from the end of all faults until everything that was accepted had ended and new turns were answered.
    """

    acknowledged: int
    completed: int
    failed: int
    cancelled: int
    lost: int
    duplicated: int
    takeovers: int
    takeover_s_max: float
    recovery_s: float
    violations: tuple[Violation, ...]


class Case:
    """Everything that is known of a run, indexed."""

    def __init__(self, records: Iterable[Record], stored: Stored, *, turn_s_max: float) -> None:
        self.records = list(records)
        self.stored = stored
        self.turn_s_max = turn_s_max
        self.by_op: dict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            self.by_op[record["op"]].append(record)
        self.turns = {row["id"]: row for row in stored.turns}
        self.messages = {row["id"]: row for row in stored.messages}
        self.questions: dict[str, list[Row]] = defaultdict(list)
        for row in stored.messages:
            if row["role"] == "user":
                for key in keys_of(row["text"]):
                    self.questions[key].append(row)
        self.acknowledged: dict[str, set[str]] = defaultdict(set)
        for record in self.by_op["posted"]:
            if record["turn"]:
                self.acknowledged[record["key"]].add(record["turn"])
        self.edits = {record["key"]: record["edit_of"] for record in self.by_op["post"] if record["edit_of"]}

    def mark(self, name: str) -> float | None:
        """When a phase began; None when it never did."""
        return next((record["t"] for record in self.by_op["mark"] if record["name"] == name), None)

    def answer_of(self, turn: Row) -> Row:
        """The stored answer; an empty row where there is none."""
        return self.messages.get(turn["assistant_message_id"], {"text": None, "state": "", "last_sequence": 0})

    def key_of(self, turn: Row) -> str:
        """The key in the question of a turn."""
        found = keys_of(self.messages.get(turn["user_message_id"], {"text": ""})["text"])
        return found[0] if found else ""

    def parent_of(self, turn: Row, newest_id: str) -> str:
        """The message that the question of a turn was to follow: the newest one, or that of the question it edits."""
        edited_id = self.edits.get(self.key_of(turn))
        if edited_id is None:
            return newest_id
        return str(self.messages.get(edited_id, {"parent_id": "of a question that is gone"})["parent_id"])


def judge(case: Case) -> Verdict:
    """Holds a run against the invariants."""
    seen = viewers.replay(case.by_op["event"])
    violations = [
        *_exists_once(case),
        *_key_makes_one_turn(case),
        *_ends(case),
        *_order(case),
        *_answers(case),
        *_streams(case, seen),
        *_tenancy(case),
        *_revocation(case),
        *_recovery(case),
    ]
    states = Counter(row["state"] for row in case.stored.turns)
    known = set().union(*case.acknowledged.values()) if case.acknowledged else set()
    healed, recovered = case.mark("healed"), case.mark("recovered")
    return Verdict(
        acknowledged=len(known),
        completed=states["completed"],
        failed=states["failed"],
        cancelled=states["cancelled"],
        lost=sum(turn not in case.turns or case.turns[turn]["state"] not in ENDED for turn in known),
        duplicated=sum(len(rows) - 1 for rows in case.questions.values()),
        takeovers=sum(max(0, row["fence"] - 1) for row in case.stored.turns),
        takeover_s_max=max((viewer.takeover_s_max for viewer in seen.values()), default=0.0),
        recovery_s=float("inf") if healed is None or recovered is None else recovered - healed,
        violations=tuple(sorted(set(violations))),
    )


def _exists_once(case: Case) -> Iterator[Violation]:
    for key, turn_ids in case.acknowledged.items():
        for turn_id in turn_ids:
            turn = case.turns.get(turn_id)
            if turn is None:
                yield Violation("I1", turn_id, f"was acknowledged for {key} and does not exist")
                continue
            asked = case.messages.get(turn["user_message_id"])
            if asked is None or asked["text"] != question(key):
                yield Violation("I1", turn_id, f"does not hold the question {key}")
            if turn["assistant_message_id"] not in case.messages:
                yield Violation("I1", turn_id, "has no answer message")


def _key_makes_one_turn(case: Case) -> Iterator[Violation]:
    for key, rows in case.questions.items():
        if len(rows) > 1:
            yield Violation("I2", key, f"made {len(rows)} turns: {[row['turn_id'] for row in rows]}")
    for key, turn_ids in case.acknowledged.items():
        if len(turn_ids) > 1:
            yield Violation("I2", key, f"was answered with {len(turn_ids)} turns: {sorted(turn_ids)}")
    for record in case.by_op["posted"]:
        if 400 <= record["status"] < 500:
            yield Violation("I2", record["key"], f"was refused with {record['status']}: {record['reason']}")


def _ends(case: Case) -> Iterator[Violation]:
    for record in case.by_op["gave_up"]:
        yield Violation("I3", record["turn"] or record["key"], "its client gave up waiting for the end")
    for turn in case.stored.turns:
        if turn["state"] not in ENDED:
            yield Violation("I3", turn["id"], f"has no end: {turn['state']}, attempt {turn['attempt']}")
            continue
        took_s = turn["end_time"] - turn["create_time"]
        if took_s > case.turn_s_max + RECOVERY_S_MAX:
            yield Violation("I3", turn["id"], f"took {took_s:.0f} s to end")
        answer = case.answer_of(turn)
        if answer["state"] != MESSAGE_STATES[turn["state"]]:
            yield Violation("I3", turn["id"], f"is {turn['state']} and its answer {answer['state']}")
        if turn["state"] == "failed" and turn["error"]["reason"] not in OPEN_REASONS:
            yield Violation("I3", turn["id"], f"failed by {turn['error']['reason']}: {turn['error']['message']}")


def _order(case: Case) -> Iterator[Violation]:
    of_conversation: dict[str, list[Row]] = defaultdict(list)
    for turn in case.stored.turns:
        of_conversation[turn["conversation_id"]].append(turn)
    for conversation_id, turns in of_conversation.items():
        turns.sort(key=lambda turn: turn["create_time"])
        previous_id, ended = "", 0.0
        for turn in turns:
            asked = case.messages.get(turn["user_message_id"])
            followed_id = case.parent_of(turn, previous_id)
            if asked is None or asked["parent_id"] != followed_id:
                yield Violation("I4", conversation_id, f"{turn['id']} does not follow the message {followed_id!r}")
            if turn["create_time"] < ended:
                yield Violation("I4", conversation_id, f"{turn['id']} began before the turn before it had ended")
            previous_id, ended = turn["assistant_message_id"], turn["end_time"] or float("inf")


def _answers(case: Case) -> Iterator[Violation]:
    said: dict[str, set[str]] = defaultdict(set)
    for record in case.by_op["served"]:
        said[record["key"]].add(record["text"])
    for turn in case.stored.turns:
        key, text = case.key_of(turn), case.answer_of(turn)["text"] or ""
        if turn["state"] == "completed" and text not in said[key]:
            yield Violation("I5", turn["id"], f"holds an answer that the model never gave: {text[:200]!r}")
        elif turn["state"] != "completed" and not any(whole.startswith(text) for whole in said[key]) and text:
            yield Violation("I5", turn["id"], f"holds a part that the model never said: {text[:200]!r}")
        if turn["state"] == "completed":
            expected = _branch_keys(case, turn)
            named = text.removeprefix("You asked ").partition(";")[0].split()
            if named != expected:
                yield Violation("I4", turn["id"], f"was answered after {named} and not after {expected}")


def _branch_keys(case: Case, turn: Row) -> list[str]:
    """Keys of the questions from the first one to that of the turn."""
    keys: list[str] = []
    message_id = turn["user_message_id"]
    while message_id:
        message = case.messages.get(message_id)
        if message is None:
            break
        if message["role"] == "user":
            keys += keys_of(message["text"])
        message_id = message["parent_id"]
    return keys[::-1]


def _streams(case: Case, seen: dict[int, viewers.Viewer]) -> Iterator[Violation]:
    for viewer in seen.values():
        for problem in viewer.problems:
            yield Violation("I5", viewer.turn_id, f"viewer {viewer.number}: {problem}")
        turn = case.turns.get(viewer.turn_id)
        if turn is None or not viewer.is_finished:
            continue
        stored = case.answer_of(turn)
        if viewer.text != (stored["text"] or ""):
            yield Violation("I5", viewer.turn_id, f"viewer {viewer.number} has another text than is stored")
        if viewer.sequence != stored["last_sequence"]:
            what = f"viewer {viewer.number} saw the end at {viewer.sequence}, stored is {stored['last_sequence']}"
            yield Violation("I5", viewer.turn_id, what)
    for turn_id, sequence in viewers.disagreements(case.by_op["event"]):
        yield Violation("I5", turn_id, f"event {sequence} was shown in two versions")
    for record in case.by_op["watched"]:
        if record["how"][:1] == "4" and not record["key"]:
            yield Violation("I5", record["turn"], f"resuming was refused: {record['how'].partition(',')[0]}")


def _tenancy(case: Case) -> Iterator[Violation]:
    for record in case.by_op["foreign"]:
        if record["status"] < 500 and record["status"] != 404:
            yield Violation("I6", record["turn"], f"{record['organization']} asked for it and got {record['status']}")
    for record in case.by_op["event"]:
        if '"You asked ' not in record["data"]:
            continue
        keys = [word for word in record["data"].partition("You asked ")[2].partition(";")[0].split() if "." in word]
        if len({key.partition(".")[0] for key in keys}) > 1:
            yield Violation("I6", record["turn"], f"mixes organizations: {keys}")


def _revocation(case: Case) -> Iterator[Violation]:
    revoked = {record["key_id"]: record["t"] for record in case.by_op["revoked"]}
    for record in case.by_op["used"]:
        since = record["sent_at"] - revoked.get(record["key_id"], float("inf"))
        if since > REVOKED_S_MAX and record["status"] < 300:
            yield Violation("I9", record["key_id"], f"was let in {since:.1f} s after its revocation")


def _recovery(case: Case) -> Iterator[Violation]:
    healed, recovered, peace = case.mark("healed"), case.mark("recovered"), case.mark("peace")
    if healed is None or recovered is None or recovered - healed > RECOVERY_S_MAX:
        yield Violation("I10", "stack", f"was not healthy {RECOVERY_S_MAX:.0f} s after the last fault")
    if case.stored.outbox:
        yield Violation("I10", "outbox", f"still holds {len(case.stored.outbox)} turns")
    if case.stored.queued:
        yield Violation("I10", "queue", f"still holds {case.stored.queued} messages")
    if peace is not None:
        yield from _peace(case, peace)


def _peace(case: Case, peace: float) -> Iterator[Violation]:
    """Without faults nothing fails, not even for a moment."""
    for record in case.by_op["posted"]:
        if record["t"] > peace and not record["turn"]:
            yield Violation("I10", record["key"], f"was refused in peace with {record['status']}: {record['reason']}")
    for record in case.by_op["broken"]:
        if record["t"] > peace:
            yield Violation("I10", record["key"] or record["path"], f"{record['error']} in peace")
    for record in case.by_op["watched"]:
        if record["t"] > peace and record["how"] not in {"ended", "left"}:
            yield Violation("I10", record["turn"], f"its stream ended in peace: {record['how']}")
    yield from _peaceful_turns(case, peace)


def _peaceful_turns(case: Case, peace: float) -> Iterator[Violation]:
    """Of turns that were accepted in peace, each one was answered at the first attempt."""
    if case.mark("over") is None:
        yield Violation("I10", "stack", "did not finish its last turns in peace")
    cancelled = {record["turn"] for record in case.by_op["cancel"]}
    first_post: dict[str, float] = {}
    for record in case.by_op["post"]:
        first_post.setdefault(record["key"], record["t"])
    for turn in case.stored.turns:
        if first_post.get(case.key_of(turn), 0.0) <= peace:
            continue
        wanted = {"completed", "cancelled"} if turn["id"] in cancelled else {"completed"}
        if turn["state"] not in wanted or turn["attempt"] > 1:
            reason = json.dumps(turn["error"])
            yield Violation("I10", turn["id"], f"in peace: {turn['state']} at attempt {turn['attempt']}, {reason}")


def summary(violations: Iterable[Violation]) -> dict[str, int]:
    """How many of each invariant."""
    return dict(sorted(Counter(violation.invariant for violation in violations).items()))
