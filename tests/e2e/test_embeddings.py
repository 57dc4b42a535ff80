"""Vectors on the whole stack: the official SDK and the platform's own API are given the same ones."""

import openai
import pytest

from tests.support.rest import Rest
from tests.support.stack import Stack

TEXTS = ["How do I reset my password?", "To change your credentials, open the account page.", "A cake needs flour."]


def test_vectors_of_the_sdk_are_those_of_the_platform(stack: Stack) -> None:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0) as sdk:
        made = sdk.embeddings.create(model="default", input=TEXTS)
    with Rest(stack.url, stack.api_key) as rest:
        own = rest.post("/api/v1/embeddings", {"texts": TEXTS[:1], "model": made.model})

    question, near, far = (one.embedding for one in made.data)
    assert own["encoder"] == made.model
    assert own["dimension"] == len(question) == len(own["embeddings"][0]["values"])
    # Not to the last bit: what is encoded together may be summed in another order.
    assert _cosine(question, own["embeddings"][0]["values"]) == pytest.approx(1.0, abs=1e-3)
    assert _cosine(question, near) > _cosine(question, far)


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
