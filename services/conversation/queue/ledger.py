"""What a consumer of a partitioned log holds: which messages wait, which are in hand, how far each partition is done.

A log is acknowledged by position, turns end in any order: a partition is done up to its first open message. It knows
no broker.
"""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import count
from time import monotonic

from services.conversation.queue.port import Delivery, backoff_s
from services.conversation.store.work import TurnRef


@dataclass(slots=True)
class Held:
    """A turn that waits here or is in hand, with every message that names it.

    Attributes:
        deliveries: how often it was handed out.
        since: when it was handed out last.
        chance: of its next pause.
    """

    delivery: Delivery
    offsets: list[int]
    deliveries: int = 0
    since: float = 0.0
    chance: float = 0.0


@dataclass(slots=True)
class _Partition:
    """`open` is in the order of the log, so its first key is where the partition is not done."""

    end: int = -1
    open: dict[int, None] = field(default_factory=dict)
    committed: int = -1

    @property
    def position(self) -> int:
        return next(iter(self.open), self.end)


class Ledger:
    """See the module.

    Args:
        clock: seconds that only grow.
        chance: uniform in [0, 1).
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._tokens = count(1)
        self._partitions: dict[int, _Partition] = {}
        self._by_token: dict[str, Held] = {}
        self._by_turn: dict[str, Held] = {}
        self._waiting: deque[Held] = deque()

    @property
    def waiting(self) -> int:
        """Turns that arrived and were not handed out."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Turns that are not acknowledged, waiting ones included."""
        return len(self._by_token)

    def add(self, partition: int, offset: int, ref: TurnRef) -> None:
        """Takes in a message; one that names a turn which is held already changes nothing but the position."""
        log = self._log(partition, offset)
        log.open[offset] = None
        log.end = offset + 1
        held = self._by_turn.get(ref.turn_id)
        if held is not None:
            held.offsets.append(offset)
            return
        held = Held(Delivery(ref, partition, str(next(self._tokens))), [offset])
        self._by_token[held.delivery.token] = held
        self._by_turn[ref.turn_id] = held
        self._waiting.append(held)

    def skip(self, partition: int, offset: int) -> None:
        """Passes a message that nobody shall get."""
        self._log(partition, offset).end = offset + 1

    def take(self, count_max: int) -> list[Delivery]:
        """Hands out what waits, in its order."""
        taken = [self._waiting.popleft() for _ in range(min(count_max, len(self._waiting)))]
        for held in taken:
            self._hand_out(held)
        return [held.delivery for held in taken]

    def due(self, *, count_max: int, idle_s: float) -> list[Held]:
        """What was handed out and not acknowledged for as long as its deliveries ask."""
        now = self._clock()
        return [
            held
            for held in self._by_token.values()
            if held.deliveries and now - held.since >= backoff_s(idle_s, held.deliveries, held.chance)
        ][:count_max]

    def hand_out_again(self, held: Held) -> Delivery:
        """Counts one more delivery."""
        self._hand_out(held)
        return held.delivery

    def acknowledge(self, token: str) -> None:
        """Closes a turn; unknown tokens, such as those of partitions that moved away, change nothing."""
        held = self._by_token.pop(token, None)
        if held is None:
            return
        del self._by_turn[held.delivery.ref.turn_id]
        log = self._partitions[held.delivery.partition]
        for offset in held.offsets:
            del log.open[offset]

    def commits(self, among: Collection[int] | None = None) -> dict[int, int]:
        """Positions that moved since the last call, by partition; with `among`, those of these partitions."""
        moved = {}
        for number, log in self._partitions.items():
            if (among is None or number in among) and log.position != log.committed:
                moved[number] = log.committed = log.position
        return moved

    def uncommitted(self, partition: int) -> None:
        """The last position of the partition did not reach the broker."""
        if partition in self._partitions:
            self._partitions[partition].committed = -1

    def forget(self, partitions: Iterable[int]) -> None:
        """Drops what belongs to partitions that are somebody else's now."""
        gone = set(partitions) & self._partitions.keys()
        for number in gone:
            del self._partitions[number]
        for held in [held for held in self._by_token.values() if held.delivery.partition in gone]:
            del self._by_token[held.delivery.token]
            del self._by_turn[held.delivery.ref.turn_id]
        self._waiting = deque(held for held in self._waiting if held.delivery.partition not in gone)

    def _log(self, partition: int, offset: int) -> _Partition:
        log = self._partitions.get(partition)
        if log is not None and offset < log.end:  # the topic was made anew
            self.forget([partition])
            log = None
        if log is None:
            log = self._partitions[partition] = _Partition(end=offset, committed=offset)
        return log

    def _hand_out(self, held: Held) -> None:
        held.deliveries += 1
        held.since = self._clock()
        held.chance = self._chance()
