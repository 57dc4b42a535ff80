"""What became of each question: told by its reader's clock, against when it was due to be asked.

An answer is complete when every token came, in its order, and then its end. Everything else is lost, and says how.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.load.wish import STAMP_LENGTH, follows, late_us, stamps_in

GAP: Final = "a token is missing"


@dataclass(slots=True, kw_only=True)
class Course:
    """One question and its answer; instants are microseconds, 0 for what never came.

    Attributes:
        number: of the question.
        due_us: when it was to be asked.
        opened_us: when the head of its answer came.
        first_us, last_us: when its first and latest text came.
        ended_us: when the answer had ended, lost or whole.
        tokens: that came.
        lost: why the answer is not whole; empty when it is, or goes on.
        turn_id: of the turn that answers, where there is one.
        text: all of it.
    """

    number: int
    due_us: int
    asked_us: int = 0
    opened_us: int = 0
    first_us: int = 0
    last_us: int = 0
    ended_us: int = 0
    tokens: int = 0
    lost: str = ""
    turn_id: str = ""
    text: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether the answer has come to its end."""
        return bool(self.ended_us) and not self.lost


class Reading:
    """Reads the texts of one answer into its course.

    Args:
        course: of the answer.
        arrivals: gets every token.
        apart_us: between two tokens; None where they are no stamps.
    """

    __slots__ = ("_apart_us", "_arrivals", "_last", "_pieces", "_rest", "course")

    def __init__(self, course: Course, arrivals: "Arrivals", *, apart_us: int | None) -> None:
        self.course = course
        self._arrivals = arrivals
        self._apart_us = apart_us
        self._last: int | None = None
        self._rest = b""
        self._pieces: list[bytes] = []

    def take(self, text: bytes, at_us: int) -> None:
        """Text has come."""
        course = self.course
        course.first_us = course.first_us or at_us
        course.last_us = at_us
        self._pieces.append(text)
        if self._apart_us is None:
            course.tokens += 1
            return
        text = self._rest + text
        whole = len(text) - len(text) % STAMP_LENGTH
        self._rest = text[whole:]
        for stamped in stamps_in(text[:whole]):
            if self._last is not None and not follows(stamped, self._last, self._apart_us):
                course.lost = course.lost or GAP
            self._last = stamped
            course.tokens += 1
            self._arrivals.add(at_us, late_us(stamped, at_us))

    def end(self, at_us: int, *, lost: str = "") -> None:
        """Nothing more will come; `lost` says why where it should have."""
        course = self.course
        if course.ended_us:
            return
        course.ended_us = at_us
        course.lost = course.lost or lost or ("its last token is cut" if self._rest else "")
        course.text = b"".join(self._pieces).decode("utf-8", "replace")
        self._pieces = []


@dataclass(slots=True)
class Arrivals:
    """Every token of all answers: when it came, and how late that was."""

    at_us: "array[int]" = field(default_factory=lambda: array("q"))
    late_us: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, at_us: int, late_us: int) -> None:
        self.at_us.append(at_us)
        self.late_us.append(late_us)

    def within(self, begin_us: int, end_us: int) -> list[int]:
        """How late the tokens were that came in a span of time."""
        return [late for at, late in zip(self.at_us, self.late_us, strict=True) if begin_us <= at < end_us]


@dataclass(slots=True)
class Tally:
    """All answers of a run."""

    courses: list[Course]
    arrivals: Arrivals

    @property
    def whole(self) -> list[Course]:
        """Those that came to their end."""
        return [course for course in self.courses if course.is_whole]

    def lost(self) -> Counter[str]:
        """How many were lost, by cause; those that never ended too."""
        return Counter(course.lost or "it has not ended" for course in self.courses if not course.is_whole)

    def first_ms(self, waited_us: int = 0) -> list[float]:
        """From when a question was due to the first text of its answer, less what the provider waited.

        One that never had any counts as infinitely late, so that losing the slow ones improves nothing.
        """
        return [
            (course.first_us - course.due_us - waited_us) / 1_000 if course.first_us else math.inf
            for course in self.courses
        ]


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least so many of all are not above; not a number for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def packed(tally: Tally) -> dict[str, Any]:  # Any: JSON
    """For another process."""
    fields = Course.__slots__
    courses = [[getattr(course, name) for name in fields] for course in tally.courses]
    return {
        "fields": fields,
        "courses": courses,
        "at": list(tally.arrivals.at_us),
        "late": list(tally.arrivals.late_us),
    }


def unpacked(given: dict[str, Any]) -> Tally:  # Any: JSON
    """What `packed` made."""
    names: Sequence[str] = given["fields"]
    courses = [Course(**dict(zip(names, values, strict=True))) for values in given["courses"]]
    return Tally(courses, Arrivals(array("q", given["at"]), array("q", given["late"])))
