"""Turns that meet one that has not ended, as workers and watchers see them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.conversation.asking.actions import NewQuestion, Regenerate
from services.conversation.model import OnConflict, TurnState
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from tests.support.conversation import ADA, ending, text_of
from tests.support.conversation_fakes import MemoryStops, Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until


@asynccontextmanager
async def relaying(rig: Rig) -> AsyncIterator[None]:
    """A relay that looks by itself, as the API's does."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.relay.run())
        try:
            yield
        finally:
            task.cancel()


@pytest.fixture
async def at_work() -> AsyncIterator[Rig]:
    rig = memory_rig(MemoryStore())
    async with running(rig), relaying(rig):
        yield rig


async def test_questions_that_queue_are_answered_in_turn_each_with_those_before(at_work: Rig) -> None:
    at_work.inference.gate = stop = Stop(before=1)
    first = await at_work.ask("one")
    await stop.reached.wait()
    following = [
        await at_work.act(first.conversation_id, NewQuestion(text, None), on_conflict=OnConflict.QUEUE)
        for text in ("two", "three")
    ]

    stop.opened.set()
    events = [await at_work.watch(turn) for turn in (first, *following)]

    assert [ending(each).state for each in events] == [TurnState.COMPLETED] * 3
    prompts = [[m.text for m in request.messages] for _, request in at_work.inference.requests]
    answer = "Ada wrote notes."
    assert prompts == [["one"], ["one", answer, "two"], ["one", answer, "two", answer, "three"]]


async def test_a_turn_that_cancels_runs_when_the_other_has_stopped(at_work: Rig) -> None:
    at_work.inference.gate = stop = Stop(before=2)
    first = await at_work.ask("one")
    await stop.reached.wait()
    at_work.inference.gate = None

    second = await at_work.act(first.conversation_id, NewQuestion("two", None), on_conflict=OnConflict.CANCEL_RUNNING)
    seen, events = await at_work.watch(first), await at_work.watch(second)

    assert (ending(seen).state, text_of(seen)) == (TurnState.CANCELLED, "Ada wrote")
    assert (ending(events).state, text_of(events)) == (TurnState.COMPLETED, "Ada wrote notes.")
    assert [m.text for m in at_work.inference.requests[-1][1].messages] == ["one", "Ada wrote", "two"]


async def test_an_answer_under_way_is_stopped_and_written_anew(at_work: Rig) -> None:
    at_work.inference.gate = stop = Stop(before=1)
    first = await at_work.ask("one")
    await stop.reached.wait()
    at_work.inference.gate = None

    again = await at_work.act(
        first.conversation_id, Regenerate(first.assistant_message_id), on_conflict=OnConflict.CANCEL_RUNNING
    )

    assert text_of(await at_work.watch(again)) == "Ada wrote notes."
    assert (await at_work.store.message(ADA, again.assistant_message_id)).parent_id == first.user_message_id
    assert (await at_work.store.turn(ADA, first.id)).state is TurnState.CANCELLED


async def test_watchers_of_a_turn_that_waits_see_it_cancelled(at_work: Rig) -> None:
    at_work.inference.gate = Stop(before=1)
    first = await at_work.ask()
    second = await at_work.act(first.conversation_id, NewQuestion("two", None), on_conflict=OnConflict.QUEUE)
    async with asyncio.TaskGroup() as group:
        watched = group.create_task(at_work.watch(second))
        await at_work.turns.cancel(ADA, second.id)

    (finished,) = watched.result()
    assert (finished.sequence, ending([finished]).state) == (1, TurnState.CANCELLED)


async def test_the_next_turn_is_relayed_as_soon_as_the_one_before_has_ended() -> None:
    rig = memory_rig(MemoryStore())
    relayed = asyncio.Event()
    rig.hint = relayed.set
    first = await rig.ask()
    await rig.act(first.conversation_id, NewQuestion("two", None), on_conflict=OnConflict.QUEUE)
    async with running(rig):
        await relayed.wait()


async def test_a_turn_that_nobody_answered_in_its_time_lets_the_next_one_have_its_own() -> None:
    clock = ManualClock()
    rig = memory_rig(MemoryStore(clock), turn_s_max=60.0)
    first = await rig.ask("one")
    second = await rig.act(first.conversation_id, NewQuestion("two", None), on_conflict=OnConflict.QUEUE)
    clock.advance(61.0)

    await rig.reaper.reap()
    states = [(await rig.store.turn(ADA, turn.id)).state for turn in (first, second)]
    clock.advance(59.0)
    await rig.reaper.reap()
    async with running(rig), relaying(rig):
        await until(lambda: rig.inference.starts == 1, within_s=5.0)
        events = await rig.watch(second)

    assert states == [TurnState.FAILED, TurnState.QUEUED]
    assert ending(events).state is TurnState.COMPLETED


async def test_a_hint_alone_stops_the_answer_that_is_cancelled() -> None:
    rig = memory_rig(MemoryStore(), cancel_poll_s=3_600.0)
    rig.stops, rig.inference.gate = MemoryStops(), (stop := Stop(before=2))
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()

        await rig.turns.cancel(ADA, turn.id)

        await until(lambda: rig.inference.open == 0, within_s=60.0)
        assert ending(await rig.watch(turn)).state is TurnState.CANCELLED


async def test_a_hint_alone_stops_the_answer_that_another_turn_cancels() -> None:
    rig = memory_rig(MemoryStore(), cancel_poll_s=3_600.0)
    rig.stops, rig.inference.gate = MemoryStops(), (stop := Stop(before=2))
    async with running(rig), relaying(rig):
        first = await rig.ask()
        await stop.reached.wait()
        rig.inference.gate = None

        second = await rig.act(first.conversation_id, NewQuestion("two", None), on_conflict=OnConflict.CANCEL_RUNNING)

        assert ending(await rig.watch(second)).state is TurnState.COMPLETED
        assert (await rig.store.turn(ADA, first.id)).state is TurnState.CANCELLED


async def test_a_turn_is_cancelled_while_hints_cannot_be_given() -> None:
    class Away(MemoryStops):
        async def tell(self, conversation_id: str) -> None:
            raise Unavailable

        async def wait(self, *, wait_s: float) -> set[str]:
            raise Unavailable

    rig = memory_rig(MemoryStore())
    rig.stops, rig.inference.gate = Away(), (stop := Stop(before=2))
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()

        await rig.turns.cancel(ADA, turn.id)

        assert ending(await rig.watch(turn)).state is TurnState.CANCELLED


async def test_a_hint_about_others_stops_nothing() -> None:
    rig = memory_rig(MemoryStore(), cancel_poll_s=3_600.0)
    rig.stops, rig.inference.gate = stops, stop = MemoryStops(), Stop(before=2)
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
        for conversation_id in ("conv_other", turn.conversation_id):  # nobody has cancelled either of them
            await stops.tell(conversation_id)
        stop.opened.set()

        assert ending(await rig.watch(turn)).state is TurnState.COMPLETED


async def test_a_turn_that_the_release_before_left_waiting_is_answered(at_work: Rig) -> None:
    at_work.inference.gate = stop = Stop(before=1)
    first = await at_work.ask("one")
    await stop.reached.wait()
    second = await at_work.act(first.conversation_id, NewQuestion("two", None), on_conflict=OnConflict.QUEUE)
    store = at_work.store
    assert isinstance(store, MemoryStore)
    store._change(store.tables.turns[first.id], state=TurnState.COMPLETED)  # and nothing else, as that one did
    stop.opened.set()

    await at_work.reaper.reap()

    assert ending(await at_work.watch(second)).state is TurnState.COMPLETED
