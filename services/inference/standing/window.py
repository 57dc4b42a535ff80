"""The last half minute of calls, in slices, and the averages that people look at."""

from dataclasses import dataclass, field
from typing import Final

WINDOW_S: Final = 30.0
SLICES: Final = 10
_SLICE_S: Final = WINDOW_S / SLICES

_WEIGHT: Final = 0.2
"""Of the newest value in a moving average: the last ten calls make up nine tenths of it."""


@dataclass(slots=True)
class _Slice:
    number: int
    calls: int = 0
    failures: int = 0
    slow: int = 0


class Window:
    """Calls of the last half minute."""

    def __init__(self) -> None:
        self._slices: list[_Slice] = []

    def add(self, now: float, *, is_failure: bool, is_slow: bool) -> None:
        """A call has ended."""
        number = int(now / _SLICE_S)
        if not self._slices or self._slices[-1].number != number:
            self._slices.append(_Slice(number))
            self._drop(number)
        newest = self._slices[-1]
        newest.calls += 1
        newest.failures += is_failure
        newest.slow += is_slow

    def counts(self, now: float) -> tuple[int, int, int]:
        """Calls, failures and slow calls."""
        self._drop(int(now / _SLICE_S))
        return (
            sum(one.calls for one in self._slices),
            sum(one.failures for one in self._slices),
            sum(one.slow for one in self._slices),
        )

    def clear(self) -> None:
        """Forgets all calls."""
        self._slices = []

    def _drop(self, number: int) -> None:
        self._slices = [one for one in self._slices if one.number > number - SLICES]


@dataclass(slots=True)
class Averages:
    """What people look at.

    Attributes:
        latency_s, first_text_s: moving averages; None before the first value.
        calls: since the start of the process.
        failures: by kind, since the start.
        in_flight: attempts under way.
        last_failure: kind of the newest one, empty before the first.
    """

    latency_s: float | None = None
    first_text_s: float | None = None
    calls: int = 0
    in_flight: int = 0
    last_failure: str = ""
    failures: dict[str, int] = field(default_factory=dict)

    def took(self, seconds: float) -> None:
        """An answer came to its end after so long."""
        self.latency_s = _moved(self.latency_s, seconds)

    def began(self, seconds: float) -> None:
        """The first text came after so long."""
        self.first_text_s = _moved(self.first_text_s, seconds)

    def failed(self, kind: str) -> None:
        """An attempt failed."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        self.last_failure = kind


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + _WEIGHT * (value - average)
