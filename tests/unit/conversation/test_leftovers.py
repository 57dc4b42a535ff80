"""Nothing of a deleted conversation stays in Valkey, and its answer stops, whatever was away at the delete."""

import asyncio
from dataclasses import replace

import pytest

from services.conversation.asking.conversations import Conversations
from services.conversation.asking.references import References
from services.conversation.history.branches import Branch, History
from services.conversation.journal.memory import MemoryJournal
from services.conversation.model import ConversationId, Owner, Role
from services.conversation.ports import PromptMessage
from services.conversation.running.leftovers import SETTLED_S, Sweeper
from services.conversation.running.stops import Signals
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from services.mesh.ids import new_id
from tests.support.conversation import ADA
from tests.support.conversation_fakes import MemoryHistoryCache, MemoryStops, Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

BRANCH = Branch("msg_1", (PromptMessage(Role.USER, "A secret."),))


class SlowCache(MemoryHistoryCache):
    """A cache whose writers stand still for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.opened, self.done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def put(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> bool:
        self.reached.set()
        await self.opened.wait()
        try:
            return await super().put(owner, conversation_id, branch)
        finally:
            self.done.set()


class FickleCache(MemoryHistoryCache):
    """A cache that can be away."""

    is_away = False

    async def drop(self, owner: Owner, conversation_id: str) -> None:
        if self.is_away:
            raise Unavailable
        await super().drop(owner, conversation_id)


def conversations(rig: Rig) -> Conversations:
    history = History(rig.store, rig.cache, messages_max=0)
    references = References(rig.knowledge_bases, rig.prompts, rig.store)
    return Conversations(rig.store, rig.journal, history, references, Signals(rig.relay, rig.stops), new_id=new_id)


def sweeper(rig: Rig) -> Sweeper:
    return Sweeper(rig.store, rig.cache, rig.journal)


async def test_what_could_not_be_dropped_is_dropped_later() -> None:
    clock = ManualClock()
    rig = memory_rig(MemoryStore(clock))
    rig.cache = cache = FickleCache()
    async with running(rig):
        turn = await rig.ask()
        await rig.watch(turn)
    journal = rig.journal
    assert isinstance(journal, MemoryJournal)
    cache.is_away = journal.is_away = True

    await conversations(rig).delete(ADA, turn.conversation_id)
    clock.advance(SETTLED_S)
    with pytest.raises(Unavailable):
        await sweeper(rig).sweep()
    assert cache.branches

    cache.is_away = journal.is_away = False
    await sweeper(rig).sweep()

    assert not cache.branches
    assert await journal.read(turn.id, after=0, limit=10) == []


async def test_what_is_put_there_while_the_conversation_is_deleted_is_dropped_once_more() -> None:
    clock = ManualClock()
    rig = memory_rig(MemoryStore(clock))
    turn = await rig.ask()
    await conversations(rig).delete(ADA, turn.conversation_id)
    conversation_id = ConversationId(turn.conversation_id)
    mark = (await rig.cache.get(ADA, conversation_id)).mark
    assert await rig.cache.put(ADA, conversation_id, replace(BRANCH, mark=mark))

    await sweeper(rig).sweep()
    assert rig.cache.branches
    clock.advance(SETTLED_S)
    await sweeper(rig).sweep()

    assert not rig.cache.branches


async def test_a_worker_that_stood_still_while_all_was_dropped_puts_nothing_back() -> None:
    clock = ManualClock()
    rig = memory_rig(MemoryStore(clock))
    rig.cache = cache = SlowCache()
    async with running(rig):
        turn = await rig.ask()
        await cache.reached.wait()
        await conversations(rig).delete(ADA, turn.conversation_id)
        clock.advance(SETTLED_S)
        await sweeper(rig).sweep()

        cache.opened.set()
        await cache.done.wait()

    assert not cache.branches


async def test_a_hint_alone_stops_the_answer_of_a_deleted_conversation() -> None:
    rig = memory_rig(MemoryStore(), cancel_poll_s=600.0)
    rig.stops = MemoryStops()
    rig.inference.gate = stop = Stop(before=2)
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()

        await conversations(rig).delete(ADA, turn.conversation_id)

        await until(lambda: rig.inference.open == 0, within_s=60.0)
