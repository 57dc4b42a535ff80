"""Rounds of the same work for a bare proxy and for whole stacks, by turns, and the table of what each costs."""

import asyncio
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import ClassVar, Final

import orjson

from tests.load.asking import Plan, Question, Words
from tests.load.client import Load, Work
from tests.load.generator import Generator
from tests.load.meter import Reading
from tests.load.platform import Platform
from tests.load.schedule import by_chance, steady
from tests.load.serving import Served
from tests.load.subjects import Subject
from tests.load.tally import Tally, percentile
from tests.load.wish import Wish, now_us, stamps_in

SECOND: Final = 1_000_000
CHAT: Final = "/v1/chat/completions"
EXTRACTIVE: Final = "extractive"
LEAD_US: Final = 2 * SECOND
"""Until the first question; the generator starts in it."""
ANSWER_S_MAX: Final = 120.0
IDLE_S: Final = 3.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table.

    Attributes:
        goal: what is promised: at most so many times the proxy's, or with a plus so much more; empty for nothing.
    """

    name: str
    unit: str
    goal: str = ""


TOKEN: Final = Row(name="CPU of a token of a durable turn, 500 open", unit="us", goal="2")
DELIVERED: Final = Row(name="  tokens/s of 10,000 that came in time", unit="")
P50: Final = Row(name="first token at 50 turns/s, p50", unit="ms", goal="+25")
P99: Final = Row(name="first token at 50 turns/s, p99", unit="ms", goal="+100")
REQUEST: Final = Row(name="CPU of a stateless request, 16 open", unit="us", goal="4")
STATELESS: Final = Row(name="CPU of a stateless token, 16 open", unit="us", goal="2")
LOST: Final = Row(name="answers lost, of both loads", unit="", goal="0")
ROWS: Final = (TOKEN, DELIVERED, P50, P99, REQUEST, STATELESS, LOST)


@dataclass(slots=True)
class Figures:
    """One value per round."""

    found: dict[Row, list[float]] = field(default_factory=lambda: defaultdict(list))

    def of(self, row: Row) -> float:
        """The median; not a number where nothing was measured."""
        return median(self.found[row]) if self.found[row] else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced(Work):
    """A stateless request to the paced double: as many tokens as `tokens`, as fast as a usual model writes them."""

    is_stream: bool = True
    APART_US: ClassVar[int] = 20_000

    def body(self, model: str, number: int) -> bytes:
        """See `Work.body`."""
        wish = Wish(tokens=self.tokens, apart_us=self.APART_US, first_us=self.APART_US)
        return chat_body(model, f"Question {number}. {wish.words}").encode()

    def check(self, body: bytes) -> None:
        """See `Work.check`."""
        found = b"".join(event.partition(b'"content":"')[2].partition(b'"')[0] for event in body.split(b"\n\n"))
        assert len(list(stamps_in(found))) == self.tokens, body


SHORT: Final = Paced(name="short", tokens=4)
LONG: Final = Paced(name="long", tokens=64)
REQUESTS: Final[Mapping[Paced, int]] = {SHORT: 160, LONG: 96}
"""How often each is asked in a round: whether tokens of several answers meet is chance, and few do not even it out."""
CONNECTIONS: Final = 16


def chat_body(model: str, text: str) -> str:
    """A stateless, streamed chat completion."""
    message = {"role": "user", "content": text}
    return orjson.dumps({"model": model, "stream": True, "store": False, "messages": [message]}).decode()


class Trials:
    """Everything that is measured.

    What a turn's first token is counted from is when its question was due; one that never came is infinitely late.

    Args:
        double: the provider.
        proxy: what is between client and double at least.
        platforms: what is measured.
        folder: for plans and their results.
    """

    STREAMS: ClassVar[int] = 500
    TOKENS_PER_S: ClassVar[int] = 20
    OPENED_PER_S: ClassVar[float] = 40.0
    """By a stack; the proxy, to which an answer is nothing but a connection, is asked faster."""
    PASSED_PER_S: ClassVar[float] = 100.0
    SETTLE_S: ClassVar[float] = 2.0
    """Between the last answer's head and the first token of all."""
    WINDOW_S: ClassVar[float] = 3.0
    TURNS_PER_S: ClassVar[float] = 50.0
    TURNS: ClassVar[int] = 300

    def __init__(self, double: Served, proxy: Subject, platforms: Sequence[Platform], folder: Path) -> None:
        self._double = double
        self._proxy = proxy
        self._platforms = platforms
        self._folder = folder
        self._figures = {subject.name: Figures() for subject in self._subjects}
        self._loads = {subject.name: Load(subject.endpoint, CONNECTIONS) for subject in self._subjects}
        self._lost: Counter[str] = Counter()
        self._idle: dict[str, dict[str, float]] = {}

    @property
    def _subjects(self) -> list[Subject]:
        return [self._proxy, *(one.subject for one in self._platforms)]

    async def run(self, rounds: int) -> Mapping[str, Figures]:
        """Figures by name of the subject; each round begins with another one, so that none has the quieter moments."""
        for load in self._loads.values():
            await load.run(SHORT, CONNECTIONS)
        await self._rest()
        for number in range(rounds):
            begun = now_us()
            for subject in _turned(self._subjects, number):
                await self._stateless(subject)
            for subject in _turned(self._subjects, number):
                await self._streams(subject, await self._stream_questions(subject))
                await self._arrivals(subject, await self._arrival_questions(subject))
                self._note(subject, {LOST: self._lost.pop(subject.name, 0)})
            _log.info("round %d of %d took %.0f s", number + 1, rounds, (now_us() - begun) / SECOND)
        return self._figures

    async def _rest(self) -> None:
        """What processes do when nobody asks."""
        before = {subject.name: Reading.of(subject.pids) for subject in self._subjects}
        await asyncio.sleep(IDLE_S)
        for subject in self._subjects:
            after, first = Reading.of(subject.pids), before[subject.name]
            seconds = after.seconds_since(first)
            self._idle[subject.name] = {role: spent / seconds for role, spent in after.since(first).items()}

    async def _stateless(self, subject: Subject) -> None:
        spent_us: dict[Paced, float] = {}
        for work, requests in REQUESTS.items():
            before = Reading.of(subject.pids)
            await self._loads[subject.name].run(work, requests)
            after = Reading.of(subject.pids)
            idle = sum(self._idle[subject.name].values()) * after.seconds_since(before)
            spent_us[work] = SECOND * (sum(after.since(before).values()) - idle) / requests
        token_us = (spent_us[LONG] - spent_us[SHORT]) / (LONG.tokens - SHORT.tokens)
        self._note(subject, {REQUEST: spent_us[SHORT] - SHORT.tokens * token_us, STATELESS: token_us})

    async def _stream_questions(self, subject: Subject) -> list[tuple[str, str]]:
        """Path and body; the wish that all begin at one instant is added when that is known."""
        if subject is self._proxy:
            return [(CHAT, "")] * self.STREAMS
        return [(path, "") for path in await self._platform(subject).conversations(self.STREAMS)]

    async def _streams(self, subject: Subject, asked: Sequence[tuple[str, str]]) -> None:
        """All open, then all written at once, for as long as a window of measurement."""
        self._double.say("hold")
        tokens = round((self.WINDOW_S + 2.0) * self.TOKENS_PER_S)
        wish = Wish(tokens=tokens, apart_us=SECOND // self.TOKENS_PER_S, first_us=None)
        instants = steady(self.PASSED_PER_S if subject is self._proxy else self.OPENED_PER_S, self.STREAMS)
        bodies = [(path, self._body(subject, wish.words)) for path, _ in asked]
        plan = self._plan(subject, now_us() + LEAD_US, instants, bodies, apart_us=wish.apart_us)
        generator = Generator(plan, self._folder)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(generator.run())
            await generator.until(lambda told: told.opened + told.failed >= self.STREAMS)
            await asyncio.sleep(self.SETTLE_S)
            self._double.say(f"begin {now_us()}")
            await asyncio.sleep(1.0)
            first = Reading.of(subject.pids)
            await asyncio.sleep(self.WINDOW_S)
            last = Reading.of(subject.pids)
        tally = running.result()
        came = len(tally.arrivals.within(first.at_us, last.at_us))
        spent_us = SECOND * sum(last.since(first).values())
        self._note(subject, {TOKEN: spent_us / max(1, came), DELIVERED: came / last.seconds_since(first)})
        parts = {role: SECOND * spent / max(1, came) for role, spent in last.since(first).items()}
        _log.info("    of a token: %s us", ", ".join(f"{role} {part_us:.1f}" for role, part_us in parts.items()))
        self._note_lost(subject, tally)

    async def _arrival_questions(self, subject: Subject) -> list[tuple[str, str]]:
        if subject is self._proxy:
            wish = Wish(tokens=1, apart_us=1)
            return [(CHAT, self._body(subject, wish.words))] * self.TURNS
        paths = await self._platform(subject).conversations(self.TURNS, model=EXTRACTIVE)
        return [(path, self._body(subject, "Who are you?")) for path in paths]

    async def _arrivals(self, subject: Subject, asked: Sequence[tuple[str, str]]) -> None:
        """Questions as people come, to the built-in model; to the proxy, an answer without any delay."""
        instants = by_chance(self.TURNS_PER_S, self.TURNS, seed=len(self._figures[subject.name].found[P50]))
        plan = self._plan(subject, now_us() + LEAD_US, instants, asked, apart_us=None)
        tally = await Generator(plan, self._folder).run()
        self._note_lost(subject, tally)
        first_ms = tally.first_ms()
        self._note(subject, {P50: percentile(first_ms, 0.5), P99: percentile(first_ms, 0.99)})

    def _plan(
        self,
        subject: Subject,
        begin_us: int,
        instants: Sequence[int],
        asked: Sequence[tuple[str, str]],
        *,
        apart_us: int | None,
    ) -> Plan:
        return Plan(
            port=subject.endpoint.port,
            key=subject.endpoint.key,
            words=Words.CHAT if subject is self._proxy else Words.TURN,
            begin_us=begin_us,
            answer_s_max=ANSWER_S_MAX,
            apart_us=apart_us,
            questions=[Question(at_us, path, body) for at_us, (path, body) in zip(instants, asked, strict=True)],
        )

    def _body(self, subject: Subject, text: str) -> str:
        if subject is self._proxy:
            return chat_body(subject.endpoint.model, text)
        return orjson.dumps({"new": {"text": text}}).decode()

    def _platform(self, subject: Subject) -> Platform:
        return next(one for one in self._platforms if one.subject is subject)

    def _note(self, subject: Subject, values: Mapping[Row, float]) -> None:
        for row, value in values.items():
            self._figures[subject.name].found[row].append(value)
        shown = ", ".join(f"{row.name.strip()} {value:.1f} {row.unit}" for row, value in values.items())
        _log.info("  %s: %s", subject.name, shown)

    def _note_lost(self, subject: Subject, tally: Tally) -> None:
        """Losses are summed over the loads of a round: a figure beside them is one of the answers that were given."""
        lost = tally.lost()
        for why, count in lost.items():
            _log.warning("  %s lost %d: %s", subject.name, count, why)
        self._lost[subject.name] += lost.total()


def _turned(subjects: list[Subject], number: int) -> list[Subject]:
    turn = number % len(subjects)
    return [*subjects[turn:], *subjects[:turn]]


def rows(figures: Mapping[str, Figures]) -> Iterator[str]:
    """The table; the first subject is what the others are held against."""
    base, *others = figures
    yield f"\n{'':<44}{base:>12}" + "".join(f"{name:>14}{'to ' + base:>10}" for name in others) + f"{'goal':>12}"
    for row in ROWS:
        own = figures[base].of(row)
        line = f"{row.name:<44}{own:>9.1f} {row.unit:<2}"
        for name in others:
            value = figures[name].of(row)
            against = f"{value - own:+.1f}" if row.goal.startswith("+") or not own else f"{value / own:.2f}"
            line += f"{value:>11.1f} {row.unit:<2}{against:>10}"
        yield f"{line}{row.goal:>12}"
