"""What replicas share of outages: in one process, and in a real Valkey."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from services.inference.standing.outages import PROBATION_S, Outages, Shared, State
from services.inference.standing.outages_valkey import ValkeyOutages
from services.mesh.clock import ManualClock
from services.mesh.errors import MeshError
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import open_valkey
from tests.support.standing import SharedMemory
from tests.support.valkey import url_of


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "valkey", "cluster"])
async def shared(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Shared]:
    if request.param == "memory":
        yield SharedMemory(clock)
        return
    async with in_valkey(url_of(request), clock) as found:
        yield found


@asynccontextmanager
async def in_valkey(url: str, clock: ManualClock) -> AsyncIterator[ValkeyOutages]:
    settings = ValkeySettings(valkey_url=SecretStr(url), valkey_timeout_s=60)
    async with open_valkey(settings, application="test") as client:
        yield ValkeyOutages(client, clock)


async def test_what_was_put_is_there(shared: Shared, clock: ManualClock) -> None:
    now = clock.now().timestamp()

    await shared.put({"a": now + 5.5, "b": now + 7})
    await shared.put({"b": 0.0, "c": now + 1})

    assert await shared.all() == {"a": now + 5.5, "c": now + 1}


async def test_one_claim_holds_until_its_outage_is_told_anew(shared: Shared, clock: ManualClock) -> None:
    assert await shared.claim("a", life_s=60)
    assert not await shared.claim("a", life_s=60)
    assert await shared.claim("b", life_s=60)

    await shared.put({"a": clock.now().timestamp() + 5})

    assert await shared.claim("a", life_s=60)


async def test_replicas_learn_of_outages_and_of_their_end(shared: Shared, clock: ManualClock) -> None:
    here, there = (Outages(shared, clock, timeout_s=60) for _ in range(2))
    here.begin("a", 5.0)

    await here.sync()
    await there.sync()
    assert there.state("a") is State.OPEN

    here.end("a")
    await here.sync()
    await there.sync()
    assert there.state("a") is State.CLOSED


async def test_outage_is_swept_after_its_probation(valkey_url: str, clock: ManualClock) -> None:
    async with in_valkey(valkey_url, clock) as shared:
        await shared.put({"a": clock.now().timestamp() + 5})
        clock.advance(5 + PROBATION_S)

        assert await shared.all() == {}


async def test_valkey_that_is_away_is_an_error_of_the_mesh_and_no_harm(clock: ManualClock) -> None:
    async with in_valkey("redis://127.0.0.1:9", clock) as shared:
        calls: list[Callable[[], object]] = [
            shared.all,
            lambda: shared.put({"a": 1.0}),
            lambda: shared.claim("a", life_s=1),
        ]
        for call in calls:
            with pytest.raises(MeshError):
                await call()  # type: ignore[misc] # each is a coroutine function
        alone = Outages(shared, clock)
        alone.begin("a", 5.0)
        await alone.sync()

        assert alone.state("a") is State.OPEN
