"""A process may die before or after any call that it makes: each item is answered once and paid once all the same."""

import asyncio

import pytest

from services.inference.batches.model import ItemState
from services.inference.batches.store import LeaseLostError
from services.inference.money.model import Limits
from tests.support.batches import COST_NANOS, Fuse, World, entries, text_of, until_killed
from tests.support.money import ORGANIZATION, PAYER, USER, standing
from tests.support.waiting import until

QUESTIONS = ("one?", "two?", "three?")
LIMIT = 10**12


async def bounded_world() -> World:
    world = World()
    for subject in (ORGANIZATION, USER):
        limits = Limits(cost_nanos_per_day=LIMIT)
        await world.ledger.set_budget(ORGANIZATION, subject, limits, world.clock.now())
    return world


async def assert_settled(world: World, spent_nanos: int) -> None:
    for subject in (ORGANIZATION, USER):
        found = await world.ledger.get_budget(ORGANIZATION, subject, world.clock.now())
        # What was spent counts for the day on which the batch was made.
        assert standing(found)[1] == 0
    assert sum(cost or 0 for cost in world.paid()) == spent_nanos


async def test_runner_that_dies_anywhere_is_followed_by_one_that_ends_its_batch() -> None:
    deaths = 0
    for steps in range(1_000):
        world = await bounded_world()
        batch = await world.create(*QUESTIONS)
        doomed = world.runner(Fuse(steps))

        was_killed = await until_killed(lambda: world.finish(batch, doomed))  # noqa: B023 - awaited here
        items = await world.finish(batch)

        assert [text_of(item) for item in items] == [f"Answer to {question}" for question in QUESTIONS], steps
        assert world.vendor.asked() == sorted(QUESTIONS), steps
        assert world.paid() == [COST_NANOS] * 3, steps
        await assert_settled(world, 3 * COST_NANOS)
        if not was_killed:
            break
        deaths += 1
    assert deaths > 20


async def test_runner_that_dies_in_a_cancelled_batch_leaves_nothing_held() -> None:
    for steps in range(1_000):
        world = await bounded_world()
        world.vendor.looks = 100
        batch = await world.create(*QUESTIONS)
        await world.runner().step()
        await world.batches().cancel(batch.owner, batch.id)

        doomed = world.runner(Fuse(steps))
        was_killed = await until_killed(lambda: world.finish(batch, doomed))  # noqa: B023 - awaited here
        items = await world.finish(batch)

        assert {item.state for item in items} == {ItemState.CANCELLED}, steps
        assert world.paid() == [], steps
        await assert_settled(world, 0)
        if not was_killed:
            break
    assert steps > 5


async def test_caller_that_dies_while_its_batch_is_prepared_leaves_nothing_held() -> None:
    for steps in range(1_000):
        world = await bounded_world()
        doomed = world.batches(Fuse(steps))

        was_killed = await until_killed(lambda: doomed.create(PAYER, entries(*QUESTIONS), None))  # noqa: B023 - as above
        for _ in range(20):
            await world.runner().step()
            world.clock.advance(60.0)

        left = await world.store.backlog()
        assert left.batches == 0, steps
        if not was_killed:
            break
        # Of a batch that was started before its caller died, every item is answered; of any other, none.
        assert len(world.paid()) in {0, 3}, steps
        await assert_settled(world, len(world.paid()) * COST_NANOS)
    assert steps > 5


async def test_runner_whose_lease_was_taken_over_writes_nothing_any_more() -> None:
    world = await bounded_world()
    batch = await world.create(*QUESTIONS)
    now = world.clock.now()
    late = await world.store.claim(lease="late", until=now, now=now)
    assert late is not None

    items = await world.finish(batch)

    with pytest.raises(LeaseLostError):
        await world.store.release(late, at=now, now=now)
    with pytest.raises(LeaseLostError):
        await world.store.end(late, at=now)
    assert len(items) == 3


async def test_runner_works_until_it_is_drained() -> None:
    world = await bounded_world()
    world.vendor.looks = 0
    batch = await world.create(*QUESTIONS)
    runner = world.runner(idle_s=0.001, poll_s_min=0.0, lease_s=1_000.0)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(runner.run())
        await until(lambda: len(world.ledger.lines) == 3, within_s=60.0)
        await runner.drain()
        running.cancel()
    assert len(await world.results(batch)) == 3


async def test_batch_of_a_process_that_is_stopped_is_anybodys_at_once() -> None:
    world = await bounded_world()
    batch = await world.create(*QUESTIONS)
    world.vendor.gate.clear()
    async with asyncio.TaskGroup() as group:
        stopped = group.create_task(world.runner().step())
        await until(lambda: world.vendor.waits, within_s=60.0)
        stopped.cancel()
    world.vendor.gate.set()
    now = world.clock.now()
    claim = await world.store.claim(lease="next", until=now, now=now)
    assert claim is not None
    assert claim.batch.id == batch.id
