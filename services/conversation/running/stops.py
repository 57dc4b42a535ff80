"""Tells workers that turns shall stop, sooner than they would find out by themselves.

PostgreSQL holds what was asked for, and workers look there anyway: a hint only makes them look now, so any may be lost.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from services.conversation.running.relay import Relay, Relays
from services.mesh import telemetry
from services.mesh.errors import MeshError

_log = telemetry.logger("conversation.stops")


class Stops(Protocol):
    """Hints from whoever cancels to whoever answers."""

    async def tell(self, conversation_id: str) -> None:
        """Lets every worker know that turns of a conversation shall stop. Raises Unavailable."""
        ...

    async def wait(self, *, wait_s: float) -> set[str]:
        """Conversations that were told of since the last call; empty after `wait_s`. Raises Unavailable."""
        ...


class NoStops:
    """Nobody tells anything: workers find out by themselves."""

    async def tell(self, conversation_id: str) -> None:
        """See `Stops.tell`."""

    async def wait(self, *, wait_s: float) -> set[str]:
        """See `Stops.wait`."""
        await asyncio.sleep(wait_s)
        return set()


@dataclass(frozen=True, slots=True)
class Signals:
    """What is said after a commit, so that nobody has to wait until somebody looks.

    Attributes:
        relay: hears of what stands in the outbox.
        stops: hear of what shall stop.
    """

    relay: Relay | Relays
    stops: Stops

    async def stop(self, conversation_id: str) -> None:
        """A turn of the conversation that runs has been asked to stop, or is gone with the conversation."""
        try:
            await self.stops.tell(conversation_id)
        except MeshError as error:
            _log.warning("stop_not_told", reason=error.reason)
