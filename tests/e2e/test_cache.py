"""The cache on the whole stack: questions of the same meaning, by the vectors of retrieval's own encoder."""

from collections.abc import Iterator, Mapping
from itertools import count
from operator import mul
from typing import Any, Final

import pytest

from services.inference.routes.schema import SIMILARITY_MIN
from tests.e2e.conftest import RECALLED
from tests.support.rest import Rest, Watcher, text_of
from tests.support.stack import Stack
from tests.support.tenants import registered_tenant
from tests.support.waiting import wait_until

Json = Mapping[str, Any]  # Any: JSON of whatever the contract says.

ASKED: Final = "Who built the lighthouse of Skerry?"
AGAIN: Final = "Please tell me who built the lighthouse of Skerry."
ONCE_MORE: Final = "Who built this lighthouse of Skerry?"
NEAR: Final = "When was the lighthouse of Skerry built?"
BEFORE: Final = "The lighthouse of Skerry was built in 1843 by the engineer Alan Stevenson."
AFTER: Final = "The lighthouse of Skerry was built in 1843 by the engineer Thomas Smith."
WITHIN_S: Final = 120
"""For a round in which nothing is in the way: an encoder or a Valkey that is late costs a hit, never an answer."""

_rounds: Final = count(1)


@pytest.fixture(scope="module")
def rest(stack: Stack) -> Iterator[Rest]:
    with Rest(stack.url, stack.api_key) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Iterator[Rest]:
    with registered_tenant(stack, "stranger") as tenant, Rest(tenant.url, tenant.api_key) as client:
        yield client


def test_question_is_answered_by_one_of_the_same_meaning_and_by_no_other(rest: Rest, stranger: Rest) -> None:
    made = rest.post("/api/v1/embeddings", {"texts": [ASKED, AGAIN, ONCE_MORE, NEAR]})
    asked, *others = (embedding["values"] for embedding in made["embeddings"])
    assert min(sum(map(mul, asked, other)) for other in others) > SIMILARITY_MIN

    wait_until(lambda: has_hits(rest, stranger, f"Round {next(_rounds)}."), within_s=WITHIN_S)


def has_hits(rest: Rest, stranger: Rest, system: str) -> bool:
    """Whether both other wordings hit, before and after what never may."""
    made = generated(rest, system, ASKED)
    again = generated(rest, system, AGAIN)
    near = generated(rest, system, NEAR)
    foreign = generated(stranger, system, AGAIN)
    once_more = generated(rest, system, ONCE_MORE)
    assert [hit_of(answer) for answer in (made, near, foreign)] == [None, None, None]
    if {hit_of(again), hit_of(once_more)} != {"semantic"}:
        return False
    assert again["text"] == once_more["text"] == made["text"]
    assert (again["usage"]["input_tokens"], again["usage"]["output_tokens"]) == (0, 0)
    return True


def generated(rest: Rest, system: str, question: str) -> Json:
    prompt = {
        "system": system,
        "messages": [{"role": "user", "text": question}],
        "passages": [{"title": "Skerry", "text": BEFORE}],
    }
    answer: Json = rest.post("/api/v1/generations", {"model": RECALLED, "prompt": prompt})
    return answer


def hit_of(answer: Json) -> str | None:
    hit = answer.get("cache")
    return hit["kind"] if hit else None


def test_answer_from_a_document_serves_until_the_document_changes(rest: Rest) -> None:
    base = rest.post("/api/v1/knowledge_bases", {"display_name": RECALLED})
    written(rest, base["id"], BEFORE)
    system = recalled(rest, base["id"])
    # Who wants another answer to a question is not given the stored one.
    first = told(rest, base["id"], system, ASKED)
    another = answer_of(rest, first["conversation_id"], {"regenerate_of": {"message_id": first["id"]}})
    assert tokens_of(another) > 0

    written(rest, base["id"], AFTER)

    wait_until(
        lambda: all("Thomas Smith" in text_of(told(rest, base["id"], system, each)) for each in (ASKED, AGAIN)),
        within_s=WITHIN_S,
    )


def written(rest: Rest, base_id: str, text: str) -> None:
    document = rest.upload(base_id, "skerry.md", text.encode())
    assert rest.ready(document["id"])["state"] == "ready"


def recalled(rest: Rest, base_id: str) -> str:
    """The system text of the round in which a question was answered in full, and its other wording from the cache."""
    tried: list[str] = []

    def is_recalled() -> bool:
        tried.append(f"Round {len(tried)}.")
        made = told(rest, base_id, tried[-1], ASKED)
        again = told(rest, base_id, tried[-1], AGAIN)
        assert tokens_of(made) > 0
        assert "Alan Stevenson" in text_of(made)
        assert "Alan Stevenson" in text_of(again)
        return tokens_of(again) == 0

    wait_until(is_recalled, within_s=WITHIN_S)
    return tried[-1]


def told(rest: Rest, base_id: str, system: str, question: str) -> Json:
    """The answer of a new conversation."""
    conversation = rest.post(
        "/api/v1/conversations",
        {"model": RECALLED, "system_prompt": system, "knowledge_base_id": base_id, "retrieval_mode": "always"},
    )
    return answer_of(rest, conversation["id"], {"new": {"text": question}})


def answer_of(rest: Rest, conversation_id: str, body: Json) -> Json:
    watcher = Watcher()
    with rest.events("POST", f"/api/v1/conversations/{conversation_id}/turns", body) as events:
        for event in events:
            watcher.see(event)
    assert watcher.message is not None
    return watcher.message


def tokens_of(answer: Json) -> int:
    """That were read for it; none where it was not made."""
    return int(answer["usage"]["input_tokens"])
