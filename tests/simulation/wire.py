"""The wire between processes and what they talk to: it delays, loses requests or replies, and outlives its callers.

A request that has left is served whether or not its sender still lives, waits or cares, as a real server does.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from services.mesh.errors import MeshError, Unavailable
from tests.simulation.loop import PROCESS, ROOT

T = TypeVar("T")
SPIKE_S_MAX: Final = 10.0
"""More than a lease: a request may arrive when its sender has long been given up."""


class Peer(StrEnum):
    """What a process talks to."""

    STORE = "store"
    QUEUE = "queue"
    JOURNAL = "journal"
    CACHE = "cache"
    API = "api"


@dataclass(slots=True)
class Weather:
    """How bad the wire is now; probabilities are per request."""

    away: set[Peer] = field(default_factory=set)
    cut: set[tuple[str, Peer]] = field(default_factory=set)
    lost_request: float = 0.0
    lost_reply: float = 0.0
    spike: float = 0.0

    def clear(self) -> None:
        """Ends all trouble."""
        self.away.clear()
        self.cut.clear()
        self.lost_request = self.lost_reply = self.spike = 0.0


class Wire:
    """Carries requests to servers that live outside of every process."""

    def __init__(self, chance: random.Random, weather: Weather) -> None:
        self._chance = chance
        self._weather = weather
        self._is_closed = False

    def close(self) -> None:
        """The run is over: nothing is sent any more."""
        self._is_closed = True

    def delay_s(self) -> float:
        """How long one way takes now."""
        if self._weather.spike and self._chance.random() < self._weather.spike:
            return self._chance.uniform(0.05, SPIKE_S_MAX) * self._chance.random()
        return self._chance.uniform(0.0005, 0.01)

    def is_cut(self, peer: Peer) -> bool:
        """Whether this process cannot reach the peer."""
        process = PROCESS.get()
        name = process.name if process else "world"
        return peer in self._weather.away or (name, peer) in self._weather.cut

    async def call(self, peer: Peer, effect: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Has the server do `effect`, which must not wait, at some moment between now and the answer.

        Raises:
            Unavailable: it was done or not; nobody can tell.
            MeshError: what the effect raised.
        """
        if self._is_closed:
            raise asyncio.CancelledError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        process, weather, chance = PROCESS.get(), self._weather, self._chance
        name = process.name if process else "world"

        def serve() -> None:
            is_cut = peer in weather.away or (name, peer) in weather.cut
            if is_cut or (weather.lost_request and chance.random() < weather.lost_request):
                back(None, Unavailable(f"{peer} is away"))
                return
            try:
                result = immediately(effect())
            except MeshError as error:
                back(None, error)
                return
            is_lost = weather.lost_reply and chance.random() < weather.lost_reply
            back(result, Unavailable(f"{peer} hung up") if is_lost else None)

        def back(result: T | None, error: MeshError | None) -> None:
            loop.call_later(self.delay_s(), settle, answer, result, error, context=ROOT)

        loop.call_later(self.delay_s(), serve, context=ROOT)
        return await answer

    async def wait(self, peer: Peer, effect: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As `call`, for an effect that waits at the server."""
        if self._is_closed:
            raise asyncio.CancelledError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        is_cut = self.is_cut(peer)

        async def serve() -> None:
            await asyncio.sleep(self.delay_s())
            result: T | None = None
            error: MeshError | None = None
            if is_cut:
                error = Unavailable(f"{peer} is away")
            else:
                try:
                    result = await effect()
                except MeshError as raised:
                    error = raised
                if peer in self._weather.away or self._chance.random() < self._weather.lost_reply:
                    error = Unavailable(f"{peer} hung up")
            await asyncio.sleep(self.delay_s())
            settle(answer, result, error)

        serving = loop.create_task(serve(), context=ROOT.copy())
        result = await answer
        await serving
        return result


def settle(answer: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    """Answers, if anybody still waits."""
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


def immediately(effect: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        effect.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    effect.close()
    raise AssertionError("an adapter in memory waits where it should not")
