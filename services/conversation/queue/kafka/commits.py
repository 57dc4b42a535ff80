"""Which positions the broker is told next.

One commit is under way at a time. The broker answers a connection's requests one after the other, and whatever a member
asks of its group goes the same way: a worker that tells faster than the broker listens could soon not even join, and
the group would wait for it.
"""

from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import Final

from services.conversation.queue.ledger import Ledger

REFUSED_S: Final = 0.5
"""After a refusal; while the members of a group change, every commit is refused."""


class Commits:
    """See the module; `clock` gives seconds that only grow."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._under_way: frozenset[int] = frozenset()
        self._not_before = 0.0

    def start(self) -> None:
        """A new connection, which owes no answer."""
        self._under_way = frozenset()

    def due(self) -> dict[int, int]:
        """Positions to tell now, by partition; the next ones only after the answer to these."""
        if self._under_way or self._clock() < self._not_before:
            return {}
        moved = self._ledger.commits()
        self._under_way = frozenset(moved)
        return moved

    def answered(self, refused: Iterable[int]) -> None:
        """The broker took what is under way, but for these partitions."""
        again = set(refused)
        for number in again:
            self._ledger.uncommitted(number)
        if again:
            self._not_before = self._clock() + REFUSED_S
        self._under_way = frozenset()

    def refused(self) -> None:
        """The broker took nothing of what is under way."""
        self.answered(self._under_way)

    def last(self, leaving: Collection[int]) -> dict[int, int]:
        """All that the broker may not know of partitions that leave: what is under way may yet be refused."""
        for number in self._under_way.intersection(leaving):
            self._ledger.uncommitted(number)
        return self._ledger.commits(leaving)
