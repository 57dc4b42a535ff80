"""What headers say of the cache, on both vendors' surfaces."""

from typing import Any, Final

import pytest
from google.protobuf.duration_pb2 import Duration

from parley.inference.v1 import generation_pb2
from tests.support.edge import EdgeUnderTest
from tests.support.fakes.auth import API_KEY

MESSAGES: Final = [{"role": "user", "content": "two words"}]
SURFACES: Final[list[tuple[str, dict[str, Any]]]] = [  # Any: JSON
    ("/v1/chat/completions", {"model": "fake/one", "messages": MESSAGES, "store": False}),
    ("/anthropic/v1/messages", {"model": "fake/one", "messages": MESSAGES, "max_tokens": 100}),
]
BEARER: Final = {"authorization": f"Bearer {API_KEY}"}


@pytest.mark.parametrize(("path", "body"), SURFACES, ids=("openai", "anthropic"))
@pytest.mark.parametrize("is_stream", [True, False], ids=("stream", "whole"))
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (generation_pb2.CACHE_HIT_KIND_EXACT, "exact"),
        (generation_pb2.CACHE_HIT_KIND_SEMANTIC, "semantic"),
        (generation_pb2.CACHE_HIT_KIND_SHARED, "shared"),
        (generation_pb2.CACHE_HIT_KIND_STALE, "stale"),
        (None, None),
    ],
)
async def test_answer_says_where_it_came_from(
    edge: EdgeUnderTest,
    path: str,
    body: dict[str, Any],
    kind: generation_pb2.CacheHitKind.ValueType | None,
    name: str | None,
    *,
    is_stream: bool,
) -> None:
    if kind is not None:
        edge.fakes.generations.cache = generation_pb2.CacheHit(kind=kind, age=Duration(seconds=75))

    response = await edge.client.post(path, json={**body, "stream": is_stream}, headers=BEARER)

    assert response.status_code == 200
    assert response.headers.get("x-parley-cache") == name
    assert response.headers.get("age") == (None if name is None else "75")


@pytest.mark.parametrize(("path", "body"), SURFACES, ids=("openai", "anthropic"))
@pytest.mark.parametrize(
    ("said", "use"),
    [
        (None, generation_pb2.CACHE_USE_UNSPECIFIED),
        ("max-age=0", generation_pb2.CACHE_USE_UNSPECIFIED),
        ("No-Cache", generation_pb2.CACHE_USE_REFRESH),
        ("no-cache, no-store", generation_pb2.CACHE_USE_OFF),
    ],
)
async def test_request_says_what_the_cache_may_do(
    edge: EdgeUnderTest,
    path: str,
    body: dict[str, Any],
    said: str | None,
    use: generation_pb2.CacheUse.ValueType,
) -> None:
    headers = BEARER if said is None else {**BEARER, "cache-control": said}

    await edge.client.post(path, json=body, headers=headers)

    assert edge.fakes.generations.requests[-1].cache == use
