"""Requests and tokens per minute: token buckets in Valkey that all replicas share, or each its own without it.

A bucket holds what a minute allows and fills evenly. It is kept as the instant at which it will be full again (GCRA),
so it costs one number and no timer. What a call turns out to have consumed beyond its estimate is taken afterwards:
the bucket then is in debt, and refuses until that is filled.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import MeshError, RateLimited
from services.mesh.valkey import Client, Script

MINUTE_US: Final = 60_000_000
NOTHING_US: Final = 3_600_000_000
"""When to come back to a limit that allows nothing: time does not lift it, people do."""
TIMEOUT_S: Final = 0.25
"""Valkey answers in under a millisecond; one that needs this long is away."""
PAUSE_S: Final = 1.0
BUCKETS_MAX: Final = 50_000
"""Local buckets, ~10 MB; the one used longest ago is forgotten, which can only be generous."""

_log = telemetry.logger("inference.rates")


class Measure(StrEnum):
    """What is counted."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a call takes from a bucket; a correction may be negative."""

    organization_id: str
    subject_id: str
    measure: Measure
    per_minute: int
    amount: int

    @property
    def key(self) -> str:
        """Name of the bucket; buckets of an organization share a slot of a cluster, so one script may use them all."""
        return f"parley:inference:{{{self.organization_id}}}:{self.measure}:{self.subject_id}"

    @property
    def interval_us(self) -> float:
        """Microseconds in which the bucket gains one."""
        return MINUTE_US / self.per_minute

    def refusal(self, wait_us: float) -> RateLimited:
        """The error of a bucket that holds too little."""
        limit = f"{self.measure}_per_minute"
        return RateLimited(
            f"{self.subject_id!r} may use {self.per_minute} {self.measure} per minute; "
            + (f"come back in {math.ceil(wait_us / 1_000_000)} s" if self.per_minute else "that is none"),
            metadata={"subject_id": self.subject_id, "limit": limit, limit: str(self.per_minute)},
            retry_after_s=wait_us / 1_000_000,
        )


class Rates(Protocol):
    """Buckets of a minute."""

    async def take(self, charges: Sequence[Charge]) -> None:
        """Takes all charges or none; they are of one organization.

        Raises:
            RateLimited: a bucket holds too little. More than a whole minute's is taken from a full bucket.
        """
        ...

    async def correct(self, charges: Sequence[Charge]) -> None:
        """Takes more, or gives back, whatever the buckets hold; best effort."""
        ...


class LocalRates:
    """Implements `Rates` within one process."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._full_at_us: OrderedDict[str, float] = OrderedDict()

    async def take(self, charges: Sequence[Charge]) -> None:
        """See `Rates.take`."""
        _refuse_nothing_allowed(charges)
        now = self._now_us()
        after = {one.key: self._after(one, now) for one in charges}
        waits = [(after[one.key] - MINUTE_US - now, one) for one in charges]
        wait_us, tightest = max(waits, key=lambda pair: pair[0])
        if wait_us > 1:  # a microsecond of rounding is no wait
            raise tightest.refusal(wait_us)
        for key, full_at in after.items():
            self._keep(key, full_at)

    async def correct(self, charges: Sequence[Charge]) -> None:
        """See `Rates.correct`."""
        now = self._now_us()
        for one in filter(_is_kept, charges):
            full_at = max(self._full_at_us.get(one.key, now), now) + one.amount * one.interval_us
            self._keep(one.key, full_at)

    def _after(self, charge: Charge, now: float) -> float:
        taken = min(charge.amount, charge.per_minute) * charge.interval_us
        return max(self._full_at_us.get(charge.key, now), now) + taken

    def _keep(self, key: str, full_at: float) -> None:
        self._full_at_us[key] = full_at
        self._full_at_us.move_to_end(key)
        if len(self._full_at_us) > BUCKETS_MAX:
            self._full_at_us.popitem(last=False)

    def _now_us(self) -> float:
        return self._clock.monotonic() * 1_000_000


# All buckets or none. Valkey's own clock, so that replicas cannot disagree; 2^53 microseconds last until the year 2255.
_TAKE: Final = Script("""
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local full, worst, wait = {}, 0, 1
for i = 1, #KEYS do
  full[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or now), now) + tonumber(ARGV[i])
  if full[i] - 60000000 - now > wait then
    worst, wait = i, full[i] - 60000000 - now
  end
end
if worst > 0 then
  return {worst, math.ceil(wait)}
end
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000) + 1)
end
return {0, 0}
""")
_CORRECT: Final = Script("""
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
for i = 1, #KEYS do
  local full = math.max(tonumber(redis.call('GET', KEYS[i]) or now), now) + tonumber(ARGV[i])
  if full > now then
    redis.call('SET', KEYS[i], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
  else
    redis.call('DEL', KEYS[i])
  end
end
return 0
""")


class SharedRates:
    """Implements `Rates` in Valkey; while that is away, each replica allows the whole rate by itself."""

    def __init__(self, client: Client, clock: Clock = SYSTEM_CLOCK) -> None:
        self._client = client
        self._clock = clock
        self._alone = LocalRates(clock)
        self._resume_at = -math.inf

    async def take(self, charges: Sequence[Charge]) -> None:
        """See `Rates.take`."""
        _refuse_nothing_allowed(charges)
        answer = await self._ask(_TAKE, charges, [min(one.amount, one.per_minute) for one in charges])
        if answer is None:
            await self._alone.take(charges)
            return
        number, wait_us = answer
        if number:
            raise charges[number - 1].refusal(wait_us)

    async def correct(self, charges: Sequence[Charge]) -> None:
        """See `Rates.correct`."""
        for organization_id in dict.fromkeys(one.organization_id for one in charges):
            own = _summed(one for one in charges if one.organization_id == organization_id and _is_kept(one))
            await self._ask(_CORRECT, own, [one.amount for one in own])

    async def _ask(self, script: Script, charges: Sequence[Charge], amounts: Sequence[int]) -> list[int] | None:
        """The script's answer; None when Valkey is away."""
        if self._clock.monotonic() < self._resume_at or not charges:
            return None
        args = [f"{amount * one.interval_us:.3f}" for one, amount in zip(charges, amounts, strict=True)]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await script.run(self._client, keys=[one.key for one in charges], args=args)
        except (MeshError, TimeoutError) as error:
            _log.warning("valkey_is_away", error=type(error).__name__, pause_s=PAUSE_S)
            self._resume_at = self._clock.monotonic() + PAUSE_S
            return None
        return answer if isinstance(answer, list) else []


def _summed(charges: Iterable[Charge]) -> list[Charge]:
    """One charge per bucket: calls of one user that end together move the same few buckets."""
    sums: dict[tuple[str, int], Charge] = {}
    for one in charges:
        bucket = one.key, one.per_minute
        known = sums.get(bucket)
        sums[bucket] = one if known is None else replace(known, amount=known.amount + one.amount)
    return list(sums.values())


def _is_kept(charge: Charge) -> bool:
    """A limit of nothing has no bucket."""
    return charge.per_minute > 0


def _refuse_nothing_allowed(charges: Sequence[Charge]) -> None:
    for one in charges:
        if one.per_minute == 0:
            raise one.refusal(NOTHING_US)
