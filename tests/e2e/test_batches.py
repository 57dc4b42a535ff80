"""Batches on the whole stack: handed in over REST, answered by whichever inference process takes them."""

from typing import Final

from tests.support.rest import Rest
from tests.support.stack import Stack
from tests.support.tenants import registered_tenant
from tests.support.waiting import wait_until

ITEMS: Final = 12
ENDED_S: Final = 120.0


def test_batch_is_answered_and_its_usage_is_told(stack: Stack) -> None:
    items = [
        {
            "custom_id": f"item-{number}",
            "request": {
                "model": "scripted/quick",
                "prompt": {"messages": [{"role": "user", "text": f"{number}?"}]},
                "purpose": "evaluation",
            },
        }
        for number in range(ITEMS)
    ]
    with registered_tenant(stack, "patient") as tenant, Rest(tenant.url, tenant.api_key) as rest:
        path = f"/api/v1/batches/{rest.post('/api/v1/batches', {'items': items})['id']}"
        wait_until(lambda: rest.get(path)["state"] == "ended", within_s=ENDED_S)
        results = rest.get(f"{path}/results")["results"]
        wait_until(lambda: rest.get("/api/v1/usage", purpose="evaluation")["rows"], within_s=ENDED_S)

    assert [one["custom_id"] for one in results] == [f"item-{number}" for number in range(ITEMS)]
    assert {one["answer"]["text"] for one in results} == {"Hello world."}
    assert {one["is_batched"] for one in results} == {False}
