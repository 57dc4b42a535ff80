"""What replicas tell one another of outages, and that each goes on alone when they cannot."""

import pytest

from services.inference.standing.outages import PAUSE_S, PROBE_S, Outages, State
from services.mesh.clock import ManualClock
from tests.support.standing import SharedMemory


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def shared(clock: ManualClock) -> SharedMemory:
    return SharedMemory(clock)


@pytest.fixture
def replicas(clock: ManualClock, shared: SharedMemory) -> tuple[Outages, Outages]:
    return Outages(shared, clock), Outages(shared, clock)


async def test_outage_reaches_the_other_replica_and_so_does_its_end(replicas: tuple[Outages, Outages]) -> None:
    here, there = replicas

    here.begin("x", 5.0)
    await here.sync()
    await there.sync()
    assert there.state("x") is State.OPEN

    there.end("x")
    await there.sync()
    await here.sync()
    assert there.state("x") is State.CLOSED


async def test_one_replica_probes_at_a_time(replicas: tuple[Outages, Outages], clock: ManualClock) -> None:
    here, there = replicas
    here.begin("x", 5.0)
    await here.sync()
    await there.sync()
    clock.advance(5.0)

    assert [here.state("x"), there.state("x")] == [State.HALF_OPEN] * 2
    assert await there.claim_probe("x")
    assert not await here.claim_probe("x")


async def test_probe_that_never_tells_lets_the_next_one_through(
    replicas: tuple[Outages, Outages], clock: ManualClock
) -> None:
    here, _ = replicas
    here.begin("x", 5.0)
    clock.advance(5.0)
    assert await here.claim_probe("x")
    assert not await here.claim_probe("x")

    clock.advance(PROBE_S)

    assert await here.claim_probe("x")


async def test_replica_goes_on_alone_and_tells_later(
    replicas: tuple[Outages, Outages], shared: SharedMemory, clock: ManualClock
) -> None:
    here, there = replicas
    shared.is_away = True

    here.begin("x", 30.0)
    await here.sync()
    assert here.state("x") is State.OPEN
    assert there.state("x") is State.CLOSED

    shared.is_away = False
    clock.advance(PAUSE_S)
    await here.sync()
    await there.sync()

    assert there.state("x") is State.OPEN


async def test_probe_is_ours_when_nobody_can_be_asked(
    replicas: tuple[Outages, Outages], shared: SharedMemory, clock: ManualClock
) -> None:
    here, _ = replicas
    here.begin("x", 5.0)
    clock.advance(5.0)
    shared.is_away = True

    assert await here.claim_probe("x")


async def test_what_others_said_is_forgotten_when_they_cannot_be_asked(
    replicas: tuple[Outages, Outages], shared: SharedMemory
) -> None:
    here, there = replicas
    here.begin("x", 30.0)
    await here.sync()
    await there.sync()

    shared.is_away = True
    await there.sync()

    assert there.state("x") is State.CLOSED


async def test_longer_outage_is_not_shortened(replicas: tuple[Outages, Outages]) -> None:
    here, _ = replicas

    here.begin("x", 30.0)
    here.begin("x", 5.0)

    assert here.until("x") == 30.0
