"""Prompts as REST has them, through the edge."""

from tests.integration.inference.prompts.conftest import Served
from tests.support.edge import KEY_HEADERS, running_edge

PROMPTS = "/api/v1/prompts"
CONTENT = {
    "template": "You are {{team}}.",
    "variables": [{"name": "team", "type": "string"}],
    "examples": [{"user": "What is red?", "assistant": "A colour."}],
}


async def test_prompt_is_made_moved_rendered_used_and_deleted(served: Served) -> None:
    async with running_edge(inference=served.servicers) as edge:
        client = edge.client
        client.headers.update(KEY_HEADERS)
        made = await client.post(PROMPTS, json={"name": "support", "content": CONTENT})
        added = await client.post(
            f"{PROMPTS}/support/revisions",
            json={"content": CONTENT | {"template": "You are {{team}}. Be brief."}, "note": "shorter"},
        )
        moved = await client.put(f"{PROMPTS}/support/aliases/production", json={"revision": 2, "expected_revision": 0})
        stale = await client.put(f"{PROMPTS}/support/aliases/production", json={"revision": 1, "expected_revision": 0})
        shown = await client.post(f"{PROMPTS}/support:render", json={"variables": {}})
        answer = await client.post(
            "/api/v1/generations",
            json={
                "prompt": {"messages": [{"role": "user", "text": "Who are you?"}]},
                "prompt_ref": {"prompt": "support", "variables": {"team": "Ada"}},
            },
        )
        listed = await client.get(f"{PROMPTS}/support/revisions")
        deleted = await client.delete(f"{PROMPTS}/support")
        explained = await client.get(f"{PROMPTS}/{made.json()['id']}/revisions/2")

    revision = f"{made.json()['id']}/2"
    assert (made.status_code, made.json()["latest_revision"]) == (201, 1)
    assert (added.status_code, added.json()["name"], added.json()["note"]) == (201, revision, "shorter")
    assert (moved.status_code, moved.json()["aliases"]) == (200, {"production": 2})
    assert (stale.status_code, stale.json()["reason"]) == (412, "ETAG_MISMATCH")
    assert shown.json()["system"] == "You are {{team}}. Be brief."
    assert shown.json()["problems"] == [{"variable": "team", "is_missing": True, "description": "must be given"}]
    assert (answer.status_code, answer.json()["prompt_revision"]) == (200, revision)
    assert served.provider.tasks[0].system == "You are Ada. Be brief."
    assert [one["number"] for one in listed.json()["revisions"]] == [2, 1]
    assert (deleted.status_code, explained.json()["content"]["template"]) == (204, "You are {{team}}. Be brief.")


async def test_prompt_itself_is_changed_by_the_fields_of_the_body_and_counted_by_its_new_name(served: Served) -> None:
    async with running_edge(inference=served.servicers) as edge:
        client = edge.client
        client.headers.update(KEY_HEADERS)
        await client.post(PROMPTS, json={"name": "support", "description": "For people.", "content": CONTENT})
        changed = await client.patch(f"{PROMPTS}/support", json={"name": "helpdesk", "description": ""})
        refused = await client.patch(f"{PROMPTS}/helpdesk", json={"latest_revision": 7})
        gone = await client.get(f"{PROMPTS}/support")
        question = {"prompt": {"messages": [{"role": "user", "text": "Who are you?"}]}}
        reference = {"prompt": "helpdesk", "alias": "latest", "variables": {"team": "Ada"}}
        counts = [
            await client.post("/api/v1/tokens:count", json=body)
            for body in (question, question | {"prompt_ref": reference})
        ]
    alone, together = (count.json()["input_tokens"] for count in counts)
    assert (changed.status_code, changed.json()["name"], changed.json()["description"]) == (200, "helpdesk", "")
    assert (refused.status_code, refused.json()["reason"]) == (400, "INVALID_ARGUMENT")
    assert gone.status_code == 404
    assert together > alone
