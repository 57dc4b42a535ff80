"""`client.embeddings.create`, unmodified."""

from typing import Any

import openai
import pytest

from services.mesh.errors import Overloaded, ScopeMissing
from tests.support.edge import KEY_HEADERS, EdgeUnderTest
from tests.support.fakes.embedding import DIMENSION, ENCODER, vector

TEXTS = ["one two", "three"]


@pytest.mark.parametrize("parameters", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
async def test_vectors_come_in_the_order_of_the_texts(client: openai.AsyncOpenAI, parameters: dict[str, Any]) -> None:
    made = await client.embeddings.create(model="words", input=TEXTS, **parameters)

    assert [one.index for one in made.data] == [0, 1]
    assert (made.model, made.usage.prompt_tokens, made.usage.total_tokens) == (ENCODER, 3, 3)
    if parameters != {"encoding_format": "base64"}:  # which the SDK decodes only when nobody asked for it
        assert [one.embedding for one in made.data] == [vector(text) for text in TEXTS]


async def test_one_text_is_enough(client: openai.AsyncOpenAI, listening_edge: EdgeUnderTest) -> None:
    made = await client.embeddings.create(model="default", input="one two", dimensions=DIMENSION, user="u")

    assert [one.embedding for one in made.data] == [vector("one two")]
    assert [request.model for request in listening_edge.fakes.embedding.requests] == [""]


async def test_many_texts_are_several_calls(client: openai.AsyncOpenAI, listening_edge: EdgeUnderTest) -> None:
    texts = ["x" * (number + 1) for number in range(130)]

    made = await client.embeddings.create(model="words", input=texts)

    assert [len(request.texts) for request in listening_edge.fakes.embedding.requests] == [64, 64, 2]
    assert [(one.index, one.embedding[0]) for one in made.data] == [(n, n + 1.0) for n in range(130)]
    assert made.usage.prompt_tokens == 130


async def test_base64_holds_the_same_vector(edge: EdgeUnderTest) -> None:
    body = {"model": "words", "input": "x", "encoding_format": "base64"}

    answered = await edge.client.post("/v1/embeddings", json=body, headers=KEY_HEADERS)

    assert answered.json()["data"][0]["embedding"] == "AACAPwAAAD8AAAAAAACAvg=="


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"] * 2_049}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["x", ""]}, "input[1]"),
        ({"input": "x" * 8_001}, "input"),
        ({"input": "x", "dimensions": 3}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "truncate": True}, "truncate"),
        ({"input": "x", "model": None}, "model"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(edge: EdgeUnderTest, body: dict[str, Any], param: str) -> None:
    answered = await edge.client.post("/v1/embeddings", json={"model": "words", **body}, headers=KEY_HEADERS)

    assert (answered.status_code, answered.json()["error"]["param"]) == (400, param)


async def test_limits_hold_at_their_last_value(edge: EdgeUnderTest) -> None:
    body = {"model": "words", "input": ["x" * 8_000] + ["x"] * 2_047}

    answered = await edge.client.post("/v1/embeddings", json=body, headers=KEY_HEADERS)

    assert (answered.status_code, len(answered.json()["data"])) == (200, 2_048)


async def test_model_of_another_platform_is_not_there(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await client.embeddings.create(model="text-embedding-3-small", input="x")

    assert refused.value.code == "model_not_found"


async def test_failures_of_retrieval_are_the_sdks_own(
    client: openai.AsyncOpenAI, listening_edge: EdgeUnderTest
) -> None:
    listening_edge.fakes.embedding.failure = Overloaded("too many", retry_after_s=2.0)
    with pytest.raises(openai.InternalServerError):
        await client.embeddings.create(model="words", input="x")

    listening_edge.fakes.embedding.failure = ScopeMissing("no")
    with pytest.raises(openai.PermissionDeniedError):
        await client.embeddings.create(model="words", input="x")


async def test_nobody_embeds_nothing(listening_edge: EdgeUnderTest) -> None:
    async with openai.AsyncOpenAI(base_url=f"{listening_edge.url}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.embeddings.create(model="words", input="x")
