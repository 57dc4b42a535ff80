"""Time as a parameter: whoever needs the time takes a Clock, so that tests move it by hand."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final, Protocol

_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """The present instant, always in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return monotonic()


@dataclass(slots=True)
class ManualClock:
    """A clock that stands still until `advance` moves it; for tests."""

    instant: datetime = _EPOCH
    elapsed_s: float = 0.0

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self.instant

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self.elapsed_s

    def advance(self, seconds: float) -> None:
        """Moves both readings forward together."""
        self.instant += timedelta(seconds=seconds)
        self.elapsed_s += seconds


SYSTEM_CLOCK: Final = SystemClock()
