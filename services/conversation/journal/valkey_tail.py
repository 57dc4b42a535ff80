"""Follows the journals of many turns on Valkey.

A process that is watched by thousands would otherwise name every turn in every read, and Valkey would look at each of
them each time. It reads one stream of news instead, which says of which turns there are events, and then those.
"""

import asyncio
import secrets
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from services.conversation.events import TurnEvent
from services.conversation.journal.port import Codec
from services.conversation.journal.valkey import SHARDS, Keys
from services.mesh.errors import MeshError
from services.mesh.valkey import Client

READ_MAX: Final = 256
"""Events per turn and read: bounds what one busy turn can delay the others of the same reader."""
TURNS_MAX: Final = 500
"""Turns in one read; Valkey serves nobody else during it."""
NEWS_READ_MAX: Final = 100


class ValkeyTail:
    """See `Tail`: reads the news on one connection, beside a stream of its own that wakes it.

    In a cluster it is one for each shard; what wakes one of them wakes the others.

    Args:
        client: whose timeout is longer than any `wait_s`.
        prefix: of all keys.
        codec: of events.
    """

    def __init__(self, client: Client, *, prefix: str, codec: Codec) -> None:
        self._client = client
        self._keys = Keys(prefix, SHARDS if client.is_cluster else 1)
        self._codec = codec
        self._name = secrets.token_hex(8)
        self._woken = dict.fromkeys(range(self._keys.shards), "0-0")
        self._heard: dict[int, tuple[str, int]] = {}
        self._more: set[str] = set()
        self._waited: frozenset[int] = frozenset()

    async def wait(
        self, positions: Mapping[str, int], *, fresh: Collection[str] | None = None, wait_s: float
    ) -> dict[str, list[TurnEvent]]:
        """See `Tail.wait`."""
        fresh = positions.keys() if fresh is None else fresh
        if self._keys.shards == 1:
            self._waited = frozenset((0,))
            return await self._read(0, positions, fresh, wait_s=wait_s)
        parts: dict[int, dict[str, int]] = {}
        for turn_id, position in positions.items():
            parts.setdefault(self._keys.shard(turn_id), {})[turn_id] = position
        parts = parts or {0: {}}
        self._waited = frozenset(parts)
        found: dict[str, list[TurnEvent]] = {}
        failures: list[MeshError] = []

        async def read(shard: int, part: Mapping[str, int]) -> None:
            try:
                told = await self._read(shard, part, [one for one in fresh if one in part], wait_s=wait_s)
            except MeshError as error:
                failures.append(error)  # of a server that is away; what the others tell shall not wait for it
                return
            found.update(told)
            if told:
                with suppress(MeshError):  # then they wait their time
                    await self._interrupt(self._waited - {shard})

        async with asyncio.TaskGroup() as group:
            for shard, part in parts.items():
                group.create_task(read(shard, part))
        if len(failures) == len(parts):
            raise failures[0]
        return found

    async def interrupt(self) -> None:
        """See `Tail.interrupt`."""
        await self._interrupt(self._waited)

    async def _interrupt(self, shards: frozenset[int]) -> None:
        wakes = [self._keys.wake(shard, self._name) for shard in shards]
        commands = [(("XADD", wake, "MAXLEN", 1, "*", "w", "1"), ("EXPIRE", wake, 60)) for wake in wakes]
        await self._client.batch([command for both in commands for command in both])

    async def _read(
        self, shard: int, positions: Mapping[str, int], fresh: Collection[str], *, wait_s: float
    ) -> dict[str, list[TurnEvent]]:
        try:
            if await self._begin(shard):
                fresh = positions.keys()
            wanted = [*fresh, *(self._more - set(fresh))]
            found = await self._events(shard, positions, wanted) if wanted else {}
            if found:
                return found
            return await self._events(shard, positions, await self._news(shard, wait_s))
        except BaseException:
            self._heard.pop(shard, None)  # what was heard of may not have been read
            raise

    async def _begin(self, shard: int) -> bool:
        """Whether nothing that was told before now is known: at first, and when the server may be another one."""
        _, births = self._heard.get(shard, ("", -1))
        if births == self._client.births:
            return False
        last = await self._client.execute_command("XREVRANGE", self._keys.news(shard), "+", "-", "COUNT", 1)
        self._heard[shard] = (last[0][0].decode() if last else "0-0", self._client.births)
        return True

    async def _news(self, shard: int, wait_s: float) -> set[str]:
        """Turns of which something is told; returns with the first ones, after a while, or when woken."""
        wake, news = self._keys.wake(shard, self._name), self._keys.news(shard)
        heard, births = self._heard[shard]
        command = ["XREAD", "COUNT", NEWS_READ_MAX, "BLOCK", max(1, int(wait_s * 1_000)), "STREAMS", wake, news]
        found: set[str] = set()
        for key, entries in _pairs(await self._client.execute_command(*command, self._woken[shard], heard)):
            last = entries[-1][0].decode()
            if key == wake.encode():
                self._woken[shard] = last
            else:
                self._heard[shard] = (last, births)
                found.update(turn_id for _, fields in entries for turn_id in fields[b"t"].decode().split())
        return found

    async def _events(
        self, shard: int, positions: Mapping[str, int], turn_ids: Iterable[str]
    ) -> dict[str, list[TurnEvent]]:
        of_shard = {one for one in turn_ids if one in positions and self._keys.shard(one) == shard}
        wanted = [(turn_id, positions[turn_id]) for turn_id in of_shard]  # at once: others come and go meanwhile
        self._more -= of_shard
        found: dict[str, list[TurnEvent]] = {}
        for start in range(0, len(wanted), TURNS_MAX):
            part = wanted[start : start + TURNS_MAX]
            names = {self._keys.stream(turn_id).encode(): turn_id for turn_id, _ in part}
            starts = [f"{position}-0" for _, position in part]
            reply = await self._client.execute_command("XREAD", "COUNT", READ_MAX, "STREAMS", *names, *starts)
            for key, entries in _pairs(reply):
                found[names[key]] = [self._codec.decode(fields[b"e"]) for _, fields in entries]
                if len(entries) == READ_MAX:
                    self._more.add(names[key])
        return found


def _pairs(reply: Any) -> list[tuple[bytes, Any]]:  # Any: redis-py's parsed reply, a list or, newer, a mapping
    if isinstance(reply, Mapping):
        return list(reply.items())
    return [(key, entries) for key, entries in reply or ()]
