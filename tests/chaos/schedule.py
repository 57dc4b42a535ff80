"""What the nemesis will do: a pure function of the seed, so that a printed seed is a replay."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.chaos.links import APIS, LINKS, WORKERS
from tests.chaos.proxy import Trouble


class Blow(StrEnum):
    """Kinds of strikes."""

    KILL = "kill -9"
    DRAIN = "SIGTERM"
    PAUSE = "SIGSTOP"
    WIPE = "kill -9 and wipe"
    LINK = "link"
    PROVIDER = "provider"
    PAUSE_AND_KILL = "SIGSTOP, kill -9 others"
    """One process is frozen, and while it is, another one dies: writes are begun that nobody hears the end of."""


class Illness(StrEnum):
    """What the provider may suffer from; see `tests.support.provider_double.Fault` for what each one does."""

    RATE_LIMITED = "429"
    SERVER_ERROR = "500"
    OVERLOADED = "529"
    STALL = "stall"
    CUT = "cut"
    NO_END = "no end"
    GARBAGE = "garbage"
    ERROR_EVENT = "error event"
    RESET = "reset before headers"


@dataclass(frozen=True, slots=True)
class Strike:
    """One strike.

    Attributes:
        at_s: since the beginning of the faults.
        target: a process, a link `caller>called`, or the provider.
        lasts_s: until it is healed; 0 for what needs no healing.
        how: the trouble or illness; for PAUSE_AND_KILL the process that is killed.
    """

    at_s: float
    blow: Blow
    target: str
    lasts_s: float = 0.0
    how: str = ""

    def __str__(self) -> str:
        words = f"{self.blow} {self.target}" + (f": {self.how}" if self.how else "")
        return words + (f" for {self.lasts_s:.1f} s" if self.lasts_s else "")


KILLED: Final = ("postgres", "valkey", "auth", "inference", "retrieval", "retrieval-worker", *APIS, *WORKERS, "edge")
DRAINED: Final = (*APIS, *WORKERS, "inference", "edge")
GAP_S: Final = (1.0, 4.0)
"""Between strikes; what they do lasts longer than that, so several are felt at once."""
PAUSE_S: Final = (0.5, 3.0)


def schedule(seed: int, *, seconds: float, lease_s: float, queue: str = "valkey") -> tuple[Strike, ...]:
    """The strikes of a run.

    Every run begins with a worker that is cut off for longer than its lease while everybody else is well, so that what
    it writes late meets a turn that another one has. Then come, in a random order, the strikes that the product's
    promises turn on; others follow by chance.

    Args:
        seed: of everything.
        seconds: strikes begin before.
        lease_s: of a turn; a paused worker sleeps past it.
        queue: `kafka` adds a broker that can be struck.
    """
    chance = random.Random(seed)
    opening = _opening(chance, lease_s)
    deck = _essentials(chance, lease_s)
    if queue == "kafka":
        deck += [_now(Blow.KILL, queue), _now(Blow.WIPE, queue), Strike(0.0, Blow.PAUSE, queue, PAUSE_S[1])]
    chance.shuffle(deck)
    strikes = [opening]
    at_s = opening.at_s + opening.lasts_s + chance.uniform(*GAP_S)
    while at_s < seconds:
        drawn = deck.pop() if deck else _any(chance, lease_s)
        strikes.append(Strike(round(at_s, 2), drawn.blow, drawn.target, round(drawn.lasts_s, 2), drawn.how))
        at_s += chance.uniform(*GAP_S)
    return tuple(strikes)


def _opening(chance: random.Random, lease_s: float) -> Strike:
    lasts_s = round(_beyond(chance, lease_s), 2)
    at_s = round(chance.uniform(2.0, 4.0), 2)
    return Strike(at_s, Blow.LINK, f"{chance.choice(WORKERS)}>postgres", lasts_s, Trouble.BLACK_HOLE.value)


def _beyond(chance: random.Random, lease_s: float) -> float:
    """Just past the lease: the next worker is in the middle of a turn when the late writes of the last one arrive."""
    return lease_s * chance.uniform(1.15, 1.5)


def _essentials(chance: random.Random, lease_s: float) -> list[Strike]:
    return [
        _now(Blow.KILL, chance.choice(WORKERS)),
        _now(Blow.KILL, chance.choice(APIS)),
        _now(Blow.KILL, "postgres"),
        _now(Blow.KILL, "edge"),
        _now(Blow.WIPE, "valkey"),
        _now(Blow.DRAIN, chance.choice(WORKERS)),
        Strike(0.0, Blow.PAUSE, chance.choice(WORKERS), _beyond(chance, lease_s)),
        _pause_and_kill(chance),
        _link(chance, Trouble.LOST_REPLY, chance.choice(APIS), "postgres"),
        _provider(chance),
    ]


def _any(chance: random.Random, lease_s: float) -> Strike:
    blow = chance.choices(tuple(_WEIGHT), weights=tuple(_WEIGHT.values()))[0]
    match blow:
        case Blow.PAUSE:
            return _pause(chance, lease_s)
        case Blow.LINK:
            link = chance.choice(LINKS)
            trouble = chance.choice([each for each in Trouble if each is not Trouble.NONE])
            return _link(chance, trouble, link.caller, link.called)
        case Blow.PROVIDER:
            return _provider(chance)
        case Blow.PAUSE_AND_KILL:
            return _pause_and_kill(chance)
        case _:
            return _now(blow, chance.choice(_TARGETS[blow]))


_WEIGHT: Final = {
    Blow.KILL: 6,
    Blow.DRAIN: 2,
    Blow.PAUSE: 4,
    Blow.WIPE: 2,
    Blow.LINK: 6,
    Blow.PROVIDER: 3,
    Blow.PAUSE_AND_KILL: 2,
}
_TARGETS: Final = {Blow.KILL: KILLED, Blow.DRAIN: DRAINED, Blow.WIPE: ("valkey",)}


def _pause(chance: random.Random, lease_s: float) -> Strike:
    target = chance.choice(KILLED)
    is_beyond_lease = target in WORKERS and chance.random() < 0.5
    return Strike(0.0, Blow.PAUSE, target, chance.uniform(*PAUSE_S) + (lease_s if is_beyond_lease else 0.0))


def _now(blow: Blow, target: str) -> Strike:
    return Strike(0.0, blow, target)


def _link(chance: random.Random, trouble: Trouble, caller: str, called: str, *, lasts_s: float | None = None) -> Strike:
    lasts_s = chance.uniform(1.0, 4.0) if lasts_s is None else lasts_s
    return Strike(0.0, Blow.LINK, f"{caller}>{called}", lasts_s, trouble.value)


def _provider(chance: random.Random) -> Strike:
    return Strike(0.0, Blow.PROVIDER, "provider", chance.uniform(2.0, 5.0), chance.choice(tuple(Illness)).value)


def _pause_and_kill(chance: random.Random) -> Strike:
    frozen = chance.choice(("postgres", "valkey"))
    return Strike(0.0, Blow.PAUSE_AND_KILL, frozen, chance.uniform(1.5, 3.0), chance.choice(WORKERS))


def kills(strikes: Sequence[Strike]) -> int:
    """How many of them end a process by SIGKILL."""
    return sum(strike.blow in {Blow.KILL, Blow.WIPE, Blow.PAUSE_AND_KILL} for strike in strikes)
