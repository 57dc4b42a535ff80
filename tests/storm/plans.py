"""What a call is to do, what its server does with it, and what it may see: the model that calls are held against."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from random import Random
from typing import Final

PATIENCE_S: Final = 120.0
"""For calls that are given no time of their own; one that needs all of it hangs."""
CANCELLED: Final = "CANCELLED"
LATE: Final = "DEADLINE_EXCEEDED"
LOST: Final = "UNAVAILABLE"
FAILED: Final = "ALREADY_EXISTS"
OK: Final = "OK"

_SIZES: Final = (1, 1, 1, 100, 100, 5_000, 5_000, 40_000)
_LARGE: Final = 700_000
"""Some forty parts."""


class Shape(StrEnum):
    """The method, by its name in the contract."""

    HELLO = "Hello"
    SHOUT = "Shout"
    SPLIT = "Split"
    JOIN = "Join"
    TALK = "Talk"


SAFE: Final = frozenset({Shape.HELLO, Shape.SPLIT})
"""What the contract allows to be repeated, until the first message has come."""
STREAMED: Final = frozenset({Shape.SPLIT, Shape.TALK})
"""Those that are answered by many messages."""


class End(StrEnum):
    """What the handler does when it has said all."""

    RETURN = "return"
    FAIL = "fail"
    HANG = "hang"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One call.

    Attributes:
        name: no other call has it.
        shape: its method.
        count: messages of whoever streams.
        size: bytes of each, at least.
        end: see `End`.
        timeout_s: of the call.
        leaves_after: messages after which its caller leaves; None where it stays.
        dawdles: whether it reads slowly.
    """

    name: str
    shape: Shape
    count: int
    size: int
    end: End
    timeout_s: float
    leaves_after: int | None
    dawdles: bool

    @property
    def text(self) -> str:
        """As it travels in each request."""
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> "Plan":
        """See `text`."""
        plan: dict[str, object] = json.loads(text)
        return Plan(**{**plan, "shape": Shape(str(plan["shape"])), "end": End(str(plan["end"]))})  # type: ignore[arg-type] # what `text` wrote

    @property
    def messages(self) -> int:
        """Those of its answer, where it is left alone."""
        return self.count if self.shape in STREAMED else 1

    def said(self, index: int) -> str:
        """A message of the answer."""
        return f"{self.name}/{index}/".ljust(self.size, "x")


def drawn(random: Random, name: str) -> Plan:
    """Any plan."""
    shape = random.choice(tuple(Shape))
    size = _LARGE if random.random() < 0.01 else random.choice(_SIZES)
    end = random.choices(tuple(End), (16, 2, 1))[0]
    count = random.randint(1, 3) if size >= _LARGE else random.randint(1, 20)
    leaves_after = random.randint(0, count) if random.random() < 0.15 else None
    is_short = random.random() < 0.15 or (end is End.HANG and leaves_after is None)
    return Plan(
        name=name,
        shape=shape,
        count=count,
        size=size,
        end=end,
        timeout_s=random.uniform(0.005, 1.5) if is_short else PATIENCE_S,
        leaves_after=leaves_after,
        dawdles=random.random() < 0.05,
    )


@dataclass(slots=True)
class Served:
    """What the server knows of a call: how often it was begun, ended, and ended as it should; and what was wrong."""

    begun: int = 0
    ended: int = 0
    whole: int = 0
    wrong: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the caller saw.

    Attributes:
        messages: how many came, each of them right.
        wrong: of the first that was not.
        code: how the call ended.
        in_trouble: whether the network was broken while it ran.
    """

    messages: int
    wrong: str
    code: str
    in_trouble: bool


def judged(plan: Plan, seen: Seen, served: Served) -> list[str]:
    """What the call saw and should not have; empty for none."""
    found = [text for text in (seen.wrong, served.wrong) if text]
    # Who leaves may do so when the end has come already, and been read by nobody.
    ended_early = plan.leaves_after is not None and seen.messages == plan.leaves_after
    allowed = {
        OK: plan.end is End.RETURN and served.whole > 0 and (ended_early or seen.messages == plan.messages),
        FAILED: plan.end is End.FAIL and served.whole > 0 and (ended_early or seen.messages == _before_failure(plan)),
        LATE: plan.timeout_s < PATIENCE_S,
        CANCELLED: plan.leaves_after is not None,
        LOST: seen.in_trouble,
    }
    if not allowed.get(seen.code, False):
        found.append(f"ended {seen.code} after {seen.messages} messages")
    if served.begun > 1 and not (plan.shape in SAFE and seen.in_trouble):
        found.append(f"begun {served.begun} times")
    if served.begun != served.ended:
        found.append(f"begun {served.begun} times, ended {served.ended} times")
    return found


def _before_failure(plan: Plan) -> int:
    return plan.count if plan.shape in STREAMED else 0
