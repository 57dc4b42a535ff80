"""The journal on Valkey: one stream per turn whose entry ids are the sequences.

So a repeated append cannot add an event twice, and "events after N" is a range of the stream. The fence stands beside
the stream and is checked in the script that appends, and so is the epoch: a wipe takes the fences with it, and what an
outdated worker sent before the wipe may arrive after it.
"""

import secrets
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from redis.exceptions import NoScriptError

from services.conversation.events import TurnEvent
from services.conversation.journal.port import Batch, Codec, Receipt
from services.mesh.valkey import Argument, Client, Script

EVENTS_MAX: Final = 20_000
"""Per turn, about; older ones are trimmed and watchers that need them get a snapshot."""
NEWS_MAX: Final = 2_000
"""Appends, about, that a reader may be behind; of a turn whose news it missed it hears with the next."""
IDLE_LIFE_S: Final = 86_400
"""Of a journal that nobody appends to and nobody ended; no turn lives that long."""

SHARDS: Final = 8
"""Slots of a cluster that journals lie in. Each has an epoch, and a process that watches reads each by itself."""

_APPEND: Final = Script("""
local held = redis.call('GET', KEYS[2])
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
local first, last = tonumber(ARGV[3]), 0
if redis.call('GET', KEYS[3]) ~= ARGV[2] or (not held and first > 1) then return -1 end
local life = tonumber(ARGV[4])
redis.call('SET', KEYS[2], ARGV[1], 'EX', life)
local tail = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if tail[1] then last = tonumber(string.match(tail[1][1], '^%d+')) end
if last > 0 and first > last + 1 then
  redis.call('DEL', KEYS[1])
  last = 0
end
for i = 6, #ARGV do
  local sequence = first + i - 6
  if sequence > last then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], string.format('%d-0', sequence), 'e', ARGV[i])
  end
end
redis.call('EXPIRE', KEYS[1], life)
return 1
""")
_EPOCH: Final = Script("""
local process = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #process) == process then return held end
local begun = process .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], begun)
return begun
""")
_SEIZE: Final = Script("""
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return 1
""")


class ValkeyJournal:
    """See `Journal`.

    Args:
        client: for commands that do not wait.
        prefix: of all keys.
        codec: of events.
    """

    def __init__(self, client: Client, *, prefix: str, codec: Codec) -> None:
        self._client = client
        self._keys = Keys(prefix, SHARDS if client.is_cluster else 1)
        self._codec = codec
        self._met = -1

    async def epoch(self) -> str:
        """See `Journal.epoch`: the server's process, for a restart may lose a second, and a mark that a wipe takes.

        In a cluster it is those of all shards.
        """
        births = self._client.births
        found = ",".join([await self._epoch_of(shard) for shard in range(self._keys.shards)])
        if births == self._client.births:
            self._met = births
        return found

    async def append(self, batches: Sequence[Batch]) -> list[Receipt]:
        """See `Journal.append`."""
        # A new connection may lead to another process, whoever made it: until that one takes anything, it has to know
        # its own epoch.
        while self._met != self._client.births:
            await self.epoch()
        results = await self._client.batch([*map(self._appending, batches), *self._news_of(batches)])
        is_unknown = any(isinstance(result, NoScriptError) for result in results)
        if is_unknown or self._met != self._client.births:
            if is_unknown:
                await _APPEND.load(self._client)
            return await self.append(batches)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [Receipt(result) for result in results[: len(batches)]]

    async def seize(self, turn_id: str, fence: int) -> None:
        """See `Journal.seize`."""
        await _SEIZE.run(self._client, keys=[self._keys.fence(turn_id)], args=[fence, IDLE_LIFE_S])

    async def read(self, turn_id: str, *, after: int, limit: int) -> list[TurnEvent]:
        """See `Journal.read`."""
        command = ("XRANGE", self._keys.stream(turn_id), f"({after}-0", "+", "COUNT", limit)
        entries = await self._client.execute_command(*command)
        return [self._codec.decode(fields[b"e"]) for _, fields in entries]

    async def last_sequence(self, turn_id: str) -> int:
        """See `Journal.last_sequence`."""
        command = ("XREVRANGE", self._keys.stream(turn_id), "+", "-", "COUNT", 1)
        entries = await self._client.execute_command(*command)
        return int(entries[0][0].partition(b"-")[0]) if entries else 0

    async def expire(self, turn_id: str, *, keep_s: int) -> None:
        """See `Journal.expire`."""
        keys = (self._keys.stream(turn_id), self._keys.fence(turn_id))
        for answer in await self._client.batch([("EXPIRE", key, keep_s) for key in keys]):
            if isinstance(answer, Exception):
                raise answer

    async def forget(self, turn_ids: Sequence[str]) -> None:
        """See `Journal.forget`."""
        keys = [key for turn_id in turn_ids for key in (self._keys.stream(turn_id), self._keys.fence(turn_id))]
        if keys:
            await self._client.execute_command("UNLINK", *keys)

    async def _epoch_of(self, shard: int) -> str:
        name = await _EPOCH.run(self._client, keys=[self._keys.epoch(shard)], args=[secrets.token_hex(8)])
        return bytes(name).decode()

    def _news_of(self, batches: Sequence[Batch]) -> list[tuple[Argument, ...]]:
        """What tells readers of which turns there are news: a reader of thousands need not look at each of them."""
        turns: dict[int, list[str]] = {}
        for batch in batches:
            turns.setdefault(self._keys.shard(batch.turn_id), []).append(batch.turn_id)
        return [
            ("XADD", self._keys.news(shard), "MAXLEN", "~", NEWS_MAX, "*", "t", " ".join(found))
            for shard, found in turns.items()
        ]

    def _appending(self, batch: Batch) -> tuple[Argument, ...]:
        shard = self._keys.shard(batch.turn_id)
        keys = [self._keys.stream(batch.turn_id), self._keys.fence(batch.turn_id), self._keys.epoch(shard)]
        # One that was drawn for another number of shards is none.
        epochs = dict(enumerate(batch.epoch.split(",")))
        epoch = epochs[shard] if len(epochs) == self._keys.shards else ""
        encoded = [self._codec.encode(event) for event in batch.events]
        first = batch.events[0].sequence
        return _APPEND.command(keys=keys, args=[batch.fence, epoch, first, IDLE_LIFE_S, EVENTS_MAX, *encoded])


class Keys:
    """Names of keys. All of a shard share a slot; where one server holds everything, there is one."""

    def __init__(self, prefix: str, shards: int) -> None:
        self._prefix = prefix
        self.shards = shards

    def shard(self, turn_id: str) -> int:
        """Where the journal of a turn lies."""
        return crc32(turn_id.encode()) % self.shards

    def epoch(self, shard: int) -> str:
        """The mark of a shard that a wipe takes."""
        return f"{self._place(shard)}:journal:epoch"

    def stream(self, turn_id: str) -> str:
        """Events of a turn."""
        return f"{self._place(self.shard(turn_id))}:journal:{{{turn_id}}}"

    def fence(self, turn_id: str) -> str:
        """The highest fence that has written."""
        return f"{self._place(self.shard(turn_id))}:fence:{{{turn_id}}}"

    def news(self, shard: int) -> str:
        """Tells of which turns of a shard there are events."""
        return f"{self._place(shard)}:journal:news"

    def wake(self, shard: int, name: str) -> str:
        """Wakes one reader of a shard."""
        return f"{self._place(shard)}:wake:{name}"

    def _place(self, shard: int) -> str:
        # A slot goes by the first pair of braces.
        return self._prefix if self.shards == 1 else f"{{{self._prefix}:{shard}}}"
