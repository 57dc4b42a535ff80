"""A turn whose first target breaks off in mid-stream: the second goes on, and nobody loses a word or a line."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.e2e.conftest import HALF, MENDED, REST
from tests.support.rest import Rest, Watcher, text_of
from tests.support.stack import Stack
from tests.support.tenants import QUESTION, Tenant, registered_tenant
from tests.support.waiting import wait_until

WHOLE: Final = HALF + REST
WRITERS: Final = ("scripted/half", "scripted/rest")


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> Iterator[Tenant]:
    """An organization of this module's own, so that no other test is in its ledger."""
    with registered_tenant(stack, "switcher") as made:
        yield made


def test_a_turn_goes_on_at_the_next_target_from_the_very_offset(tenant: Tenant) -> None:
    with Rest(tenant.url, tenant.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"model": MENDED})
        watcher, switches = Watcher(), []
        path = f"/api/v1/conversations/{conversation['id']}/turns"
        with rest.events("POST", path, {"new": {"text": QUESTION}}) as events:
            for event in events:
                watcher.see(event)
                if event.event == "provider_switched":
                    switches.append(event.data["provider_switched"])

        assert switches == [
            {
                "from_model": "scripted/half",
                "to_model": "scripted/rest",
                "reason": "PROVIDER_UNAVAILABLE",
                "offset": len(HALF),
            }
        ]
        assert watcher.text == WHOLE
        assert watcher.message is not None
        stored = rest.get(f"/api/v1/messages/{watcher.message['id']}")
        assert (stored["state"], text_of(stored), stored["model"]) == ("complete", WHOLE, "scripted/rest")
        assert ledger(rest) == [("scripted/half", 1), ("scripted/rest", 1)]


def ledger(rest: Rest) -> list[tuple[str, int]]:
    """Both models with the calls that were booked, once they are; the tenant's batch is booked beside them."""

    def rows() -> list[tuple[str, int]]:
        found: list[Any] = rest.get("/api/v1/usage", group_by="model")["rows"]  # Any: JSON of the contract
        return [(row["model"], row["call_count"]) for row in found if row["model"] in WRITERS]

    wait_until(lambda: len(rows()) >= 2, within_s=60)
    return rows()
