"""Answers that hold for a while: whoever wants the same at the same time, or soon after, shares one question."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from services.mesh.clock import SYSTEM_CLOCK, Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Answers by what was wanted; a question that failed has none, and the next who wants it asks again.

    Args:
        life_s: how long an answer holds, from before it was asked for: it may be as old as that.
        answers_max: how many are kept; the one used longest ago goes first.
        clock: where the time comes from.
    """

    def __init__(self, *, life_s: float, answers_max: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._life_s = life_s
        self._answers_max = answers_max
        self._clock = clock
        self._answers: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._asking: dict[K, asyncio.Lock] = {}

    async def get(self, wanted: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The answer that is known, or that `ask` gives.

        Raises:
            Exception: whatever `ask` raises.
        """
        if self._is_known(wanted):
            return self._known(wanted)
        lock = self._asking.setdefault(wanted, asyncio.Lock())
        try:
            async with lock:
                if not self._is_known(wanted):
                    asked_at = self._clock.monotonic()
                    self._answers[wanted] = await ask(), asked_at
                return self._known(wanted)
        finally:
            if not lock.locked():
                self._asking.pop(wanted, None)

    def forget(self, wanted: K) -> None:
        """Ask again the next time."""
        self._answers.pop(wanted, None)

    def _is_known(self, wanted: K) -> bool:
        found = self._answers.get(wanted)
        return found is not None and self._clock.monotonic() - found[1] < self._life_s

    def _known(self, wanted: K) -> V:
        self._answers.move_to_end(wanted)
        if len(self._answers) > self._answers_max:
            self._answers.popitem(last=False)
        return self._answers[wanted][0]
