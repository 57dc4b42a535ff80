"""One seed, from the start of a deployment to its judgement."""

import asyncio
import gc
import logging
import random
from collections import Counter
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
from tests.simulation.people import Habits, Person
from tests.simulation.world import LEASE_S, TURN_S_MAX, World

RAGE_S: Final = 24.0
PEOPLE: Final = 5
QUESTIONS_MAX: Final = 5
END_S_MAX: Final = RAGE_S + 5 * 3 * LEASE_S + 2 * TURN_S_MAX
"""Virtual seconds by which everybody must have every answer: faults that last, then two questions' full time."""
SETTLE_S_MAX: Final = 200.0
"""Virtual seconds until nothing waits anywhere: what was delivered often, and never acknowledged, comes again late."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a seed came to.

    Attributes:
        violations: empty when all is well.
        asked: how often each kind was asked for, and each way to meet another turn; how many were deleted.
        events: that watchers were shown.
        trace: what happened, line by line; two runs of a seed have the same.
    """

    seed: int
    kind: str
    violations: list[str]
    faults: dict[str, int]
    asked: dict[str, int]
    turns: int
    events: int
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
    ends = [made.ended_s for made in history.made.values() if made.ended_s is not None]
    calls = history.asked.values()
    asked = Counter(str(what) for each in calls for what in (each.kind, each.on_conflict))
    asked.update(
        summary=len(world.servers.store.tables.summaries),
        delete=len(history.deleted),
        limit=sum(each.time_s is not None for each in calls),
    )
    return Result(
        seed=seed,
        kind=kind,
        violations=violations + errors,
        faults=history.faults,
        asked=dict(asked),
        turns=len(history.made),
        events=sum(len(view.events) for each in calls for view in each.views),
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
    habits = Habits.by(chance)
    people = [Person(world, number, habits) for number in range(PEOPLE)]
    async with asyncio.timeout(END_S_MAX), asyncio.TaskGroup() as group:
        group.create_task(Nemesis(world, faults).rage(RAGE_S))
        watch = group.create_task(_watched(world))
        async with asyncio.TaskGroup() as crowd:
            for person in people:
                crowd.create_task(person.converse(chance.randint(1, QUESTIONS_MAX)))
        watch.cancel()
    await _settled(world)


async def _settled(world: World) -> None:
    """Returns when nothing waits any more."""
    tables, queue = world.servers.store.tables, world.servers.queue
    until = world.loop.time() + SETTLE_S_MAX
    while tables.outbox or await queue.depth() or any(not row.turn.state.has_ended for row in tables.turns.values()):
        if world.loop.time() > until:
            world.history.violation(f"left: {len(tables.outbox)} in the outbox, {await queue.depth()} in the queue")
            return
        await asyncio.sleep(1.0)


async def _watched(world: World) -> None:
    watch = Watch(world.history, world.servers.store)
    while True:
        await asyncio.sleep(1.0)
        if world.history.peace_s:
            watch.look()
