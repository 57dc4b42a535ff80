"""A reader who leaves frees the provider's connection in every phase, and nobody else is asked for them."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from services.inference.generating.course import Tactics
from services.inference.generating.generator import Generator
from services.inference.generating.retries import Patience
from services.inference.model import Event, Generation, TextDelta
from services.inference.standing.standings import Standings
from tests.faults.matrix import VENDORS, Case, Stage, staged
from tests.support.inference import prompt
from tests.support.provider_double import Fault
from tests.support.waiting import until

OTHER = {"openai": "anthropic", "anthropic": "openai"}
WISH = Generation(prompt=prompt(), model="smart")


def calls(stage: Stage) -> int:
    return len(stage.first.seen) + len(stage.second.seen)


async def read(generator: Generator, seen: list[Event]) -> None:
    async with aclosing(generator.stream(WISH)) as events:
        async for event in events:
            seen.append(event)  # noqa: PERF401 - those before the reader leaves are wanted


async def left(reading: "asyncio.Task[None]", stage: Stage) -> None:
    """The reader leaves; the double sees the end of its connection."""
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: stage.first.open_requests == 0, within_s=60)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("fault", [Fault.SILENCE, Fault.SLOW_START, Fault.STALL])
async def test_reader_who_leaves_frees_the_connection(vendor: str, fault: Fault, tmp_path: Path) -> None:
    case = Case(name="leaving", fault=fault, is_patient=True)
    async with staged(case, (vendor, OTHER[vendor]), tmp_path) as stage:
        seen: list[Event] = []
        reading = asyncio.create_task(read(stage.generator, seen))
        is_there: Callable[[], object] = (
            (lambda: any(isinstance(event, TextDelta) for event in seen))
            if fault is Fault.STALL
            else (lambda: stage.first.open_requests == 1)
        )
        await until(is_there, within_s=60)

        await left(reading, stage)

        assert calls(stage) == 1


@pytest.mark.parametrize("vendor", VENDORS)
async def test_caller_of_a_whole_answer_who_leaves_frees_the_connection(vendor: str, tmp_path: Path) -> None:
    case = Case(name="leaving", fault=Fault.SILENCE, is_patient=True)
    async with staged(case, (vendor, OTHER[vendor]), tmp_path) as stage:
        call = asyncio.create_task(stage.generator.answer(WISH))
        await until(lambda: stage.first.open_requests == 1, within_s=60)

        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        await until(lambda: stage.first.open_requests == 0, within_s=60)
        assert calls(stage) == 1


async def test_reader_who_leaves_between_two_tries_starts_no_further_call(tmp_path: Path) -> None:
    patience = Patience(base_s=600, pause_s_max=600)
    async with staged(Case(name="leaving", fault=Fault.SERVER_ERROR), VENDORS, tmp_path) as stage:
        standings = Standings()
        generator = Generator(
            stage.router,
            total_s=900.0,
            context_tokens_assumed=32_768,
            tactics=Tactics(standings=standings, patience=patience, chance=lambda: 1.0),
        )
        reading = asyncio.create_task(read(generator, []))
        # The failure is remembered before the pause begins.
        await until(lambda: any(circuit.averages.failures for circuit in standings.circuits()), within_s=60)

        await left(reading, stage)

        assert calls(stage) == 1


async def test_reader_who_leaves_while_another_target_goes_on_frees_that_connection(tmp_path: Path) -> None:
    async with staged(Case(name="leaving", fault=Fault.CUT), VENDORS, tmp_path) as stage:
        stage.second.fault, stage.second.after = Fault.STALL, 0
        reading = asyncio.create_task(read(stage.generator, []))
        await until(lambda: stage.second.open_requests == 1, within_s=60)

        await left(reading, stage)

        await until(lambda: stage.second.open_requests == 0, within_s=60)
        assert calls(stage) == 2


async def test_nothing_counts_as_under_way_once_the_reader_has_left(tmp_path: Path) -> None:
    async with staged(Case(name="leaving", fault=Fault.STALL, is_patient=True), VENDORS, tmp_path) as stage:
        standings = Standings()
        generator = Generator(
            stage.router, total_s=900.0, context_tokens_assumed=32_768, tactics=Tactics(standings=standings)
        )
        reading = asyncio.create_task(read(generator, []))
        await until(lambda: stage.first.open_requests == 1, within_s=60)

        await left(reading, stage)

        assert [circuit.averages.in_flight for circuit in standings.circuits()] == [0]
        assert [key.line.in_use for key in stage.router.book.sources["first"].keys] == [0]
