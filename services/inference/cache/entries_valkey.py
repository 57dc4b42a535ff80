"""Stored answers in Valkey, shared by all replicas.

The organization is in every key, in braces: what belongs to one lies in one slot of a cluster, and a script may touch
all of it. Nothing here is ever found by another organization's name.
"""

from collections.abc import Sequence
from secrets import token_hex
from typing import Final

from services.inference.cache.entries import EPOCHS_MAX, KEEP_EPOCHS_S, NEIGHBOURS_MAX, Found
from services.mesh.valkey import Client, Script

PREFIX: Final = "parley:inference:cache:"
_MS: Final = 1_000

# Epochs and entry of one instant in one step; the first look-up of an organization draws its epoch.
_GET: Final = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], '', ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return {redis.call('HGETALL', KEYS[1]), redis.call('GET', KEYS[2])}
""")
# Without epochs there is nothing to make void: the next look-up draws one that no entry has.
_VOID: Final = Script("""
if ARGV[1] == '' or redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return redis.call('DEL', KEYS[1])
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
return 1
""")
# In one step, so that no list is left without an end.
_ADD_NEIGHBOUR: Final = Script("""
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
""")


class ValkeyEntries:
    """Implements `entries.Entries`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, organization_id: str, name: str) -> Found:
        """See `Entries.get`."""
        keys = [_epochs(organization_id), _entry(organization_id, name)]
        # Any: what Lua returns, a flat list of names and epochs, and bytes or nothing.
        flat, entry = await _GET.run(self._client, keys=keys, args=[token_hex(8), KEEP_EPOCHS_S])
        texts = [item.decode() for item in flat]
        return Found(dict(zip(texts[::2], texts[1::2], strict=True)), entry)

    async def put(self, organization_id: str, name: str, entry: bytes, *, keep_s: float) -> None:
        """See `Entries.put`."""
        await self._client.execute_command("SET", _entry(organization_id, name), entry, "PX", int(keep_s * _MS))

    async def neighbours(self, organization_id: str, scope: str) -> Sequence[bytes]:
        """See `Entries.neighbours`."""
        found: list[bytes] = await self._client.execute_command("LRANGE", _scope(organization_id, scope), 0, -1)
        return found

    async def add_neighbour(self, organization_id: str, scope: str, neighbour: bytes, *, keep_s: float) -> None:
        """See `Entries.add_neighbour`."""
        keys = [_scope(organization_id, scope)]
        await _ADD_NEIGHBOUR.run(self._client, keys=keys, args=[neighbour, NEIGHBOURS_MAX, int(keep_s * _MS)])

    async def void(self, organization_id: str, name: str) -> None:
        """See `Entries.void`. Repeating it does no harm."""
        await _VOID.run(self._client, keys=[_epochs(organization_id)], args=[name, token_hex(8), EPOCHS_MAX])


def _epochs(organization_id: str) -> str:
    return f"{PREFIX}{{{organization_id}}}:epochs"


def _entry(organization_id: str, name: str) -> str:
    return f"{PREFIX}{{{organization_id}}}:answer:{name}"


def _scope(organization_id: str, scope: str) -> str:
    return f"{PREFIX}{{{organization_id}}}:questions:{scope}"
