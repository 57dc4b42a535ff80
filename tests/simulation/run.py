"""One seed, from the start of a deployment to its judgement."""

import asyncio
import gc
import logging
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from structlog.typing import EventDict

from tests.simulation.check import Watch, judge
from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.nemesis import KINDS, Nemesis
from tests.simulation.people import Person
from tests.simulation.world import LEASE_S, TURN_S_MAX, World

RAGE_S: Final = 24.0
PEOPLE: Final = 5
END_S_MAX: Final = RAGE_S + 5 * 3 * LEASE_S + 2 * TURN_S_MAX
"""Virtual seconds by which everybody must have every answer: faults that last, then two questions' full time."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a seed came to.

    Attributes:
        violations: empty when all is well.
        trace: what happened, line by line; two runs of a seed have the same.
    """

    seed: int
    kind: str
    violations: list[str]
    faults: dict[str, int]
    turns: int
    takeovers: int
    steps: int
    virtual_s: float
    recovery_s: float
    trace: list[str]


def simulate(seed: int, changed: Callable[[], AbstractContextManager[object]] = nullcontext) -> Result:
    """Runs a seed; `changed` breaks the program on purpose while it runs."""
    chance = random.Random(seed)
    loop = VirtualLoop(chance)
    errors: list[str] = []
    structlog.configure(
        processors=[partial(_collect, errors)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    gc_was_on = gc.isenabled()
    gc.disable()  # what it finalizes, and when, is no part of a seed
    try:
        with changed():
            return _simulate(seed, loop, chance, errors)
    finally:
        structlog.reset_defaults()
        if gc_was_on:
            gc.enable()


def _collect(errors: list[str], logger: object, name: str, event: EventDict) -> str:
    """What the program itself logs as an error is a bug of ours: trouble that is expected is a warning."""
    event = structlog.processors.format_exc_info(logger, name, event)
    errors.append(f"error: {event.pop('event')} {event.pop('turn_id', '')} {event.pop('exception', event)}")
    raise structlog.DropEvent


def kinds_of(seed: int, chance: random.Random) -> tuple[str, tuple[str, ...]]:
    """The kind of a seed, and the faults that it knows: none, only harmless ones, or some of all."""
    if seed % 10 == 0:
        return "calm", ()
    if seed % 10 == 1:
        return "rolling", ("drain", "drain", "cache_wiped")
    return "storm", tuple(kind for kind in KINDS if chance.random() < 0.5) or KINDS


def _simulate(seed: int, loop: VirtualLoop, chance: random.Random, errors: list[str]) -> Result:
    kind, faults = kinds_of(seed, chance)
    world = loop.run_until_complete(_opened(loop, chance))
    try:
        return _judged(seed, kind, world, faults, errors)
    finally:
        world.bury()
        loop.close()


def _judged(seed: int, kind: str, world: World, faults: tuple[str, ...], errors: list[str]) -> Result:
    loop = world.loop
    try:
        loop.run_until_complete(_live(world, faults))
    except Stuck as stuck:
        world.history.violation(f"stuck: {stuck}")
    except TimeoutError:
        world.history.note("out of time")
    history = world.history
    violations = [*judge(history, world.servers.store), *(f"unexpected: {problem}" for problem in loop.problems)]
    rows = world.servers.store.tables.turns.values()
    ends = [ended_s for ended_s, _, _ in history.ended.values()]
    return Result(
        seed=seed,
        kind=kind,
        violations=violations + errors,
        faults=history.faults,
        turns=len(rows),
        takeovers=sum(max(0, row.fence - 1) for row in rows),
        steps=loop.steps,
        virtual_s=loop.time(),
        recovery_s=max(ends, default=0.0) - history.peace_s,
        trace=history.trace,
    )


async def _opened(loop: VirtualLoop, chance: random.Random) -> World:
    world = World(loop, chance)
    for slot in world.slots:
        world.start(slot)
    return world


async def _live(world: World, faults: tuple[str, ...]) -> None:
    chance = world.chance
    leaves, cancels = chance.choice((0.0, 0.05, 0.3)), chance.choice((0.0, 0.2))
    people = [Person(world, number, leaves=leaves, cancels=cancels) for number in range(PEOPLE)]
    async with asyncio.timeout(END_S_MAX), asyncio.TaskGroup() as group:
        group.create_task(Nemesis(world, faults).rage(RAGE_S))
        watch = group.create_task(_watched(world))
        async with asyncio.TaskGroup() as crowd:
            for person in people:
                crowd.create_task(person.converse(chance.randint(1, 3)))
        watch.cancel()


async def _watched(world: World) -> None:
    watch = Watch(world.history, world.servers.store)
    while True:
        await asyncio.sleep(1.0)
        if world.history.peace_s:
            watch.look()
