"""What a key may still ask: our own limits per minute, and what the vendor last said of its own."""

from dataclasses import dataclass
from typing import Final

from services.inference.providers.allowances import Allowance

_MINUTE_S: Final = 60.0


@dataclass(slots=True)
class _Bucket:
    """A minute's worth at once, then as much per minute; kept as the instant at which it is full again (GCRA)."""

    per_minute: int
    full_at: float = 0.0

    def wait_s(self, amount: int, now: float) -> float:
        """Seconds until `amount` may be taken; what is more than a minute's worth waits for a full bucket."""
        amount = min(amount, self.per_minute)
        return max(self.full_at, now) + amount * _MINUTE_S / self.per_minute - _MINUTE_S - now

    def take(self, amount: int, now: float) -> None:
        """Takes, be it more than there is: what was consumed was consumed."""
        self.full_at = max(self.full_at, now) + amount * _MINUTE_S / self.per_minute


@dataclass(slots=True)
class _Told:
    """What the vendor said is left, less what was asked since."""

    left: int
    reset_at: float

    def wait_s(self, amount: int, now: float) -> float:
        """Seconds until `amount` may be asked."""
        return self.reset_at - now if self.left < amount else 0.0


class Meter:
    """Limits of one key."""

    def __init__(self) -> None:
        self._own: dict[str, _Bucket] = {}
        self._told: dict[str, _Told] = {}

    def limit(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        """Our own limits, as the present configuration says them."""
        for name, per_minute in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if per_minute is None:
                self._own.pop(name, None)
            elif name not in self._own or self._own[name].per_minute != per_minute:
                self._own[name] = _Bucket(per_minute)

    def wait_s(self, tokens: int, now: float) -> float:
        """Seconds until a call of `tokens` may be made; 0 for now."""
        wanted = {"requests": 1, "tokens": tokens}
        waits = [bucket.wait_s(wanted[name], now) for name, bucket in self._own.items()]
        waits += [told.wait_s(wanted[name], now) for name, told in self._told.items()]
        return max(0.0, *waits, 0.0)

    def take(self, tokens: int, now: float) -> None:
        """A call of about `tokens` is made."""
        for name, amount in (("requests", 1), ("tokens", tokens)):
            if name in self._own:
                self._own[name].take(amount, now)
            if name in self._told:
                self._told[name].left -= amount

    def note(self, allowance: Allowance, now: float) -> None:
        """The vendor has said what is left."""
        if allowance.requests_left is not None:
            self._told["requests"] = _Told(allowance.requests_left, now + allowance.requests_reset_s)
        if allowance.tokens_left is not None:
            self._told["tokens"] = _Told(allowance.tokens_left, now + allowance.tokens_reset_s)

    def left(self, name: str, now: float) -> int | None:
        """What the vendor said is left of `requests` or `tokens`; None when it is not known any more."""
        told = self._told.get(name)
        return None if told is None or told.reset_at <= now else max(0, told.left)
