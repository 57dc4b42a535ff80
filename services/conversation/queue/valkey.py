"""The queue on Valkey Streams: one stream per partition, one consumer group, plain commands that Redis 6.2 knows too.

Three scripts make each step atomic, so that a repeat after a lost answer does no harm. A set beside each stream holds
the turns that wait in it: publishing the same turn again, as relay and reaper may, adds nothing.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.port import PARTITIONS, Delivery, partition_of
from services.conversation.store import TurnRef
from services.mesh.valkey import Client, Script

GROUP: Final = "workers"
CONSUMER: Final = "worker"
"""One name for all workers: what a dead one left is found by its idle time, and no names of the dead pile up."""
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

_RECEIVE: Final = Script("""
local count, from, idle_ms, group, consumer = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local partitions = tonumber(ARGV[6])
local found = {}
for i = 0, partitions - 1 do
  if #found >= count then break end
  local partition = (from + i) % partitions
  local stream = KEYS[1] .. partition
  local entries = {}
  if redis.call('EXISTS', stream) == 1 then
    redis.pcall('XGROUP', 'CREATE', stream, group, '0')
    if idle_ms >= 0 then
      entries = redis.call('XAUTOCLAIM', stream, group, consumer, idle_ms, '0', 'COUNT', count - #found)[2]
    else
      local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count - #found, 'STREAMS', stream, '>')
      if reply then entries = reply[1][2] end
    end
  end
  for _, entry in ipairs(entries) do
    if entry and entry[2] then found[#found + 1] = {partition, entry[1], entry[2][2]} end
  end
end
return found
""")

_ACKNOWLEDGE: Final = Script("""
for i = 1, #ARGV, 3 do
  local stream, waiting = KEYS[1] .. ARGV[i], KEYS[2] .. ARGV[i]
  if redis.call('EXISTS', stream) == 1 then
    redis.pcall('XACK', stream, KEYS[4], ARGV[i + 1])
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
        self._stream = f"{prefix}:queue:"
        self._waiting = f"{prefix}:queued:"
        self._bell = f"{prefix}:bell"
        self._chance = chance

    async def publish(self, refs: Sequence[TurnRef]) -> None:
        """See `Queue.publish`."""
        for start in range(0, len(refs), PUBLISH_MAX):
            args: list[str | int] = []
            for ref in refs[start : start + PUBLISH_MAX]:
                args += [partition_of(ref.conversation_id), ref.turn_id, _encode(ref)]
            await _PUBLISH.run(self._client, keys=[self._stream, self._waiting, self._bell], args=args)

    async def receive(self, *, count_max: int, wait_s: float) -> list[Delivery]:
        """See `Queue.receive`: the bell wakes one worker per message, and only the script decides who gets what."""
        found = await self._take(count_max, idle_ms=-1)
        if found or wait_s <= 0:
            return found
        await self._blocking.execute_command("BLPOP", self._bell, wait_s)
        return await self._take(count_max, idle_ms=-1)

    async def redeliver(self, *, count_max: int, idle_s: float) -> list[Delivery]:
        """See `Queue.redeliver`."""
        return await self._take(count_max, idle_ms=int(idle_s * 1_000))

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Queue.acknowledge`."""
        args: list[str | int] = []
        for delivery in deliveries:
            args += [delivery.partition, delivery.token, delivery.ref.turn_id]
        if args:
            await _ACKNOWLEDGE.run(self._client, keys=[self._stream, self._waiting, self._bell, GROUP], args=args)

    async def depth(self) -> int:
        """See `Queue.depth`."""
        total = 0
        for partition in range(PARTITIONS):
            total += int(await self._client.execute_command("XLEN", f"{self._stream}{partition}"))
        return total

    async def _take(self, count_max: int, *, idle_ms: int) -> list[Delivery]:
        first = int(self._chance() * PARTITIONS)
        args: list[str | int] = [count_max, first, idle_ms, GROUP, CONSUMER, PARTITIONS]
        return [_delivery(*found) for found in await _RECEIVE.run(self._client, keys=[self._stream], args=args)]


def _encode(ref: TurnRef) -> str:
    return json.dumps([ref.organization_id, ref.conversation_id, ref.turn_id])


def _delivery(partition: int, entry_id: bytes, body: bytes) -> Delivery:
    names: Any = json.loads(body)  # Any: JSON that `_encode` wrote
    organization_id, conversation_id, turn_id = names
    ref = TurnRef(organization_id, ConversationId(conversation_id), TurnId(turn_id))
    return Delivery(ref, partition, entry_id.decode())
