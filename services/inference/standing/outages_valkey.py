"""Outages in Valkey: one sorted set, scored by the instant at which each ends."""

from typing import Final

from services.inference.standing.outages import PROBATION_S
from services.mesh.clock import Clock
from services.mesh.valkey import Client

KEY: Final = "parley:inference:outages"
PROBE_PREFIX: Final = "parley:inference:probe:"
_KEEP_S: Final = 3_600


class ValkeyOutages:
    """Implements `outages.Shared`."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def put(self, until: dict[str, float]) -> None:
        """See `Shared.put`. Repeating it changes nothing."""
        # A probe has told how it ended; the next one need not wait until its claim lapses.
        await self._client.execute_command("DEL", *(PROBE_PREFIX + name for name in until))
        ended = [name for name, instant in until.items() if instant == 0.0]
        if ended:
            await self._client.execute_command("ZREM", KEY, *ended)
        await self._client.execute_command("ZREMRANGEBYSCORE", KEY, "-inf", self._over())
        told = [item for name, instant in until.items() if instant > 0.0 for item in (instant, name)]
        if told:
            await self._client.execute_command("ZADD", KEY, *told)
            await self._client.execute_command("EXPIRE", KEY, _KEEP_S)

    async def all(self) -> dict[str, float]:
        """See `Shared.all`; without those whose probation is over, which the next `put` sweeps."""
        # Any: the driver's answer, a flat list of members and scores in RESP2.
        found = await self._client.execute_command("ZRANGEBYSCORE", KEY, f"({self._over()!r}", "+inf", "WITHSCORES")
        return _pairs(found)

    async def claim(self, name: str, *, life_s: float) -> bool:
        """See `Shared.claim`."""
        answer = await self._client.execute_command("SET", PROBE_PREFIX + name, "1", "NX", "PX", int(life_s * 1_000))
        return answer is not None and answer is not False

    def _over(self) -> float:
        """The instant up to which probations of ended outages are over."""
        return self._clock.now().timestamp() - PROBATION_S


def _pairs(found: object) -> dict[str, float]:
    """redis-py pairs members with scores by itself, as tuples, lists or one flat list by version."""
    items = list(found) if isinstance(found, list | tuple) else []
    if items and not isinstance(items[0], list | tuple):
        items = list(zip(items[::2], items[1::2], strict=True))
    return {_text(name): float(score) for name, score in items}


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
