"""Local limits: how much at once, and how much per second. Limits across replicas are a service's own business."""

from collections import OrderedDict
from typing import Final, Self

from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import Overloaded, RateLimited

KEYS_MAX: Final = 50_000
"""Buckets kept in memory, ~10 MB; the one used longest ago is forgotten, which can only be generous."""


class InFlightLimiter:
    """At most `limit` pieces of work at once; the next one is refused, not queued."""

    def __init__(self, limit: int, *, retry_after_s: float = 1.0) -> None:
        self._limit = limit
        self._retry_after_s = retry_after_s
        self.in_flight = 0

    def slot(self) -> Self:
        """Holds a place while the body of its `with` runs.

        Raises:
            Overloaded: none is free.
        """
        return self  # each place is like the other, so none needs an object of its own

    def __enter__(self) -> None:
        if self.in_flight >= self._limit:
            raise Overloaded("too many calls are in flight", retry_after_s=self._retry_after_s)
        self.in_flight += 1

    def __exit__(self, *_ended: object) -> None:
        self.in_flight -= 1


class TokenBucket:
    """A token bucket per key: `burst` at once, then `rate` per second.

    Kept as the instant at which the bucket will be full again (GCRA), so a key costs one float and no timer.
    """

    def __init__(self, *, rate: float, burst: int, clock: Clock = SYSTEM_CLOCK, keys_max: int = KEYS_MAX) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("rate must be above 0 and burst at least 1")
        self._interval_s = 1.0 / rate
        self._burst = burst
        self._clock = clock
        self._keys_max = keys_max
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, amount: int = 1) -> None:
        """Takes `amount` tokens.

        Raises:
            RateLimited: there are fewer; `retry_after_s` tells when there will be enough. Nothing is taken.
        """
        now = self._clock.monotonic()
        full_at = max(self._full_at.get(key, now), now) + amount * self._interval_s
        wait_s = full_at - self._burst * self._interval_s - now
        if wait_s > 1e-9:  # noqa: PLR2004 - rounding of floats, not a limit
            raise RateLimited("too many requests", retry_after_s=wait_s)
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._keys_max:
            self._full_at.popitem(last=False)
