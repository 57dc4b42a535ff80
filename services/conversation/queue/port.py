"""What conversation asks of a queue.

A message says "this turn waits"; the turn itself is in PostgreSQL. So a message may come twice or never: a second one
finds nothing to claim, and the reaper publishes what was lost. Messages of one conversation keep their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from zlib import crc32

from services.conversation.store import TurnRef

PARTITIONS: Final = 64
"""Fixed for the life of a deployment: another number would move conversations between partitions."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that a worker received and has to acknowledge.

    Attributes:
        token: what the adapter needs to acknowledge it.
    """

    ref: TurnRef
    partition: int
    token: str


class Queue(Protocol):
    """A queue of turns; every method raises Unavailable when the broker is away."""

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        """Adds turns; one that already waits to be received is not added twice. Safe to repeat."""
        ...

    async def receive(self, *, count_max: int, wait_s: float) -> list[Delivery]:
        """Takes at most `count_max` messages, waiting up to `wait_s` for the first one."""
        ...

    async def redeliver(self, *, count_max: int, idle_s: float) -> list[Delivery]:
        """Takes over messages that somebody received at least `idle_s` ago and never acknowledged."""
        ...

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Removes messages, once what they ask for is committed elsewhere. Safe to repeat."""
        ...

    async def depth(self) -> int:
        """Messages that wait or were received and not acknowledged: what workers are scaled on."""
        ...


def partition_of(conversation_id: str) -> int:
    """The partition of a conversation; CRC-32 because every process and language agrees on it."""
    return crc32(conversation_id.encode()) % PARTITIONS
