from collections.abc import AsyncIterator

import pytest

from services.mesh.clock import ManualClock
from tests.support.auth import World, world


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def auth(clock: ManualClock) -> AsyncIterator[World]:
    with world(clock=clock) as replica:
        await replica.app.prepare()
        yield replica
