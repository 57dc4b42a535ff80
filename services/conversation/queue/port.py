"""What conversation asks of a queue.

A message says "this turn waits"; the turn itself is in PostgreSQL. So a message may come twice or never: a second one
finds nothing to claim, and the reaper publishes what was lost. Messages of one conversation come in their order the
first time; one that comes again may come late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from zlib import crc32

from services.conversation.store.work import TurnRef

PARTITIONS: Final = 64
"""Fixed for the life of a deployment: another number would move conversations between partitions."""
DELIVERIES_MAX: Final = 6
"""Deliveries of a message that nobody acknowledges, before it becomes a dead letter."""
BACKOFF_MAX: Final = 2.0
"""How much longer than the first the pauses of a message become. No more: those who died with it in hand say nothing
of it, and the turn waits meanwhile; attempts are what a turn that kills its workers runs out of."""
JITTER: Final = 0.25
"""Share by which a pause may be longer, so that what failed together does not come back together."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that a worker received and has to acknowledge.

    Attributes:
        token: what the adapter needs to acknowledge it.
    """

    ref: TurnRef
    partition: int
    token: str


@dataclass(frozen=True, slots=True)
class Load:
    """How much there is to do.

    Attributes:
        depth: messages that wait or were received and not acknowledged: what workers are scaled on.
        oldest_age_s: seconds since the oldest of them was published; 0 when there is none, NaN when it is not known.
        dead: dead letters.
    """

    depth: int
    oldest_age_s: float
    dead: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up.

    Attributes:
        ref: the turn; None when the message could not be read.
        body: the message as it was.
        reason: `unacknowledged` or `unreadable`.
    """

    ref: TurnRef | None
    body: str
    reason: str


class Queue(Protocol):
    """A queue of turns; every method raises Unavailable when the broker is away."""

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        """Adds turns; one that waits or is in a worker's hand is not delivered a second time. Safe to repeat."""
        ...

    async def receive(self, *, count_max: int, wait_s: float) -> list[Delivery]:
        """Takes at most `count_max` messages, waiting up to `wait_s` for the first one."""
        ...

    async def redeliver(self, *, count_max: int, idle_s: float) -> list[Delivery]:
        """Takes over messages that were received at least `idle_s` ago and never acknowledged.

        The next one waits longer, see `backoff_s`; after DELIVERIES_MAX of them a message becomes a dead letter.
        """
        ...

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Removes messages, once what they ask for is committed elsewhere. Safe to repeat."""
        ...

    async def leave(self) -> None:
        """Receives no more: what waits is for other workers now. What is in hand may still be acknowledged."""
        ...

    async def depth(self) -> int:
        """See `Load.depth`; acknowledgements may take a moment to show."""
        ...

    async def load(self) -> Load:
        """What gauges show."""
        ...

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """The oldest ones. They are for people to look at: the reaper takes care of their turns."""
        ...

    async def redrive(self, *, limit: int) -> int:
        """Publishes the turns of the oldest dead letters again and forgets the letters; returns how many turns."""
        ...


def partition_of(conversation_id: str) -> int:
    """The partition of a conversation; CRC-32 because every process and language agrees on it."""
    return crc32(conversation_id.encode()) % PARTITIONS


def backoff_s(idle_s: float, deliveries: int, chance: float) -> float:
    """Pause after the n-th delivery (n >= 1) of a message that nobody acknowledged; `chance` is uniform in [0, 1)."""
    pause_s: float = idle_s * min(2.0 ** (deliveries - 1), BACKOFF_MAX)
    return pause_s * (1.0 + JITTER * chance)
