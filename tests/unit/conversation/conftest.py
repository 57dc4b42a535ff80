"""A conversation service on stores and queues in memory."""

from collections.abc import AsyncIterator

import pytest

from services.conversation.store_memory import MemoryStore
from tests.support.conversation_rig import Rig, memory_rig, running


@pytest.fixture
def rig() -> Rig:
    return memory_rig(MemoryStore())


@pytest.fixture
async def at_work(rig: Rig) -> AsyncIterator[Rig]:
    async with running(rig):
        yield rig
