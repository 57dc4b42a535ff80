"""The official openai SDK, unmodified, and the edge that it speaks to."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.support.edge import EdgeUnderTest
from tests.support.fakes.auth import API_KEY

QUESTION: list[Any] = [{"role": "user", "content": "who?"}]  # Any: the SDK's typed dictionaries


@pytest.fixture
async def client(listening_edge: EdgeUnderTest) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{listening_edge.url}/v1", api_key=API_KEY, max_retries=0) as sdk:
        yield sdk
