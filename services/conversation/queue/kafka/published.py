"""What this process wrote to the log not long ago, so that a turn that still waits there is not written again.

The reaper publishes whatever waits, again and again; in a log each time is one more message, and the depth, by which
workers are scaled, would count them all. Another process may still write a turn a second time: readers merge these.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

from services.conversation.queue.kafka.cluster import Span
from services.conversation.store.work import TurnRef

TRUSTED_S: Final = 60.0
"""After this a turn is written again, whatever we remember: a memory may be wrong, a second message never harms."""
REMEMBERED_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class _Place:
    partition: int
    offset: int
    written: float


class Published:
    """See the module; `clock` gives seconds that only grow."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._places: OrderedDict[str, _Place] = OrderedDict()

    def remember(self, ref: TurnRef, partition: int, offset: int) -> None:
        """The turn's message stands there."""
        self._places.pop(ref.turn_id, None)
        self._places[ref.turn_id] = _Place(partition, offset, self._clock())
        if len(self._places) > REMEMBERED_MAX:
            self._places.popitem(last=False)

    def forget(self, ref: TurnRef) -> None:
        """The turn's message was dealt with."""
        self._places.pop(ref.turn_id, None)

    def knows_any(self, refs: Iterable[TurnRef]) -> bool:
        """Whether one of the turns may still wait."""
        return any(self._place(ref) is not None for ref in refs)

    def missing(self, refs: Iterable[TurnRef], spans: Mapping[int, Span]) -> list[TurnRef]:
        """The turns whose message does not stand in what is left to do."""
        return [ref for ref in refs if not self._waits(ref, spans)]

    def _waits(self, ref: TurnRef, spans: Mapping[int, Span]) -> bool:
        place = self._place(ref)
        span = None if place is None else spans.get(place.partition)
        return place is not None and span is not None and span.start <= place.offset < span.end

    def _place(self, ref: TurnRef) -> _Place | None:
        place = self._places.get(ref.turn_id)
        return place if place is not None and self._clock() - place.written < TRUSTED_S else None
