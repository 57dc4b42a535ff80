"""Rounds of equal work for every subject, in turn, and what each piece of it cost in CPU time."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import monotonic
from typing import Final

from tests.load.client import Load, Surface, Work
from tests.load.cpu import cpu_s
from tests.load.subjects import Subject

WHOLE: Final = Work(name="JSON of 16 tokens", tokens=16, is_stream=False)
SHORT: Final = Work(name="stream of 4 tokens", tokens=4, is_stream=True)
LONG: Final = Work(name="stream of 64 tokens", tokens=64, is_stream=True)
MESSAGES: Final = Work(name="Anthropic stream of 4 tokens", tokens=4, is_stream=True, surface=Surface.MESSAGES)
HIT: Final = Work(name="stored JSON of 16 tokens", tokens=16, is_stream=False, is_repeated=True)
REQUESTS: Final[Mapping[int, Mapping[Work, int]]] = {
    1: {WHOLE: 10, SHORT: 30, LONG: 6, MESSAGES: 20, HIT: 20},
    16: {WHOLE: 128, SHORT: 256, LONG: 64, MESSAGES: 128, HIT: 128},
}
"""How often each is asked in a round, by connections: enough for the 10 ms in which the kernel tells CPU time."""
IDLE_S: Final = 4.0
_WARM_UP: Final = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds by role, and the time that they took."""

    cpu_s: Mapping[str, float]
    wall_s: float


@dataclass(slots=True)
class Figures:
    """All that was measured of one subject.

    Attributes:
        spent: CPU seconds per request by role, one per round, without what the processes do when nobody asks.
        idle: CPU seconds per second by role when nobody asks, one per round.
    """

    spent: dict[tuple[int, Work], list[Mapping[str, float]]] = field(default_factory=lambda: defaultdict(list))
    idle: list[Mapping[str, float]] = field(default_factory=list)

    def knows(self, connections: int, work: Work) -> bool:
        """Whether it was asked for this."""
        return bool(self.spent.get((connections, work)))

    def request_ms(self, connections: int, work: Work) -> float:
        """CPU of one request over all processes."""
        return _ms(self.spent[connections, work], 1.0)

    def request_ms_by_role(self, connections: int, work: Work) -> Mapping[str, float]:
        """CPU of one request in each process."""
        rounds = self.spent[connections, work]
        return {role: 1_000 * median(each[role] for each in rounds) for role in rounds[0]}

    def token_ms(self, connections: int) -> float:
        """CPU of each further token of a stream: of a long one more than of a short one."""
        pairs = zip(self.spent[connections, LONG], self.spent[connections, SHORT], strict=True)
        more = [{role: long[role] - short[role] for role in long} for long, short in pairs]
        return _ms(more, LONG.tokens - SHORT.tokens)

    def opening_ms(self, connections: int) -> float:
        """CPU of a streamed request without its tokens."""
        return self.request_ms(connections, SHORT) - SHORT.tokens * self.token_ms(connections)

    def idle_ms_per_s(self) -> float:
        """CPU per second when nobody asks."""
        return _ms(self.idle, 1.0)


async def measured(subjects: Sequence[Subject], *, rounds: int) -> dict[str, Figures]:
    """Figures by name of the subject; each round begins with another one, so that none has the quieter moments."""
    figures = {subject.name: Figures() for subject in subjects}
    loads = {
        (subject.name, connections): Load(subject.endpoint, connections)
        for subject in subjects
        for connections in REQUESTS
    }
    for load in loads.values():
        for work in REQUESTS[load.connections]:
            if load.endpoint.answers(work):
                await load.run(work, _WARM_UP * load.connections)
    for number in range(rounds):
        begun = monotonic()
        for name, cost in (await _idle(subjects)).items():
            figures[name].idle.append({role: spent / cost.wall_s for role, spent in cost.cpu_s.items()})
        turn = number % len(subjects)
        for connections, work, requests in _plan():
            for subject in (*subjects[turn:], *subjects[:turn]):
                if not subject.endpoint.answers(work):
                    continue
                before = _read(subject)
                await loads[subject.name, connections].run(work, requests)
                cost = _difference(before, _read(subject))
                idle = figures[subject.name].idle[-1]
                spent = {role: (cost.cpu_s[role] - idle[role] * cost.wall_s) / requests for role in idle}
                figures[subject.name].spent[connections, work].append(spent)
        _log.info("round %d of %d took %.0f s", number + 1, rounds, monotonic() - begun)
    return figures


def _plan() -> Iterator[tuple[int, Work, int]]:
    for connections, works in REQUESTS.items():
        for work, requests in works.items():
            yield connections, work, requests


async def _idle(subjects: Sequence[Subject]) -> dict[str, Cost]:
    before = {subject.name: _read(subject) for subject in subjects}
    await asyncio.sleep(IDLE_S)
    return {subject.name: _difference(before[subject.name], _read(subject)) for subject in subjects}


def _read(subject: Subject) -> Cost:
    return Cost({role: cpu_s(pid) for role, pid in subject.pids.items()}, monotonic())


def _difference(before: Cost, after: Cost) -> Cost:
    return Cost({role: after.cpu_s[role] - before.cpu_s[role] for role in before.cpu_s}, after.wall_s - before.wall_s)


def _ms(rounds: Sequence[Mapping[str, float]], units: float) -> float:
    """The median over the rounds of all roles together, per unit."""
    return 1_000 * median(sum(each.values()) for each in rounds) / units
