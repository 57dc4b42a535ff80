"""What waits in PostgreSQL, over all organizations; a part of `Store`."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What has not been done yet, of all organizations; ages are 0 where there is nothing.

    Attributes:
        outbox_oldest_s: age of the oldest turn in the outbox.
        overdue_s: how far the latest turn is past its deadline.
        queued: turns that no worker has.
        running: turns that a worker has.
    """

    outbox_oldest_s: float
    overdue_s: float
    queued: int
    running: int


class BacklogStore(Protocol):
    """Knows the backlog."""

    async def backlog(self) -> Backlog:
        """As of now."""
        ...
