"""A long conversation that names a prompt, on the whole stack: what its models are shown, and what is told of that."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.support.rest import Rest, Watcher
from tests.support.stack import Stack
from tests.support.tenants import ANSWERS_MAX, LONG, registered_tenant
from tests.support.waiting import wait_until

NOT_FOUND: Final = 404
MODEL: Final = "scripted/quick"
Json = Mapping[str, Any]  # Any: JSON of whatever the contract says.


@pytest.fixture(scope="module")
def rest(stack: Stack) -> Iterator[Rest]:
    """An organization of this module's own, so that its books hold nothing else."""
    with registered_tenant(stack, "author") as tenant, Rest(tenant.url, tenant.api_key) as client:
        yield client


def answered(rest: Rest, conversation_id: str, text: str) -> Json:
    watcher = Watcher()
    with rest.events("POST", f"/api/v1/conversations/{conversation_id}/turns", {"new": {"text": text}}) as events:
        for event in events:
            watcher.see(event)
    assert watcher.message is not None
    return watcher.message


def test_a_long_conversation_goes_on_with_a_summary_and_its_prompt(rest: Rest) -> None:
    made = rest.post("/api/v1/prompts", {"name": "greeter", "content": {"template": "Greet people."}})
    rest.http.put(f"/api/v1/prompts/{made['id']}/aliases/production", json={"revision": 1}).raise_for_status()
    conversation = rest.post("/api/v1/conversations", {"model": MODEL, "prompt": {"prompt": "greeter"}})

    answer = answered(rest, conversation["id"], LONG)
    for number in range(ANSWERS_MAX):
        if answer["context"]["summary_id"]:
            break
        answer = answered(rest, conversation["id"], f"And {number}?")

    context = answer["context"]
    summary = rest.get(f"/api/v1/summaries/{context['summary_id']}")
    path = f"/api/v1/conversations/{conversation['id']}"
    without = rest.http.patch(path, params={"update_mask": "prompt"}, json={}).raise_for_status().json()
    assert conversation["prompt"]["prompt"] == "greeter"
    assert not without.get("prompt")
    assert context["prompt_revision"] == f"{made['id']}/1"
    assert context["system_tokens"] > 0
    assert context["summary_tokens"] > 0
    assert context["messages_summarised"] == summary["messages_covered"] >= 2
    assert {"part": "messages", "reason": "summarised", "count": summary["messages_covered"]} in context["omissions"]
    assert (summary["text"], summary["model"]) == ("They greeted each other.", "scripted/memory")
    assert summary["tokens_before"] > 7_000 > summary["tokens_after"]
    # The ledger learns of a call some moments after its end.
    wait_until(lambda: rest.get("/api/v1/usage", purpose="summary")["rows"], within_s=60)
    rest.delete(f"/api/v1/conversations/{conversation['id']}")
    assert rest.http.get(f"/api/v1/summaries/{context['summary_id']}").status_code == NOT_FOUND


def test_a_prompt_that_is_not_there_is_refused(rest: Rest) -> None:
    refused = rest.http.post("/api/v1/conversations", json={"prompt": {"prompt": "nobody"}})

    assert refused.status_code == NOT_FOUND
