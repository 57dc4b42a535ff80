from collections.abc import AsyncIterator

import numpy as np
import pytest
from pydantic import SecretStr

from services.mesh.settings import ValkeySettings
from services.mesh.valkey import Client, open_valkey
from services.retrieval.embedding.cache import ValkeyVectors
from tests.support.retrieval import DIMENSION, word_vector
from tests.support.valkey import url_of


@pytest.fixture(params=["valkey", "cluster"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with open_valkey(ValkeySettings(valkey_url=SecretStr(url_of(request))), application="test") as client:
        await client.ping()
        yield client


async def test_vectors_come_back_as_they_were_put(client: Client) -> None:
    cache = ValkeyVectors(client, dimension=DIMENSION)
    await cache.put({"a": word_vector("a"), "b": word_vector("b")})

    found = await cache.get(["a", "missing", "b"])

    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["b"], word_vector("b"))


async def test_vectors_do_not_stay_for_ever(client: Client) -> None:
    await ValkeyVectors(client, dimension=DIMENSION).put({"a": word_vector("a")})

    keys = [key for server in await client.servers() for key in await server.keys("*")]

    assert [0 < await client.ttl(key) <= 86_400 for key in keys] == [True]


async def test_entry_of_another_shape_is_not_believed(client: Client) -> None:
    await ValkeyVectors(client, dimension=DIMENSION).put({"a": word_vector("a")[:5]})

    assert await ValkeyVectors(client, dimension=DIMENSION).get(["a"]) == {}


async def test_cache_that_is_away_is_an_empty_one() -> None:
    settings = ValkeySettings(valkey_url=SecretStr("redis://127.0.0.1:1"))
    async with open_valkey(settings, application="test") as client:
        cache = ValkeyVectors(client, dimension=DIMENSION)

        await cache.put({"a": word_vector("a")})

        assert await cache.get(["a"]) == {}
