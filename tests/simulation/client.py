"""A client's side of the wire: calls that may be lost on either way, and streams that break."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final, TypeVar

from services.conversation.events import TurnEvent
from services.mesh.errors import Internal, MeshError, Unavailable
from tests.simulation.loop import ROOT
from tests.simulation.wire import settle
from tests.simulation.world import Api, World
from tests.support.conversation import ADA

T = TypeVar("T")
PAUSE_S: Final = 0.3
ANSWER_S_MAX: Final = 15.0
"""How long a client waits for a reply before it asks again."""


class Client:
    """Talks to whichever replica is up.

    Args:
        world: where.
        chance: of the choice.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    async def insist(self, call: Callable[[Api], Awaitable[T]]) -> T:
        """Repeats a call until it is answered.

        Raises:
            MeshError: the answer, unless it says that another try may succeed.
        """
        while True:
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    return await self._call(call)
            except (Unavailable, TimeoutError):
                await self.pause()

    async def pause(self) -> None:
        """Waits a moment before the next try."""
        await asyncio.sleep(self._chance.uniform(0.0, PAUSE_S))

    @asynccontextmanager
    async def stream(self, turn_id: str, after: int) -> AsyncIterator[AsyncIterator[list[TurnEvent]]]:
        """One watch call; what is on its way when a connection breaks is lost."""
        api, wire = self._some_api(), self._world.wire
        await asyncio.sleep(wire.delay_s())
        pipe = _Pipe()
        forget = api.process.when_killed(lambda: pipe.end(Unavailable("the connection broke")))

        async def handle() -> None:
            watched = api.watching.watch(ADA, turn_id, after_sequence=after, follow=True)
            try:
                async with aclosing(watched) as batches:
                    async for batch in batches:
                        pipe.send(batch)
            except MeshError as error:
                pipe.end(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, a handler must not raise it
                self._world.history.violation(f"broken: watch of {turn_id} raised {error!r}")
                pipe.end(Internal("a bug"))
            else:
                pipe.end(Unavailable("the stream ended"))

        if not api.process.is_alive:
            raise Unavailable("the replica has stopped")
        task = api.process.spawn(handle())
        try:
            yield pipe.read()
        finally:
            forget()
            task.cancel()

    def _some_api(self) -> Api:
        apis = self._world.apis
        if not apis:
            raise Unavailable("no replica is up")
        return self._chance.choice(apis)

    async def _call(self, call: Callable[[Api], Awaitable[T]]) -> T:
        api, loop, wire = self._some_api(), self._world.loop, self._world.wire
        answer: asyncio.Future[T] = loop.create_future()
        gone = Unavailable("the connection broke")
        forget = api.process.when_killed(lambda: settle(answer, None, gone))

        async def handle() -> None:
            result: T | None = None
            error: Exception | None = None
            try:
                with api.call():
                    result = await call(api)
            except MeshError as raised:
                error = raised
            except Exception as raised:  # noqa: BLE001 - whatever it is, a handler must not raise it
                self._world.history.violation(f"broken: a call raised {raised!r}")
                error = Internal("a bug")
            loop.call_later(wire.delay_s(), settle, answer, result, error, context=ROOT)

        loop.call_later(wire.delay_s(), lambda: api.process.spawn(handle()), context=ROOT)
        try:
            return await answer
        finally:
            forget()


class _Pipe:
    """Batches on their way to a client."""

    def __init__(self) -> None:
        self._batches: deque[list[TurnEvent]] = deque()
        self._error: MeshError | None = None
        self._changed = asyncio.Event()

    def send(self, batch: list[TurnEvent]) -> None:
        self._batches.append(batch)
        self._changed.set()

    def end(self, error: MeshError) -> None:
        self._error = self._error or error
        self._changed.set()

    async def read(self) -> AsyncIterator[list[TurnEvent]]:
        while True:
            while self._batches:
                yield self._batches.popleft()
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
