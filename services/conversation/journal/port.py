"""What conversation asks of a journal.

Per turn it holds a contiguous run of events that ends with the latest one; it may begin late, or be lost as a whole,
because PostgreSQL holds the folded answer. Numbers of events are the turn's own sequences.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.conversation.events import TurnEvent


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one turn to append, contiguous, under a fence; `epoch` is the one in which its worker joined."""

    turn_id: str
    fence: int
    epoch: str
    events: tuple[TurnEvent, ...]


class Receipt(Enum):
    """What became of a batch."""

    TAKEN = 1
    OUTDATED = 0
    """A later worker has the turn."""
    DETACHED = -1
    """The journal is not the one that the batch was written for: it was lost since, or has forgotten the turn. Who
    still holds the turn seizes it in the present epoch; a write that comes late stays without effect."""


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

    async def append(self, batches: Sequence[Batch]) -> list[Receipt]:
        """Appends batches of different turns in one round trip. Safe to repeat: what is there already is skipped.

        A batch that does not follow the turn's last event begins the turn's journal anew. Only events from the first
        one on are taken of a turn that the journal does not know: it knows those that were appended to, or seized.

        Returns:
            For each batch, what became of it.
        """
        ...

    async def seize(self, turn_id: str, fence: int) -> None:
        """From now on refuses every lower fence, so that what is read next is the last word of earlier workers.

        It also makes the turn known, so that events from any one on can be appended.
        """
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

    async def wait(
        self, positions: Mapping[str, int], *, fresh: Collection[str] | None = None, wait_s: float
    ) -> dict[str, list[TurnEvent]]:
        """Events above each turn's position; returns with the first ones, after `wait_s`, or when interrupted.

        Args:
            positions: of all turns; for those that are not fresh, where the last call's events have led.
            fresh: turns that the last call did not name; any may be when it is None.
            wait_s: seconds to wait for an event.

        Raises:
            Unavailable: the journal cannot be reached.
        """
        ...

    async def interrupt(self) -> None:
        """Makes a running `wait` return soon, so that it can be called with other positions."""
        ...
