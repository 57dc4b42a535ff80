"""What conversation asks of a journal.

Per turn it holds a contiguous run of events that ends with the latest one; it may begin late, or be lost as a whole,
because PostgreSQL holds the folded answer. Numbers of events are the turn's own sequences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.conversation.events import TurnEvent


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one turn to append, contiguous, under a fence."""

    turn_id: str
    fence: int
    events: tuple[TurnEvent, ...]


class Codec(Protocol):
    """Events as bytes; the contract's own encoding, so that old and new processes read each other."""

    def encode(self, event: TurnEvent) -> bytes:
        """The bytes of an event."""
        ...

    def decode(self, data: bytes) -> TurnEvent:
        """The event of bytes that `encode` made."""
        ...


class Journal(Protocol):
    """Events of running turns; every method raises Unavailable when the journal cannot be reached."""

    async def epoch(self) -> str:
        """Changes whenever acknowledged events may have been lost: restart, failover, wipe. Never empty."""
        ...

    async def append(self, batches: Sequence[Batch]) -> list[bool]:
        """Appends batches of different turns in one round trip. Safe to repeat: what is there already is skipped.

        A batch that does not follow the turn's last event begins the turn's journal anew.

        Returns:
            For each batch, whether its fence is still the highest; a batch with a lower one is refused.
        """
        ...

    async def seize(self, turn_id: str, fence: int) -> None:
        """From now on refuses every lower fence, so that what is read next is the last word of earlier workers."""
        ...

    async def read(self, turn_id: str, *, after: int, limit: int) -> list[TurnEvent]:
        """At most `limit` events with a sequence above `after`; the first may leave a gap."""
        ...

    async def last_sequence(self, turn_id: str) -> int:
        """Sequence of the latest event; 0 when there is none."""
        ...

    async def expire(self, turn_id: str, *, keep_s: int) -> None:
        """Lets the turn's events go after `keep_s` seconds."""
        ...

    async def forget(self, turn_ids: Sequence[str]) -> None:
        """Removes the events of turns at once."""
        ...


class Tail(Protocol):
    """A reader that waits for events of many turns at once; one per process."""

    async def wait(self, positions: Mapping[str, int], *, wait_s: float) -> dict[str, list[TurnEvent]]:
        """Events above each turn's position; returns with the first ones, after `wait_s`, or when interrupted.

        Raises:
            Unavailable: the journal cannot be reached.
        """
        ...

    async def interrupt(self) -> None:
        """Makes a running `wait` return soon, so that it can be called with other positions."""
        ...
