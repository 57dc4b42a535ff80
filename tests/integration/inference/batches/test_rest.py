"""Batches as REST has them, through the edge."""

import asyncio
from typing import Any, Final

import httpx

from tests.integration.inference.batches.conftest import Served
from tests.support.edge import KEY_HEADERS, running_edge

BATCHES: Final = "/api/v1/batches"
ENDED_S: Final = 100.0


def item(custom_id: str, text: str = "Why?", **fields: Any) -> dict[str, Any]:
    """Any: JSON."""
    return {"custom_id": custom_id, "request": {"prompt": {"messages": [{"role": "user", "text": text}]}, **fields}}


async def ended(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    """The batch, once it has ended; Any: JSON."""
    async with asyncio.timeout(ENDED_S):
        while True:
            batch: dict[str, Any] = (await client.get(f"{BATCHES}/{batch_id}")).json()
            if batch["state"] == "ended":
                return batch
            await asyncio.sleep(0.1)


async def test_batch_is_made_answered_read_and_deleted(served: Served) -> None:
    async with running_edge(inference=served.servicers) as edge:
        client = edge.client
        client.headers.update(KEY_HEADERS)
        body = {"items": [item("a"), item("b", "How?", purpose="evaluation")]}
        made = await client.post(BATCHES, json=body, headers={"idempotency-key": "once"})
        again = await client.post(BATCHES, json=body, headers={"idempotency-key": "once"})
        path = f"{BATCHES}/{made.json()['id']}"
        batch = await ended(client, made.json()["id"])
        first = await client.get(f"{path}/results", params={"page_size": 1})
        token = first.json()["next_page_token"]
        rest = await client.get(f"{path}/results", params={"page_size": 1, "page_token": token})
        listed = await client.get(BATCHES)
        deleted = await client.delete(path)
        gone = await client.get(path)

    assert (made.status_code, made.json()["state"], made.json()["counts"]["waiting"]) == (201, "running", 2)
    assert again.json()["id"] == made.json()["id"]
    assert (batch["counts"]["succeeded"], "end_time" in batch) == (2, True)
    results = [*first.json()["results"], *rest.json()["results"]]
    assert [(one["custom_id"], one["answer"]["text"]) for one in results] == [("a", "Fine."), ("b", "Fine.")]
    assert results[0]["answer"]["usage"]["output_tokens"] == 5
    assert rest.json()["next_page_token"] == ""
    assert [one["id"] for one in listed.json()["batches"]] == [made.json()["id"]]
    assert (deleted.status_code, gone.status_code, gone.json()["reason"]) == (204, 404, "NOT_FOUND")


async def test_faults_of_items_are_told_with_their_fields(served: Served) -> None:
    async with running_edge(inference=served.servicers) as edge:
        edge.client.headers.update(KEY_HEADERS)
        wrong = {"items": [item("a", model="nobody/m"), item("b"), item("c", parameters={"temperature": 9})]}
        refused = await edge.client.post(BATCHES, json=wrong)
        listed = await edge.client.get(BATCHES)
    assert (refused.status_code, refused.json()["reason"]) == (400, "INVALID_ARGUMENT")
    assert [one["field"] for one in refused.json()["errors"]] == [
        "items[0].request",
        "items[2].request.parameters.temperature",
    ]
    assert listed.json()["batches"] == []


async def test_prompt_of_an_item_stays_what_it_was(served: Served) -> None:
    async with running_edge(inference=served.servicers) as edge:
        client = edge.client
        client.headers.update(KEY_HEADERS)
        await client.post("/api/v1/prompts", json={"name": "keeper", "content": {"template": "Be kind."}})
        await client.put("/api/v1/prompts/keeper/aliases/production", json={"revision": 1})
        made = await client.post(BATCHES, json={"items": [item("a", prompt_ref={"prompt": "keeper"})]})
        batch = await ended(client, made.json()["id"])
        results = await client.get(f"{BATCHES}/{batch['id']}/results")
    (result,) = results.json()["results"]
    assert result["answer"]["prompt_revision"].endswith("/1")
    assert served.provider.tasks[0].system == "Be kind."


async def test_cancelled_batch_ends(served: Served) -> None:
    async with running_edge(inference=served.servicers) as edge:
        client = edge.client
        client.headers.update(KEY_HEADERS)
        made = await client.post(BATCHES, json={"items": [item(f"{number}") for number in range(50)]})
        cancelled = await client.post(f"{BATCHES}/{made.json()['id']}:cancel", json={})
        batch = await ended(client, made.json()["id"])
    assert cancelled.status_code == 200
    assert batch["counts"]["succeeded"] + batch["counts"]["cancelled"] == 50
