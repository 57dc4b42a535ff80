"""What a process looks up of many turns: each in its turn, a bounded number at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from services.conversation.asking import feeds
from services.conversation.journal.memory import MemoryJournal
from services.conversation.model import Turn, TurnId, TurnState
from services.conversation.running import worker
from services.conversation.store.turns import Progress, TurnKey
from services.conversation.store.work import Hold
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import Unavailable
from tests.support.conversation import ADA, ending
from tests.support.conversation_fakes import MemoryStops
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

TURNS = 5
AT_ONCE = 2


class Watched(MemoryStore):
    """Notes what is looked up together; `failures` looks for turns that shall stop fail."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []
        self.rounds: list[set[str]] = []
        self.failures = 0

    async def unwanted(self, holds: Sequence[Hold]) -> set[TurnId]:
        self.looks.append(len(holds))
        if self.failures:
            self.failures -= 1
            raise Unavailable
        return await super().unwanted(holds)

    async def progress(self, turns: Sequence[TurnKey]) -> dict[TurnId, Progress]:
        self.rounds.append({key.turn_id for key in turns})
        return await super().progress(turns)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(worker, "LOOK_MAX", AT_ONCE)
    monkeypatch.setattr(feeds, "LOOK_MAX", AT_ONCE)
    return Watched()


async def written(rig: Rig) -> list[Turn]:
    """Turns whose answers have begun and do not end."""
    gate = asyncio.Event()

    async def hold(_: int) -> None:
        await gate.wait()

    rig.inference.gate = hold
    turns = [await rig.ask() for _ in range(TURNS)]
    await until(lambda: rig.inference.open == TURNS)
    return turns


async def test_all_turns_are_looked_at_in_their_turn(store: Watched) -> None:
    rig = memory_rig(store)
    async with running(rig):
        turns = await written(rig)
        for turn in turns:
            await rig.turns.cancel(ADA, turn.id)

        ends = [ending(await rig.watch(turn)).state for turn in turns]

    assert ends == [TurnState.CANCELLED] * TURNS
    assert max(store.looks) == AT_ONCE


@pytest.mark.parametrize("failures", [0, 1])
async def test_a_turn_that_is_told_of_is_looked_at_before_its_turn(store: Watched, failures: int) -> None:
    rig = memory_rig(store, cancel_poll_s=3_600.0)
    rig.stops = MemoryStops()
    async with running(rig):
        turns = await written(rig)
        store.failures = failures
        await rig.turns.cancel(ADA, turns[-1].id)
        if failures:
            await until(lambda: not store.failures)
            await rig.stops.tell(turns[0].conversation_id)  # which makes it look again

        end = ending(await rig.watch(turns[-1])).state
        assert rig.inference.open == TURNS - 1

    assert end is TurnState.CANCELLED


class Looking:
    """Feeds of silent turns."""

    def __init__(self, rig: Rig, turns: Sequence[Turn]) -> None:
        self.rig, self.feeds = rig, rig.feeds
        self.ids = {turn.id for turn in turns}

    async def round(self) -> list[set[str]]:
        """What one round looks up."""
        assert isinstance(self.rig.store, Watched)
        self.rig.store.rounds.clear()
        await self.feeds.look_up()
        return list(self.rig.store.rounds)


@pytest.fixture
async def looking(store: Watched) -> AsyncIterator[Looking]:
    rig = memory_rig(store)
    turns = [await rig.ask() for _ in range(TURNS)]
    async with AsyncExitStack() as open_feeds:
        for turn in turns:
            await open_feeds.enter_async_context(rig.feeds.feed(TurnKey(ADA.organization_id, turn.id), 0))
        looking = Looking(rig, turns)
        assert await looking.round() == []  # they may just have been told of
        yield looking


async def test_silent_turns_are_looked_up_in_their_turn(looking: Looking) -> None:
    rounds = [await looking.round() for _ in range(TURNS)]

    assert [len(looked) for looked in rounds] == [1] * TURNS
    found = [turn_id for (together,) in rounds for turn_id in together]
    assert len(found) == TURNS * AT_ONCE
    assert {turn_id: found.count(turn_id) for turn_id in looking.ids} == dict.fromkeys(looking.ids, AT_ONCE)


async def test_all_silent_turns_are_looked_up_while_the_journal_is_away(looking: Looking) -> None:
    journal = looking.rig.journal
    assert isinstance(journal, MemoryJournal)
    journal.is_away = True
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(looking.feeds._read())
        await until(lambda: looking.feeds._is_deaf)
        deaf = await looking.round()
        journal.is_away = False
        await until(lambda: not looking.feeds._is_deaf)
        reading.cancel()

    assert set().union(*deaf) == looking.ids
    assert sum(map(len, deaf)) == TURNS
    assert len(await looking.round()) == 1
