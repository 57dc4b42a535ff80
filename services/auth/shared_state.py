"""What replicas of auth share through Valkey: facts for a second, and the count of password tries.

Nothing here is needed for an answer. Valkey that is away, or slow, costs one short wait; then it is left alone for
`PAUSE_S` and everybody works from the database and by themselves.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Final, TypeVar

from services.auth.principals import FRESH_S
from services.auth.throttle import CounterUnavailableError, Rates
from services.mesh import telemetry
from services.mesh.cache import InvalidatingCache
from services.mesh.clock import Clock
from services.mesh.errors import MeshError, Unavailable
from services.mesh.valkey import Client, Script

LAYER_LIFE_S: Final = FRESH_S / 2
"""Of a fact in Valkey, and then once more in memory."""
FACT_TIMEOUT_S: Final = 0.25
"""Valkey answers in under a millisecond; one that needs this long is of no use to a cache."""
COUNT_TIMEOUT_S: Final = 2.0
"""A count is worth a wait: in a burst of guesses it is our own queue that is slow, and counting locally instead would
give each replica's share of tries to whoever makes the burst."""
PAUSE_S: Final = 1.0
ENTRIES_MAX: Final = 50_000
"""Facts in memory, ~25 MB: credentials that were used within the last second, and their users."""

PLACE_LIFE_S: Final = 5.0
"""Of a place that waits for its fact; who needs longer to load one does not share it."""

_PREFIX: Final = "parley:auth:"
_FACTS: Final = f"{_PREFIX}fact:"

T = TypeVar("T")

_log = telemetry.logger("auth.shared_state")


class _Patience:
    """Asks Valkey, unless it did not answer a moment ago."""

    def __init__(self, clock: Clock, *, timeout_s: float) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._resume_at = -math.inf

    async def ask(self, question: Awaitable[T]) -> T:
        """The answer.

        Raises:
            MeshError: it did not come in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await question
        except (MeshError, TimeoutError) as error:
            if not self.is_pausing:
                _log.warning("valkey_is_away", error=type(error).__name__, pause_s=PAUSE_S)
            self._resume_at = self._clock.monotonic() + PAUSE_S
            if isinstance(error, MeshError):
                raise
            raise Unavailable from error

    @property
    def is_pausing(self) -> bool:
        """Whether it is left alone now."""
        return self._clock.monotonic() < self._resume_at


# A fact has a place with a mark, which is given to whoever shall load it. Forgetting takes the place away, so that what
# was read before cannot be put there after, however late a process wakes up that was paused in between.
_FIND: Final = Script("""
if redis.call('HSETNX', KEYS[1], 'mark', ARGV[1]) == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('HMGET', KEYS[1], 'mark', 'text')
""")
_KEEP: Final = Script("""
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'text', ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
""")


class SharedFacts:
    """Implements `principals.FactCache`. `listen` must run as a background loop."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._patience = _Patience(clock, timeout_s=FACT_TIMEOUT_S)
        self._local: InvalidatingCache[str] = InvalidatingCache(
            "auth_facts", client, entries_max=ENTRIES_MAX, life_s=LAYER_LIFE_S, clock=clock
        )

    async def get(self, name: str, load: Callable[[], Awaitable[str | None]]) -> str | None:
        """See `principals.FactCache.get`. What is absent is not remembered at all."""
        return await self._local.get_or_load(name, lambda: self._shared(name, load))

    async def forget(self, names: Sequence[str]) -> None:
        """See `principals.FactCache.forget`."""
        # First the shared text, then the message: whoever hears the message must not find the old text.
        try:
            await self._patience.ask(self._client.delete(*(_FACTS + name for name in names)))
        except MeshError:
            _log.warning("facts_expire_by_time", count=len(names))
        for name in names:
            await self._local.invalidate(name)

    async def listen(self) -> None:
        """Follows what other replicas forget."""
        await self._local.listen()

    async def _shared(self, name: str, load: Callable[[], Awaitable[str | None]]) -> str | None:
        if self._patience.is_pausing:
            return await load()
        keys, new_mark = [_FACTS + name], token_hex(8)
        try:
            find = _FIND.run(self._client, keys=keys, args=[new_mark, int(PLACE_LIFE_S * 1_000)])
            mark, known = await self._patience.ask(find)
        except MeshError:
            return await load()
        if known is not None:
            return bytes(known).decode()
        text = await load()
        if text is not None:
            with suppress(MeshError):  # then whoever asks next loads it as well
                keep = _KEEP.run(self._client, keys=keys, args=[mark, text, int(LAYER_LIFE_S * 1_000)])
                await self._patience.ask(keep)
        return text


# GCRA over two buckets: counted in both or in neither. Valkey's own clock, so that replicas cannot disagree; times in
# microseconds, because its numbers are doubles in Lua and 2^53 of them last until the year 2255.
_TAKE: Final = Script("""
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local wait = 0
local full = {}
for i = 1, 2 do
  local burst, interval = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  full[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or now), now) + interval
  wait = math.max(wait, full[i] - burst * interval - now)
end
if wait > 0 then
  return wait
end
for i = 1, 2 do
  redis.call('SET', KEYS[i], string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000) + 1)
end
return 0
""")
_GIVE_BACK: Final = Script("""
local full = tonumber(redis.call('GET', KEYS[1]))
if full then
  redis.call('SET', KEYS[1], string.format('%.0f', full - tonumber(ARGV[1])), 'KEEPTTL')
end
return 0
""")


class ValkeyCounter:
    """Implements `throttle.SharedCounter`."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._patience = _Patience(clock, timeout_s=COUNT_TIMEOUT_S)
        # In a cluster the counts of all accounts share a slot with that of everyone: both are taken in one step.
        tries = f"{_PREFIX}tries"
        self._tries = f"{{{tries}}}" if client.is_cluster else tries

    async def take(self, account: str, rates: Rates) -> float:
        """See `throttle.SharedCounter.take`."""
        keys = (self._account(account), f"{self._tries}:everyone")
        args = [
            number
            for rate in (rates.account, rates.everyone)
            for number in (rate.burst, int(rate.interval_s * 1_000_000))
        ]
        wait_us = await self._ask(lambda: _TAKE.run(self._client, keys=keys, args=args))
        return wait_us / 1_000_000

    async def give_back(self, account: str, rates: Rates) -> None:
        """See `throttle.SharedCounter.give_back`."""
        args = [int(rates.account.interval_s * 1_000_000)]
        await self._ask(lambda: _GIVE_BACK.run(self._client, keys=[self._account(account)], args=args))

    async def _ask(self, question: Callable[[], Awaitable[int]]) -> int:
        if self._patience.is_pausing:
            raise CounterUnavailableError
        try:
            return await self._patience.ask(question())
        except MeshError as error:
            raise CounterUnavailableError from error

    def _account(self, account: str) -> str:
        return f"{self._tries}:{account}"
