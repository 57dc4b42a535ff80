"""Replicas answer who tells what it has seen, on the whole stack, and one that dies costs nobody an answer."""

import os
import re
import urllib.request
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.browser import browsing, installed_browser
from tests.support.rest import Rest, text_of
from tests.support.stack import Stack, running_stack
from tests.support.tenants import QUESTION
from tests.support.waiting import wait_until

CONVERSATIONS: Final = "/api/v1/conversations"
WITHIN_S: Final = 120.0
READS_BEFORE_THE_DEATH: Final = 10
_ANSWERED: Final = re.compile(r'^parley_mesh_replica_reads_total\{where="replica"\} (\S+)$', re.MULTILINE)


@pytest.fixture(scope="module")
def replicated(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The shared stack where its servers have replicas, else one of this module's own."""
    if os.environ.get("PARLEY_TEST_DATABASE_REPLICAS"):
        yield request.getfixturevalue("stack")
        return
    with running_stack({"PARLEY_DEV_DATABASE_REPLICAS": "1"}) as started:
        yield started


@pytest.fixture
def rest(replicated: Stack) -> Iterator[Rest]:
    with Rest(replicated.url, replicated.api_key) as client:
        yield client


def answered(stack: Stack, service: str = "conversation") -> float:
    """Reads that replicas have answered for a process."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.ports(service)['debug']}/metrics", timeout=30) as response:
        found = _ANSWERED.search(response.read().decode())
    return float(found[1]) if found else 0.0


def written_and_read(rest: Rest) -> None:
    """A client reads what it has written a moment ago."""
    made = rest.post(CONVERSATIONS, {"title": "Written"})
    path = f"{CONVERSATIONS}/{made['id']}"
    assert rest.get(path) == made
    assert rest.get(CONVERSATIONS, page_size=1)["conversations"][0]["id"] == made["id"]
    changed = rest.http.patch(path, json={"title": "Changed"}).raise_for_status().json()
    assert rest.get(path) == changed
    rest.delete(path)
    assert rest.http.get(path).status_code == 404
    assert made["id"] not in [one["id"] for one in rest.get(CONVERSATIONS)["conversations"]]


def test_what_was_written_is_read_and_replicas_answer(replicated: Stack, rest: Rest) -> None:
    before = answered(replicated)

    def is_answered() -> bool:
        written_and_read(rest)
        return answered(replicated) > before

    wait_until(is_answered, within_s=WITHIN_S)


def test_question_and_answer_are_read_as_they_were_watched(rest: Rest) -> None:
    conversation = rest.post(CONVERSATIONS, {"model": "extractive"})
    path = f"{CONVERSATIONS}/{conversation['id']}"
    for number in range(1, 6):
        answer = rest.ask(conversation["id"], QUESTION)
        messages = rest.get(f"{path}/messages")["messages"]
        turns = rest.get(f"{path}/turns")["turns"]

        assert len(messages) == 2 * number
        assert messages[-1] == answer.message
        assert text_of(messages[-1]) == answer.text
        assert [turn["state"] for turn in turns] == ["completed"] * number


def test_reports_of_usage_are_asked_of_replicas(replicated: Stack, rest: Rest) -> None:
    before = answered(replicated, "inference")

    def is_answered() -> bool:
        assert "rows" in rest.get("/api/v1/organization/usage")
        return answered(replicated, "inference") > before

    wait_until(is_answered, within_s=WITHIN_S)


@pytest.mark.skipif(
    installed_browser() is None, reason="no browser: install chromium, or name one in PARLEY_TEST_BROWSER"
)
def test_page_is_answered_by_replicas(replicated: Stack) -> None:
    with browsing(str(installed_browser())) as page:
        page.open(f"{replicated.url}/")
        page.wait_for_text("Sign in to Parley")
        page.type(replicated.email, into="#email")
        page.press("Tab")
        page.type(replicated.password)
        page.press("Enter")
        page.wait_for("document.querySelectorAll('#model option').length > 1")
        before = answered(replicated)

        def is_answered() -> bool:
            made = page.evaluate(
                "import('/web/api.js').then(async ({ call }) => {"
                f" const made = await call('POST', '{CONVERSATIONS}', {{ body: {{ title: 'On the page' }} }});"
                f" const listed = await call('GET', '{CONVERSATIONS}?page_size=1');"
                " return [made.id, listed.conversations[0].id] })"
            )
            assert made[0] == made[1]
            return answered(replicated) > before

        wait_until(is_answered, within_s=WITHIN_S)


def test_replica_that_is_killed_costs_no_read(replicated: Stack, rest: Rest) -> None:
    names = [name for name in replicated.names if "-replica" in name]
    before = {name: replicated.restarts(name) for name in names}
    for _ in range(READS_BEFORE_THE_DEATH):
        written_and_read(rest)

    for name in names:
        replicated.kill(name)

    def are_back() -> bool:
        written_and_read(rest)
        return all(replicated.has_restarted(name, beyond=before[name]) for name in names)

    wait_until(are_back, within_s=WITHIN_S)
    alone = answered(replicated)

    def is_answered() -> bool:
        written_and_read(rest)
        return answered(replicated) > alone

    wait_until(is_answered, within_s=WITHIN_S)
