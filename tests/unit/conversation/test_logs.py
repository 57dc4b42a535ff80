"""What the log tells of an attempt that ended without an answer: enough to explain it, and nothing that was said."""

from collections.abc import AsyncIterator, Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from services.conversation.model import TurnState
from services.conversation.store_memory import MemoryStore
from services.mesh.clock import ManualClock
from services.mesh.errors import ContentFiltered, RetrievalUnavailable, Unavailable
from tests.support.conversation import ADA
from tests.support.conversation_fakes import Stop
from tests.support.conversation_rig import Rig, memory_rig, running
from tests.support.waiting import until

LEASE_S = 30.0


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with capture_logs() as captured:
        yield captured


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = memory_rig(MemoryStore())
    async with running(rig):
        yield rig


def told(lines: list[EventDict], event: str, *names: str) -> list[tuple[object, ...]]:
    return [tuple(line[name] for name in names) for line in lines if line["event"] == event]


async def test_an_interrupted_attempt_tells_what_it_met(rig: Rig, lines: list[EventDict]) -> None:
    async def fail_once(index: int) -> None:
        if index == 2 and rig.inference.starts == 1:
            raise Unavailable("the model hung up", retry_after_s=0.1)

    rig.inference.gate = fail_once
    turn = await rig.ask()
    await rig.watch(turn)

    (line,) = told(
        lines, "turn_interrupted", "turn_id", "attempt", "fence", "stage", "reason", "problem", "retry_after_s"
    )
    assert line == (turn.id, 1, 1, "answer", "UNAVAILABLE", "the model hung up", 0.1)
    await until(lambda: told(lines, "turn_ended"))
    assert told(lines, "turn_released", "turn_id", "attempt", "fence", "spent") == [(turn.id, 1, 1, True)]
    assert told(lines, "turn_taken_over", "attempt", "fence", "journal") == [(2, 2, "whole")]
    assert told(lines, "turn_ended", "attempt", "fence", "state", "reason") == [(2, 2, "completed", "stop")]


async def test_a_failed_turn_tells_the_stage_and_the_reason(rig: Rig, lines: list[EventDict]) -> None:
    async def refuse(_index: int) -> None:
        raise ContentFiltered("no")

    rig.inference.gate = refuse
    turn = await rig.ask()
    await rig.watch(turn)

    (line,) = told(lines, "turn_failed", "turn_id", "attempt", "fence", "stage", "reason", "told")
    assert line == (turn.id, 1, 1, "answer", "CONTENT_FILTERED", "CONTENT_FILTERED")


async def test_a_turn_that_broke_off_too_often_tells_its_last_cause(lines: list[EventDict]) -> None:
    rig = memory_rig(MemoryStore(), attempts_max=1)

    async def fail(_index: int) -> None:
        raise Unavailable("the model hung up")

    rig.inference.gate = fail
    async with running(rig):
        await rig.watch(await rig.ask())

    (line,) = told(lines, "turn_failed", "reason", "problem", "told")
    assert line == ("UNAVAILABLE", "the model hung up", "UNAVAILABLE")


async def test_a_failed_search_is_told_as_one(rig: Rig, lines: list[EventDict]) -> None:
    rig.retrieval.failure = RetrievalUnavailable("the knowledge base cannot be searched now")
    await rig.watch(await rig.ask(knowledge_base_id="kb_1"))

    assert {line["stage"] for line in lines if line["event"] in ("turn_failed", "turn_interrupted")} == {"search"}


async def test_a_drained_worker_tells_what_it_hands_back(lines: list[EventDict]) -> None:
    rig = memory_rig(MemoryStore())
    rig.inference.gate = stop = Stop(before=2)
    async with running(rig) as worker:
        turn = await rig.ask()
        await stop.reached.wait()
        await worker.drain()

    assert told(lines, "turn_released", "turn_id", "attempt", "fence", "spent") == [(turn.id, 1, 1, False)]


async def test_a_turn_whose_worker_died_is_told_with_the_attempt_that_died(lines: list[EventDict]) -> None:
    clock = ManualClock()
    rig = memory_rig(MemoryStore(clock), lease_s=LEASE_S)
    rig.inference.gate = stop = Stop(before=2)
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
    clock.advance(LEASE_S + 1)

    await rig.reaper.reap()

    assert told(lines, "turn_lapsed", "turn_id", "attempt", "fence") == [(turn.id, 1, 1)]


async def test_a_worker_that_lost_its_turn_tells_what_told_it(lines: list[EventDict]) -> None:
    rig = memory_rig(MemoryStore())
    stop, silence = Stop(before=2), Stop(before=3)

    async def answer(index: int) -> None:
        await stop(index)
        await silence(index)

    rig.inference.gate = answer
    async with running(rig):
        turn = await rig.ask()
        await stop.reached.wait()
        await rig.journal.seize(turn.id, 2)
        stop.opened.set()
        await until(lambda: told(lines, "turn_lost"))

    assert told(lines, "turn_lost", "turn_id", "attempt", "fence", "by") == [(turn.id, 1, 1, "journal")]


async def test_no_line_holds_a_word_of_the_conversation(rig: Rig, lines: list[EventDict]) -> None:
    async def fail_once(index: int) -> None:
        if index == 2 and rig.inference.starts == 1:
            raise Unavailable("the model hung up")

    rig.inference.words = ["heron", " heron", " heron"]
    rig.inference.gate = fail_once
    turn = await rig.ask("Where is the heron?")
    await rig.watch(turn)

    assert (await rig.store.turn(ADA, turn.id)).state is TurnState.COMPLETED
    assert "heron" not in repr(lines)
    assert turn.conversation_id not in repr(lines)
