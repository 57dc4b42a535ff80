"""Hints to stop on Valkey: one short stream that every worker reads; see `Stops`."""

from collections.abc import Mapping
from typing import Final

from services.mesh.valkey import Client

HINTS_MAX: Final = 1_000
"""About; a worker that is further behind finds out by itself."""


class ValkeyStops:
    """A stream and not a channel, so that a connection that broke for a moment misses nothing.

    Args:
        client: for commands that do not wait.
        waiting: whose timeout is longer than any `wait_s`.
        prefix: of the key.
    """

    def __init__(self, client: Client, waiting: Client, *, prefix: str) -> None:
        self._client = client
        self._waiting = waiting
        self._key = f"{prefix}:stops"
        self._heard = "0-0"

    async def tell(self, conversation_id: str) -> None:
        """See `Stops.tell`."""
        await self._client.execute_command("XADD", self._key, "MAXLEN", "~", HINTS_MAX, "*", "c", conversation_id)

    async def wait(self, *, wait_s: float) -> set[str]:
        """See `Stops.wait`."""
        block_ms = max(1, int(wait_s * 1_000))
        reply = await self._waiting.execute_command(
            "XREAD", "COUNT", HINTS_MAX, "BLOCK", block_ms, "STREAMS", self._key, self._heard
        )
        # redis-py's parsed reply: a list of pairs or, newer, a mapping.
        found = list(reply.values()) if isinstance(reply, Mapping) else [entries for _, entries in reply or ()]
        if not found:
            return set()
        self._heard = found[0][-1][0].decode()
        return {fields[b"c"].decode() for _, fields in found[0]}
