"""People: they ask, watch, lose their connection, come back elsewhere, repeat their calls, and change their mind."""

import asyncio
import random
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.conversation.asking.actions import Action, Continue, Edit, NewQuestion, Regenerate
from services.conversation.asking.turns import Ask
from services.conversation.events import BrokenSequenceError, TurnFinished
from services.conversation.model import (
    ConversationId,
    ConversationSettings,
    FinishReason,
    OnConflict,
    Repeat,
    Turn,
    TurnOverrides,
    TurnState,
)
from services.mesh.errors import MeshError, NotFound, TurnAlreadyRunning, Unavailable
from tests.simulation.client import Client
from tests.simulation.history import Asked, Kind, Talk, Viewed
from tests.simulation.world import Api, World
from tests.support.conversation import ADA

KINDS: Final = (
    *(Kind.NEW,) * 12,
    *(Kind.EDIT,) * 3,
    *(Kind.REGENERATE,) * 3,
    *(Kind.BRANCH,) * 2,
)
WHILE_BUSY: Final = (*(OnConflict.QUEUE,) * 5, *(OnConflict.CANCEL_RUNNING,) * 3, *(OnConflict.REJECT,) * 2)
WHILE_IDLE: Final = (*(OnConflict.REJECT,) * 8, OnConflict.QUEUE, OnConflict.CANCEL_RUNNING)
REPEATS: Final = 0.1
"""Share of calls that are made once more after they were answered."""
MENDS: Final = 0.6
"""Share of broken answers that are gone on with, or wanted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What people of a run tend to; probabilities.

    Attributes:
        leaves: per batch of events, that the connection breaks.
        cancels: per question, a change of mind.
        hurries: per question, that the next one does not wait for the answer.
        limits: per question, that it may take a few seconds only.
        deletes: per question, that the conversation is deleted soon after.
    """

    leaves: float
    cancels: float
    hurries: float
    limits: float
    deletes: float

    @classmethod
    def by(cls, chance: random.Random) -> "Habits":
        """Those of one run: each is also met without the others."""
        return cls(
            leaves=chance.choice((0.0, 0.05, 0.3)),
            cancels=chance.choice((0.0, 0.2)),
            hurries=chance.choice((0.0, 0.3, 0.7)),
            limits=chance.choice((0.0, 0.4)),
            deletes=chance.choice((0.0, 0.15)),
        )


class Person:
    """Someone with a conversation, and another one when that is deleted.

    Args:
        world: where.
        number: of the person, who also has a seed of one's own.
        habits: of the person.
    """

    def __init__(self, world: World, number: int, habits: Habits) -> None:
        self._world = world
        self._history = world.history
        self._chance = random.Random(world.chance.random())
        self._client = Client(world, self._chance)
        self._number = number
        self._habits = habits
        self._calls = 0

    async def converse(self, questions: int) -> None:
        """Asks so many questions, each when the answer before is complete, or sooner."""
        await asyncio.sleep(self._chance.uniform(0.0, 8.0))
        talk = await self._begin()
        async with asyncio.TaskGroup() as meanwhile:
            for _ in range(questions):
                asked = self._idea(talk)
                if await self._ask(asked):
                    await self._follow(asked, meanwhile)
                await asyncio.sleep(self._chance.uniform(0.0, 2.0))
                if talk.wants_delete and self._chance.random() < 0.5:
                    talk = await self._begin()

    async def _begin(self) -> Talk:
        settings = ConversationSettings(knowledge_base_id=self._chance.choice(("", "kb_1")))
        repeat = self._repeat("CreateConversation")
        conversation = await self._client.insist(lambda api: api.conversations.create(ADA, settings, (), repeat=repeat))
        return Talk(conversation.id)

    def _idea(self, talk: Talk) -> Asked:
        """What to ask next."""
        chance = self._chance
        known = [asked for asked in talk.asked if asked.turn is not None]
        is_busy = any(asked.finished is None for asked in known)
        broken = [asked for asked in known if _is_broken(asked)]
        kind, target = Kind.NEW, None
        if broken and chance.random() < MENDS:
            target = chance.choice(broken)
            has_failed = target.finished is not None and target.finished.state is TurnState.FAILED
            kind = Kind.RETRY if has_failed and chance.random() < 0.6 else Kind.CONTINUE
        elif known:
            kind = chance.choice(KINDS)
            target = chance.choice(known) if kind is not Kind.NEW else None
        call = self._next_call()
        asked = Asked(
            request_id=call,
            talk=talk,
            kind=kind,
            question=call if target is None or kind.brings_question else target.question,
            target=target,
            on_conflict=chance.choice(WHILE_BUSY if is_busy else WHILE_IDLE),
            time_s=chance.uniform(0.3, 8.0)
            if kind is not Kind.RETRY and chance.random() < self._habits.limits
            else None,
        )
        self._history.asked[asked.request_id] = asked
        talk.asked.append(asked)
        return asked

    async def _ask(self, asked: Asked) -> bool:
        """Whether there is a turn now."""
        began_s = self._world.loop.time()
        try:
            asked.turn = await self._client.insist(partial(_call, asked))
            if self._chance.random() < REPEATS:
                again = await self._client.insist(partial(_call, asked))
                if again.id != asked.turn.id:
                    self._history.violation(f"accepted twice: {asked.request_id} is {asked.turn.id} and {again.id}")
        except TurnAlreadyRunning:
            asked.refused_s = (began_s, self._world.loop.time())
        except MeshError as error:
            if not (isinstance(error, NotFound) and asked.talk.wants_delete):
                self._history.violation(f"refused: {asked.request_id} got {error!r}")
        if asked.turn is None:
            return False
        what = asked.kind if asked.target is None else f"{asked.kind} {asked.target.request_id}"
        self._history.note(f"accepted {asked.request_id} {asked.turn.id[-4:]} {what}, {asked.on_conflict}")
        return True

    async def _follow(self, asked: Asked, meanwhile: asyncio.TaskGroup) -> None:
        """Watches the answer, perhaps while other things happen."""
        assert asked.turn is not None
        chance, habits = self._chance, self._habits
        if not asked.talk.wants_delete and chance.random() < habits.deletes:
            meanwhile.create_task(self._delete(asked.talk))
        if chance.random() < habits.cancels:
            meanwhile.create_task(self._cancel(asked, asked.turn))
        watchers = [
            meanwhile.create_task(self._watch(asked, asked.turn, chance.choice((0.0, 0.0, 0.0, 0.0, 5.0, 14.0))))
            for _ in range(chance.randint(1, 2))
        ]
        if chance.random() >= habits.hurries:
            await asyncio.wait(watchers)

    async def _cancel(self, asked: Asked, turn: Turn) -> None:
        await asyncio.sleep(self._chance.choice((0.0, 0.1, 1.0, 5.0)))
        asked.wants_cancel = True
        try:
            await self._client.insist(lambda api: api.turns.cancel(ADA, turn.id))
        except NotFound as error:
            self._lost(asked, f"cancel of {asked.request_id}", error)
        else:
            asked.cancelled_s = self._world.loop.time()

    async def _delete(self, talk: Talk) -> None:
        await asyncio.sleep(self._chance.choice((0.0, 0.5, 3.0)))
        talk.wants_delete = True
        try:
            await self._client.insist(lambda api: api.conversations.delete(ADA, talk.id))
        except NotFound:
            if talk.id not in self._history.deleted:
                self._history.violation(f"lost: {talk.id} had gone before it was deleted")

    async def _watch(self, asked: Asked, turn: Turn, later_s: float) -> None:
        await asyncio.sleep(later_s)
        view = Viewed(turn.id)
        asked.views.append(view)
        while view.last is None:
            try:
                await self._look(view)
            except Unavailable:
                pass
            except NotFound as error:
                view.is_gone = True
                self._lost(asked, f"watch of {asked.request_id}", error)
                return
            except (MeshError, BrokenSequenceError) as error:
                at = view.draft.last_sequence
                self._history.violation(f"watch: {asked.request_id} at {at} got {error!r}")
                return
            await self._client.pause()

    async def _look(self, view: Viewed) -> None:
        """One connection."""
        async with self._client.stream(view.turn_id, view.draft.last_sequence) as batches:
            async for batch in batches:
                view.shown_s = self._world.loop.time()
                for event in batch:
                    view.draft.apply(event)
                    view.events.append(event)
                    if isinstance(event.payload, TurnFinished):
                        view.last = event
                        return
                if self._chance.random() < self._habits.leaves:
                    return

    def _lost(self, asked: Asked, what: str, error: NotFound) -> None:
        if asked.talk.id not in self._history.deleted:
            self._history.violation(f"lost: {what} got {error!r}")

    def _next_call(self) -> str:
        self._calls += 1
        return f"q{self._number}.{self._calls}"

    def _repeat(self, method: str) -> Repeat:
        call = self._next_call()
        return Repeat(method=method, request_id=call, body_hash=call.encode())


def _is_broken(asked: Asked) -> bool:
    """Whether an answer can be gone on with."""
    end = asked.finished
    if end is None or end.message is None:
        return False
    return end.state is not TurnState.COMPLETED or end.message.finish_reason is FinishReason.LENGTH


async def _call(asked: Asked, api: Api) -> Turn:
    repeat = Repeat(method="CreateTurn", request_id=asked.request_id, body_hash=asked.request_id.encode())
    if asked.kind is Kind.RETRY:
        return await api.turns.retry(ADA, _target(asked).id, on_conflict=asked.on_conflict, repeat=repeat)
    ask = Ask(
        conversation_id=ConversationId(asked.talk.id),
        action=_action(asked),
        overrides=TurnOverrides(),
        on_conflict=asked.on_conflict,
        time_s=asked.time_s,
    )
    return await api.turns.create(ADA, ask, repeat=repeat)


def _action(asked: Asked) -> Action:
    match asked.kind:
        case Kind.NEW:
            return NewQuestion(asked.question, None)
        case Kind.BRANCH:
            return NewQuestion(asked.question, _target(asked).assistant_message_id)
        case Kind.EDIT:
            return Edit(_target(asked).user_message_id, asked.question)
        case Kind.CONTINUE:
            return Continue(_target(asked).assistant_message_id)
        case _:
            return Regenerate(_target(asked).assistant_message_id)


def _target(asked: Asked) -> Turn:
    """The turn that it speaks of."""
    assert asked.target is not None
    assert asked.target.turn is not None
    return asked.target.turn
