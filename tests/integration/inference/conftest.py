"""Inference over real gRPC, and a provider behind it."""

from collections.abc import AsyncIterator

import pytest

from tests.support.inference_service import Client, served
from tests.support.provider_double import ProviderDouble, running_double


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with served() as opened:
        yield opened


@pytest.fixture
async def double() -> AsyncIterator[ProviderDouble]:
    async with running_double() as running:
        yield running
