"""An edge on fake services, for one test each."""

from collections.abc import AsyncIterator

import pytest

from tests.support.edge import EdgeUnderTest, running_edge


@pytest.fixture
async def edge() -> AsyncIterator[EdgeUnderTest]:
    """Without a socket: requests go straight to the application."""
    async with running_edge() as under_test:
        yield under_test


@pytest.fixture
async def listening_edge() -> AsyncIterator[EdgeUnderTest]:
    """On a port of its own, with the real server in front."""
    async with running_edge(listens=True) as under_test:
        yield under_test
