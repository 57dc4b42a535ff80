"""The queue on Valkey Streams: one stream per partition, one consumer group, plain commands that Redis 6.2 knows too.

Scripts make each step atomic, so that a repeat after a lost answer does no harm. A set beside each stream holds the
turns that wait in it: publishing the same turn again, as relay and reaper may, adds nothing.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

from services.conversation.queue.body import UnreadableError, dead_letter, decode, encode
from services.conversation.queue.port import (
    BACKOFF_MAX,
    DELIVERIES_MAX,
    JITTER,
    PARTITIONS,
    DeadLetter,
    Delivery,
    Load,
    partition_of,
)
from services.conversation.store.work import TurnRef
from services.mesh.valkey import Client, Script

GROUP: Final = "workers"
CONSUMER: Final = "worker"
"""One name for all workers: what a dead one left is found by its idle time, and no names of the dead pile up."""
DEAD_MAX: Final = 10_000
"""Dead letters that are kept, about."""
PUBLISH_MAX: Final = 500
"""Turns per script call; a script holds up everybody else while it runs."""

_PUBLISH: Final = Script("""
local added = 0
for i = 1, #ARGV, 3 do
  local stream, waiting = KEYS[1] .. ARGV[i], KEYS[2] .. ARGV[i]
  if redis.call('SADD', waiting, ARGV[i + 1]) == 1 then
    redis.call('XADD', stream, '*', 'turn', ARGV[i + 2])
    redis.call('LPUSH', KEYS[3], '1')
    added = added + 1
  end
end
redis.call('LTRIM', KEYS[3], 0, 1023)  -- a bell that nobody hears needs no echo
return added
""")

# What was taken rings no more; one bell was heard already, by whoever waited for it.
_RECEIVE: Final = Script("""
local count, from, group, consumer = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local partitions, heard = tonumber(ARGV[5]), tonumber(ARGV[6])
local found = {}
local function read(stream, wanted)
  return redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', wanted, 'STREAMS', stream, '>')
end
for i = 0, partitions - 1 do
  if #found >= count then break end
  local partition = (from + i) % partitions
  local stream = KEYS[1] .. partition
  if redis.call('XLEN', stream) > 0 then
    local reply = read(stream, count - #found)
    if reply and reply.err then
      redis.pcall('XGROUP', 'CREATE', stream, group, '0')
      reply = read(stream, count - #found)
      if reply and reply.err then return reply end
    end
    for _, entry in ipairs(reply and reply[1][2] or {}) do found[#found + 1] = {partition, entry[1], entry[2][2], 1} end
  end
end
if #found > heard then redis.call('LPOP', KEYS[2], #found - heard) end
return found
""")

# `backoff_s` of the port. The chance is drawn from the name of the delivery, so that all who look see the same pause.
_REDELIVER: Final = Script("""
local count, from, group, consumer = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local partitions = tonumber(ARGV[5])
local idle_ms, backoff_max = tonumber(ARGV[6]), tonumber(ARGV[7])
local jitter, deliveries_max = tonumber(ARGV[8]), tonumber(ARGV[9])
local function pause_ms(id, deliveries)
  local chance = tonumber(string.sub(redis.sha1hex(id .. deliveries), 1, 6), 16) / 0x1000000
  return idle_ms * math.min(2 ^ (deliveries - 1), backoff_max) * (1 + jitter * chance)
end
local found = {}
for i = 0, partitions - 1 do
  if #found >= count then break end
  local partition = (from + i) % partitions
  local stream = KEYS[1] .. partition
  if redis.call('XLEN', stream) > 0 then
    redis.pcall('XGROUP', 'CREATE', stream, group, '0')
    for _, pending in ipairs(redis.call('XPENDING', stream, group, 'IDLE', idle_ms, '-', '+', 1000)) do
      local id, idle, deliveries = pending[1], pending[3], pending[4]
      if #found < count and idle >= pause_ms(id, deliveries) then
        local entry = redis.call('XRANGE', stream, id, id)[1]
        if not entry then
          redis.call('XACK', stream, group, id)
        else
          deliveries = deliveries + 1
          if deliveries <= deliveries_max then
            redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID', 'RETRYCOUNT', deliveries)
          end
          found[#found + 1] = {partition, id, entry[2][2], deliveries}
        end
      end
    end
  end
end
return found
""")

_BURY: Final = Script("""
local stream, waiting = KEYS[1] .. ARGV[1], KEYS[2] .. ARGV[1]
if redis.call('EXISTS', stream) == 1 and redis.call('XACK', stream, ARGV[7], ARGV[2]) == 1 then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'body', ARGV[4], 'reason', ARGV[5])
  redis.call('XDEL', stream, ARGV[2])
  redis.call('SREM', waiting, ARGV[3])
end
return 1
""")

_LOAD: Final = Script("""
local now, depth, age_ms = redis.call('TIME'), 0, 0
for partition = 0, tonumber(ARGV[1]) - 1 do
  local stream = KEYS[1] .. partition
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if first then
    depth = depth + redis.call('XLEN', stream)
    age_ms = math.max(age_ms, now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(string.match(first[1], '^%d+')))
  end
end
return {depth, age_ms, redis.call('XLEN', KEYS[2])}
""")

_ACKNOWLEDGE: Final = Script("""
for i = 2, #ARGV, 3 do
  local stream, waiting = KEYS[1] .. ARGV[i], KEYS[2] .. ARGV[i]
  if redis.call('EXISTS', stream) == 1 then
    redis.pcall('XACK', stream, ARGV[1], ARGV[i + 1])
    if redis.call('XDEL', stream, ARGV[i + 1]) == 1 then redis.call('SREM', waiting, ARGV[i + 2]) end
  end
end
return 1
""")


class ValkeyQueue:
    """See `Queue`.

    Args:
        client: for commands that do not wait.
        blocking: for commands that wait; its timeout is longer than any `wait_s`.
        prefix: of all keys.
        chance: uniform in [0, 1): where a search begins, so that no partition comes last every time.
    """

    def __init__(
        self, client: Client, blocking: Client, *, prefix: str, chance: Callable[[], float] = random.random
    ) -> None:
        self._client = client
        self._blocking = blocking
        # In a cluster all of it shares a slot: a worker takes from any partition in one step.
        prefix = f"{{{prefix}}}" if client.is_cluster else prefix
        self._stream = f"{prefix}:queue:"
        self._waiting = f"{prefix}:queued:"
        self._bell = f"{prefix}:bell"
        self._dead = f"{prefix}:dead"
        self._chance = chance
        self._may_be_more = True

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        """See `Queue.publish`."""
        for start in range(0, len(refs), PUBLISH_MAX):
            args: list[str | int] = []
            for ref in refs[start : start + PUBLISH_MAX]:
                args += [partition_of(ref.conversation_id), ref.turn_id, encode(ref)]
            await _PUBLISH.run(self._client, keys=[self._stream, self._waiting, self._bell], args=args)

    async def receive(self, *, count_max: int, wait_s: float) -> list[Delivery]:
        """See `Queue.receive`: the bell wakes one worker per message, and only the script decides who gets what.

        A bell that was lost with the worker that heard it costs `wait_s` at most.
        """
        heard = None
        if wait_s > 0 and not self._may_be_more:
            heard = await self._blocking.execute_command("BLPOP", self._bell, wait_s)
        self._may_be_more = True  # until it is known, whatever becomes of the next step
        found = await self._take(_RECEIVE, count_max, int(heard is not None))
        self._may_be_more = len(found) == count_max
        return found

    async def redeliver(self, *, count_max: int, idle_s: float) -> list[Delivery]:
        """See `Queue.redeliver`."""
        pace = [int(idle_s * 1_000), BACKOFF_MAX, JITTER, DELIVERIES_MAX]
        return await self._take(_REDELIVER, count_max, *pace)

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Queue.acknowledge`."""
        args: list[str | int] = [GROUP]
        for delivery in deliveries:
            args += [delivery.partition, delivery.token, delivery.ref.turn_id]
        if deliveries:
            await _ACKNOWLEDGE.run(self._client, keys=[self._stream, self._waiting], args=args)

    async def leave(self) -> None:
        """See `Queue.leave`: all workers take from all partitions, so there is nothing to give up."""

    async def depth(self) -> int:
        """See `Queue.depth`."""
        return (await self.load()).depth

    async def load(self) -> Load:
        """See `Queue.load`."""
        depth, age_ms, dead = await _LOAD.run(self._client, keys=[self._stream, self._dead], args=[PARTITIONS])
        return Load(depth=depth, oldest_age_s=age_ms / 1_000, dead=dead)

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """See `Queue.dead_letters`."""
        return [letter for _, letter in await self._first_dead(limit)]

    async def redrive(self, *, limit: int) -> int:
        """See `Queue.redrive`."""
        letters = await self._first_dead(limit)
        refs = list(dict.fromkeys(letter.ref for _, letter in letters if letter.ref is not None))
        await self.publish(refs)
        if letters:
            await self._client.execute_command("XDEL", self._dead, *(entry_id for entry_id, _ in letters))
        return len(refs)

    async def _take(self, script: Script, count_max: int, *more: float) -> list[Delivery]:
        first = int(self._chance() * PARTITIONS)
        args: list[str | int | float] = [count_max, first, GROUP, CONSUMER, PARTITIONS, *more]
        taken = []
        for partition, entry_id, body, deliveries in await script.run(
            self._client, keys=[self._stream, self._bell], args=args
        ):
            try:
                delivery = Delivery(decode(body), partition, entry_id.decode())
            except UnreadableError:
                await self._bury(partition, entry_id, body, "unreadable")
                continue
            if deliveries <= DELIVERIES_MAX:
                taken.append(delivery)
            else:
                await self._bury(partition, entry_id, body, "unacknowledged", delivery.ref.turn_id)
        return taken

    async def _bury(self, partition: int, entry_id: bytes, body: bytes, reason: str, turn_id: str = "") -> None:
        keys = [self._stream, self._waiting, self._dead]
        await _BURY.run(self._client, keys=keys, args=[partition, entry_id, turn_id, body, reason, DEAD_MAX, GROUP])

    async def _first_dead(self, limit: int) -> list[tuple[bytes, DeadLetter]]:
        entries = await self._client.execute_command("XRANGE", self._dead, "-", "+", "COUNT", limit)
        return [(entry_id, dead_letter(fields[b"body"], fields[b"reason"].decode())) for entry_id, fields in entries]
