"""People: they ask, watch, lose their connection, come back elsewhere, repeat their calls, and change their mind."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final, TypeVar

from services.conversation.actions import NewQuestion
from services.conversation.events import BrokenSequenceError, TurnEvent, TurnFinished
from services.conversation.model import ConversationId, ConversationSettings, Repeat, Turn, TurnOverrides
from services.conversation.store import NewConversation
from services.conversation.turns import Ask
from services.mesh.errors import Internal, MeshError, Unavailable
from tests.simulation.history import Asked, Viewed
from tests.simulation.loop import ROOT
from tests.simulation.wire import settle
from tests.simulation.world import Api, World
from tests.support.conversation import ADA

T = TypeVar("T")
PAUSE_S: Final = 0.3
ANSWER_S_MAX: Final = 15.0
"""How long a person waits for a reply before asking again."""


class Person:
    """Someone with one conversation.

    Args:
        world: where.
        number: of the person, who also has a seed of one's own.
        leaves: probability per batch of events that the connection breaks.
        cancels: probability per question of a change of mind.
    """

    def __init__(self, world: World, number: int, *, leaves: float, cancels: float) -> None:
        self._world = world
        self._chance = random.Random(world.chance.random())
        self._number = number
        self._leaves = leaves
        self._cancels = cancels

    async def converse(self, questions: int) -> None:
        """Asks one question after the other, each when the answer before is complete."""
        await asyncio.sleep(self._chance.uniform(0.0, 8.0))
        settings = ConversationSettings(knowledge_base_id=self._chance.choice(("", "kb_1")))
        conversation_id = ConversationId(self._world.ids("conv"))
        await self._world.servers.store.create_conversation(
            NewConversation(owner=ADA, id=conversation_id, settings=settings)
        )
        for number in range(questions):
            asked = Asked(f"q{self._number}.{number}", conversation_id)
            self._world.history.asked.append(asked)
            try:
                await self._ask_and_watch(asked)
            except MeshError as error:
                self._world.history.violation(f"refused: {asked.question} got {error!r}")
                return
            await asyncio.sleep(self._chance.uniform(0.0, 2.0))

    async def _ask_and_watch(self, asked: Asked) -> None:
        turn = await self._insist(lambda api: api.turns.create(ADA, _ask(asked), repeat=_repeat(asked)))
        asked.turn, asked.accepted_s = turn, self._world.loop.time()
        self._world.history.note(f"accepted {asked.question} {turn.id[-4:]}")
        async with asyncio.TaskGroup() as group:
            for _ in range(self._chance.randint(1, 2)):
                group.create_task(self._watch(asked, turn, self._chance.choice((0.0, 0.0, 0.0, 0.0, 5.0, 14.0))))
            if self._chance.random() < self._cancels:
                group.create_task(self._cancel(asked, turn))

    async def _cancel(self, asked: Asked, turn: Turn) -> None:
        await asyncio.sleep(self._chance.choice((0.0, 0.1, 1.0, 5.0)))
        asked.wants_cancel = True
        await self._insist(lambda api: api.turns.cancel(ADA, turn.id))
        asked.cancelled_s = self._world.loop.time()

    async def _watch(self, asked: Asked, turn: Turn, later_s: float) -> None:
        await asyncio.sleep(later_s)
        view = Viewed(turn.id)
        asked.views.append(view)
        while view.last is None:
            try:
                await self._look(view)
            except Unavailable:
                pass
            except MeshError as error:
                self._world.history.violation(f"watch: {asked.question} at {view.draft.last_sequence} got {error!r}")
                return
            except BrokenSequenceError as error:
                self._world.history.violation(f"watch: {asked.question} saw {error}")
                return
            await asyncio.sleep(self._chance.uniform(0.0, PAUSE_S))

    async def _look(self, view: Viewed) -> None:
        """One connection."""
        async with self._stream(view.turn_id, view.draft.last_sequence) as batches:
            async for batch in batches:
                for event in batch:
                    view.draft.apply(event)
                    view.events.append(event)
                    if isinstance(event.payload, TurnFinished):
                        view.last = event
                        return
                if self._chance.random() < self._leaves:
                    return

    async def _insist(self, call: Callable[[Api], Awaitable[T]]) -> T:
        """Repeats a call until it is answered."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    return await self._call(call)
            except (Unavailable, TimeoutError):
                self._world.history.refused += 1
                await asyncio.sleep(self._chance.uniform(0.0, PAUSE_S))

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

    @asynccontextmanager
    async def _stream(self, turn_id: str, after: int) -> AsyncIterator[AsyncIterator[list[TurnEvent]]]:
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


def _ask(asked: Asked) -> Ask:
    return Ask(
        conversation_id=asked.conversation_id, action=NewQuestion(asked.question, None), overrides=TurnOverrides()
    )


def _repeat(asked: Asked) -> Repeat:
    return Repeat(method="CreateTurn", request_id=asked.question, body_hash=asked.question.encode())
