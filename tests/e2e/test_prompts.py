"""Prompts on the whole stack: the nearest examples are found by retrieval's own encoder."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.rest import Rest
from tests.support.stack import Stack
from tests.support.tenants import registered_tenant

MODEL: Final = "scripted/quick"
QUESTION: Final = "I want a refund for my order"
EXAMPLES: Final = (
    ("How do I get my money back?", "Refunds take five days."),
    ("When does the shop open?", "At nine."),
    ("Which languages do you speak?", "German and French."),
)


@pytest.fixture(scope="module")
def rest(stack: Stack) -> Iterator[Rest]:
    """An organization of this module's own, so that its prompts have any name."""
    with registered_tenant(stack, "author") as tenant, Rest(tenant.url, tenant.api_key) as client:
        yield client


def test_answer_is_shown_the_example_nearest_to_its_question(rest: Rest) -> None:
    content = {
        "template": "You answer for {{team}}.",
        "variables": [{"name": "team", "type": "string"}],
        "examples": [{"user": user, "assistant": assistant} for user, assistant in EXAMPLES],
        "selection": "nearest",
        "nearest_count": 1,
    }
    made = rest.post("/api/v1/prompts", {"name": "support", "content": content})
    variables = {"team": "the shop"}
    shown = rest.post(
        "/api/v1/prompts/support:render",
        {
            "alias": "latest",
            "variables": variables,
            "question": "I want a refund for my order",
            "model": MODEL,
        },
    )
    answer = rest.post(
        "/api/v1/generations",
        {
            "model": MODEL,
            "prompt": {"messages": [{"role": "user", "text": QUESTION}]},
            "prompt_ref": {"prompt": "support", "revision": 1, "variables": variables},
        },
    )
    (chosen,) = shown["examples"]
    assert (chosen["number"], shown["examples_unranked"]) == (1, False)
    assert chosen["similarity"] > 0
    assert answer["prompt_revision"] == shown["revision"] == f"{made['id']}/1"
    assert answer["context"]["examples_unranked"] is False
    assert answer["context"]["example_tokens"] == shown["example_tokens"]
