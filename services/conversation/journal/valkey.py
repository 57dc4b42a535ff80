"""The journal on Valkey: one stream per turn whose entry ids are the sequences.

So a repeated append cannot add an event twice, and "events after N" is a range of the stream. The fence stands beside
the stream and is checked in the script that appends, and so is the epoch: a wipe takes the fences with it, and what an
outdated worker sent before the wipe may arrive after it.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError

from services.conversation.events import TurnEvent
from services.conversation.journal.port import Batch, Codec, Receipt
from services.mesh.valkey import Client, Script, translated

EVENTS_MAX: Final = 20_000
"""Per turn, about; older ones are trimmed and watchers that need them get a snapshot."""
READ_MAX: Final = 256
"""Events per turn and read: bounds what one busy turn can delay the others of the same reader."""
IDLE_LIFE_S: Final = 86_400
"""Of a journal that nobody appends to and nobody ended; no turn lives that long."""

_APPEND_SOURCE: Final = """
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
"""
_APPEND_DIGEST: Final = hashlib.sha1(_APPEND_SOURCE.encode(), usedforsecurity=False).hexdigest()
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
        self._keys = _Keys(prefix)
        self._codec = codec

    async def epoch(self) -> str:
        """See `Journal.epoch`: the server's process, for a restart may lose a second, and a mark that a wipe takes."""
        name = await _EPOCH.run(self._client, keys=[self._keys.epoch], args=[secrets.token_hex(8)])
        return bytes(name).decode()

    async def append(self, batches: Sequence[Batch]) -> list[Receipt]:
        """See `Journal.append`."""
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                for batch in batches:
                    pipeline.execute_command("EVALSHA", _APPEND_DIGEST, *self._arguments(batch))
                results = await pipeline.execute(raise_on_error=False)
        if any(isinstance(result, NoScriptError) for result in results):
            # It may be another process than before: until it knows the script, it has to know its own epoch.
            await self.epoch()
            await self._client.execute_command("SCRIPT", "LOAD", _APPEND_SOURCE)
            return await self.append(batches)
        for result in results:
            if isinstance(result, Exception):
                with translated():
                    raise result
        return [Receipt(result) for result in results]

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
        for key in (self._keys.stream(turn_id), self._keys.fence(turn_id)):
            await self._client.execute_command("EXPIRE", key, keep_s)

    async def forget(self, turn_ids: Sequence[str]) -> None:
        """See `Journal.forget`."""
        keys = [key for turn_id in turn_ids for key in (self._keys.stream(turn_id), self._keys.fence(turn_id))]
        if keys:
            await self._client.execute_command("UNLINK", *keys)

    def _arguments(self, batch: Batch) -> list[Any]:  # Any: keys, numbers and bytes
        keys = [self._keys.stream(batch.turn_id), self._keys.fence(batch.turn_id), self._keys.epoch]
        encoded = [self._codec.encode(event) for event in batch.events]
        first = batch.events[0].sequence
        return [len(keys), *keys, batch.fence, batch.epoch, first, IDLE_LIFE_S, EVENTS_MAX, *encoded]


class ValkeyTail:
    """See `Tail`: one XREAD over all streams on one connection, and a stream of its own that wakes it.

    Args:
        client: whose timeout is longer than any `wait_s`.
        prefix: of all keys.
        codec: of events.
    """

    def __init__(self, client: Client, *, prefix: str, codec: Codec) -> None:
        self._client = client
        self._keys = _Keys(prefix)
        self._codec = codec
        self._wake = f"{prefix}:wake:{secrets.token_hex(8)}"
        self._woken = "0-0"

    async def wait(self, positions: Mapping[str, int], *, wait_s: float) -> dict[str, list[TurnEvent]]:
        """See `Tail.wait`."""
        names = {self._keys.stream(turn_id).encode(): turn_id for turn_id in positions}
        command = ["XREAD", "COUNT", READ_MAX, "BLOCK", max(1, int(wait_s * 1_000)), "STREAMS", self._wake]
        starts = [self._woken, *(f"{positions[turn_id]}-0" for turn_id in names.values())]
        reply = await self._client.execute_command(*command, *names, *starts)
        found: dict[str, list[TurnEvent]] = {}
        for key, entries in _pairs(reply):
            if key == self._wake.encode():
                self._woken = entries[-1][0].decode()
            else:
                found[names[key]] = [self._codec.decode(fields[b"e"]) for _, fields in entries]
        return found

    async def interrupt(self) -> None:
        """See `Tail.interrupt`."""
        await self._client.execute_command("XADD", self._wake, "MAXLEN", 1, "*", "w", "1")
        await self._client.execute_command("EXPIRE", self._wake, 60)


def _pairs(reply: Any) -> list[tuple[bytes, Any]]:  # Any: redis-py's parsed reply, a list or, newer, a mapping
    if isinstance(reply, Mapping):
        return list(reply.items())
    return [(key, entries) for key, entries in reply or ()]


class _Keys:
    """Names of keys. One server holds them all: the epoch is that of all turns."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.epoch = f"{prefix}:journal:epoch"

    def stream(self, turn_id: str) -> str:
        return f"{self._prefix}:journal:{{{turn_id}}}"

    def fence(self, turn_id: str) -> str:
        return f"{self._prefix}:fence:{{{turn_id}}}"
