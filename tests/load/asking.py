"""`python -m tests.load.asking PLAN RESULT`: asks every question of a plan at its instant, and reads all answers.

A process of its own on bare sockets, one connection per question. It says on its output twice a second how far it is.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, cast

import orjson
import uvloop

from tests.load.http1 import Answer, Events
from tests.load.tally import Arrivals, Course, Reading, Tally, packed
from tests.load.wish import now_us

LOOPBACK: Final = "127.0.0.1"
PROGRESS_S: Final = 0.5
_OK: Final = 200
_TURN_HEADER: Final = "x-parley-turn"


class Words(StrEnum):
    """In whose words the events of an answer are."""

    TURN = "turn"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Question:
    """A request; `at_us` counts from the beginning of the plan."""

    at_us: int
    path: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked.

    Attributes:
        port, key: where, and with which credential.
        begin_us: the instant from which the questions count.
        answer_s_max: for an answer; then it is lost.
        apart_us: between two tokens of an answer; None where they are no stamps.
    """

    port: int
    key: str
    words: Words
    begin_us: int
    answer_s_max: float
    apart_us: int | None
    questions: Sequence[Question]

    @classmethod
    def of(cls, text: bytes) -> "Plan":
        """From its text."""
        given = orjson.loads(text)
        questions = [Question(**question) for question in given.pop("questions")]
        return cls(**given | {"words": Words(given["words"]), "questions": questions})

    def text(self) -> bytes:
        """For another process."""
        return orjson.dumps(asdict(self))


@dataclass(slots=True)
class Progress:
    """How far a plan is; of those that were asked.

    Attributes:
        failed: were lost before their first text.
        causes: how many were lost, by cause.
    """

    asked: int = 0
    opened: int = 0
    begun: int = 0
    ended: int = 0
    open: int = 0
    lost: int = 0
    failed: int = 0
    tokens: int = 0
    causes: dict[str, int] = field(default_factory=dict)


class Reader(asyncio.Protocol):
    """The connection of one question.

    Args:
        request: its bytes.
        reading: takes the answer.
        words: of its events.
        over: is called when nothing more comes.
    """

    def __init__(self, request: bytes, reading: Reading, words: Words, over: Callable[[], None]) -> None:
        self._request = request
        self._reading = reading
        self._is_turn = words is Words.TURN
        self._over = over
        self._answer = Answer()
        self._events = Events()
        self._transport: asyncio.WriteTransport | None = None
        self._has_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own class, which is no subclass of it
        self._reading.course.asked_us = now_us()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        at_us, answer, course = now_us(), self._answer, self._reading.course
        try:
            body = answer.feed(data)
        except ValueError:
            self.end("its answer is no HTTP")
            return
        if not course.opened_us and answer.status == _OK:
            course.opened_us = at_us
            course.turn_id = answer.header(_TURN_HEADER)
        if answer.status == _OK:
            for event in self._events.feed(body):
                self._take(event, at_us)
        elif answer.is_whole:
            self.end(f"{answer.status} {_reason_in(body)}".strip())
        if answer.is_whole:
            self.end("" if self._has_end else "its answer ended without an end")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("its connection broke")

    def end(self, lost: str = "") -> None:
        """Nothing more is read."""
        if not self._reading.course.ended_us:
            self._reading.end(now_us(), lost=lost)
            self._over()
        if self._transport is not None:
            self._transport.abort()

    def _take(self, event: bytes, at_us: int) -> None:
        if self._is_turn:
            self._take_step(event, at_us)
        elif event == b"data: [DONE]":
            self._has_end = True
        elif text := _text_in(event, b'"content":"'):
            self._reading.take(text, at_us)

    def _take_step(self, event: bytes, at_us: int) -> None:
        if b"\nevent: text_delta\n" in event:
            self._reading.take(_text_in(event, b'"text":"'), at_us)
        elif b"\nevent: turn_finished\n" in event:
            self._has_end = b'"state":"completed"' in event
        elif event.startswith(b"event: error"):
            self.end(f"an error in its stream: {_reason_in(event)}")
        elif b"\nevent: snapshot\n" in event or b"\nevent: attempt_started\n" in event:
            self._reading.course.lost = "it was begun anew"


def _text_in(event: bytes, mark: bytes) -> bytes:
    """The text behind a mark, which holds nothing that JSON escapes."""
    _, _, found = event.partition(mark)
    return found.partition(b'"')[0]


def _reason_in(body: bytes) -> str:
    """Of an error, without what differs from one to the next."""
    return _text_in(body, b'"reason":"').decode("utf-8", "replace")


class Asking:
    """Carries a plan out."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._left = len(plan.questions)
        self._done = asyncio.Event()
        self.tally = Tally([], Arrivals())

    async def run(self) -> None:
        """Returns when every answer has ended."""
        loop = asyncio.get_running_loop()
        behind_s = (now_us() - self._plan.begin_us) / 1_000_000
        async with asyncio.TaskGroup() as group:
            for number, question in enumerate(self._plan.questions):
                course = Course(number=number, due_us=self._plan.begin_us + question.at_us)
                self.tally.courses.append(course)
                wait_s = max(0.0, question.at_us / 1_000_000 - behind_s)
                loop.call_later(wait_s, lambda q=question, c=course: group.create_task(self._ask(q, c)))  # type: ignore[misc]  # mypy cannot infer a default's type in a lambda
            await self._done.wait()

    async def _ask(self, question: Question, course: Course) -> None:
        plan, loop = self._plan, asyncio.get_running_loop()
        reading = Reading(course, self.tally.arrivals, apart_us=plan.apart_us)
        reader = Reader(_request(plan, question), reading, plan.words, self._ended)
        loop.call_later(plan.answer_s_max, reader.end, "it took too long")
        try:
            await loop.create_connection(lambda: reader, LOOPBACK, plan.port)
        except OSError as error:
            reader.end(f"no connection: {error}")

    def _ended(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    def progress(self) -> Progress:
        """How far it is."""
        found = Progress()
        for course in self.tally.courses:
            found.asked += course.asked_us > 0
            found.opened += course.opened_us > 0
            found.begun += course.first_us > 0
            found.ended += course.ended_us > 0
            found.open += course.opened_us > 0 and not course.ended_us
            found.lost += bool(course.lost)
            found.failed += bool(course.lost) and not course.first_us
            found.tokens += course.tokens
            if course.lost:
                found.causes[course.lost] = found.causes.get(course.lost, 0) + 1
        return found


def _request(plan: Plan, question: Question) -> bytes:
    body = question.body.encode()
    head = (
        f"POST {question.path} HTTP/1.1\r\nhost: {LOOPBACK}\r\ncontent-type: application/json\r\n"
        f"accept: text/event-stream\r\nauthorization: Bearer {plan.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _tell(asking: Asking) -> None:
    while True:
        sys.stdout.write(orjson.dumps(asdict(asking.progress())).decode() + "\n")
        sys.stdout.flush()
        await asyncio.sleep(PROGRESS_S)


async def _carried_out(plan: Plan) -> Tally:
    asking = Asking(plan)
    async with asyncio.TaskGroup() as group:
        telling = group.create_task(_tell(asking))
        await asking.run()
        telling.cancel()
    return asking.tally


if __name__ == "__main__":
    gc.disable()  # as in `paced`
    tally = uvloop.run(_carried_out(Plan.of(Path(sys.argv[1]).read_bytes())))
    Path(sys.argv[2]).write_bytes(orjson.dumps(packed(tally)))
