"""What every carrier of hints to stop does."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.conversation.running.stops import Stops
from services.conversation.running.stops_valkey import ValkeyStops
from services.mesh.valkey import open_valkey
from tests.support.conversation import valkey_settings
from tests.support.conversation_fakes import MemoryStops
from tests.support.valkey import url_of


@pytest.fixture(params=["memory", "valkey", "cluster"])
async def stops(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Stops, Stops]]:
    """Whoever tells, and whoever listens."""
    if request.param == "memory":
        both = MemoryStops()
        yield both, both
        return
    async with open_valkey(valkey_settings(url_of(request)), application="tests", timeout_s=70.0) as client:
        yield ValkeyStops(client, client, prefix="test"), ValkeyStops(client, client, prefix="test")


async def test_what_is_told_is_heard_once(stops: tuple[Stops, Stops]) -> None:
    teller, listener = stops
    for conversation_id in ("conv_1", "conv_2", "conv_1"):
        await teller.tell(conversation_id)

    assert await listener.wait(wait_s=60.0) == {"conv_1", "conv_2"}
    assert await listener.wait(wait_s=0.01) == set()


async def test_a_listener_that_waits_hears_at_once(stops: tuple[Stops, Stops]) -> None:
    teller, listener = stops
    async with asyncio.TaskGroup() as group:
        heard = group.create_task(listener.wait(wait_s=60.0))
        await asyncio.sleep(0)
        await teller.tell("conv_1")

    assert heard.result() == {"conv_1"}
