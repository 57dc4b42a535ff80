"""Answers cut short, stopped, written anew and gone on with, as a browser does it, on the real stack."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

import pytest

from tests.support.rest import Rest, Watcher, text_of
from tests.support.stack import Stack
from tests.support.tenants import QUESTION, knowledge_base

STREAM_SCRIPT: Final = "scripted/slow"
Json = Mapping[str, Any]  # Any: JSON of whatever the contract says.


@pytest.fixture
def rest(stack: Stack) -> Iterator[Rest]:
    with Rest(stack.url, stack.api_key) as client:
        yield client


def watched(rest: Rest, conversation_id: str, body: Json, *, deltas: int | None = None) -> Watcher:
    """The events of a new turn: all of them, or those up to a number of pieces of text."""
    watcher = Watcher()
    with rest.events("POST", f"/api/v1/conversations/{conversation_id}/turns", body) as events:
        for event in events:
            watcher.see(event)
            if watcher.kinds.count("text_delta") == deltas:
                break
    return watcher


def stored(watcher: Watcher) -> Json:
    assert watcher.message is not None
    assert watcher.text == text_of(watcher.message)
    return watcher.message


def test_an_answer_that_was_cut_short_is_gone_on_with_to_what_it_would_have_been(rest: Rest) -> None:
    base_id, _ = knowledge_base(rest, "Revisions")
    conversation = rest.post("/api/v1/conversations", {"knowledge_base_id": base_id})
    short = stored(
        watched(rest, conversation["id"], {"new": {"text": QUESTION}, "parameters": {"output_tokens_max": 12}})
    )

    longer = watched(rest, conversation["id"], {"continue_of": {"message_id": short["id"]}})
    whole = watched(rest, conversation["id"], {"regenerate_of": {"message_id": short["id"]}})

    assert short["finish_reason"] == "length"
    assert stored(longer)["revision_of"] == short["id"]
    assert longer.text.startswith(text_of(short))
    assert longer.text == whole.text
    assert len(longer.text) > len(text_of(short))
    assert longer.citations == whole.citations
    assert stored(whole)["parent_id"] == stored(longer)["parent_id"] == short["parent_id"]


def test_a_stopped_answer_keeps_its_text_and_its_question_is_answered_by_the_one_that_stopped_it(rest: Rest) -> None:
    conversation = rest.post("/api/v1/conversations", {"model": STREAM_SCRIPT})
    seen = watched(rest, conversation["id"], {"new": {"text": "Go"}}, deltas=3)
    running = rest.get(f"/api/v1/conversations/{conversation['id']}/turns")["turns"][0]

    again = watched(
        rest,
        conversation["id"],
        {"regenerate_of": {"message_id": running["assistant_message_id"]}, "on_conflict": "cancel_running"},
    )

    stopped = rest.get(f"/api/v1/messages/{running['assistant_message_id']}")
    assert stopped["state"] == "cancelled"
    assert text_of(stopped).startswith(seen.text)
    assert stored(again)["state"] == "complete"
    assert again.text.startswith(text_of(stopped))
    longer = watched(rest, conversation["id"], {"continue_of": {"message_id": stopped["id"]}})
    assert stored(longer)["state"] == "complete"
    assert longer.text == again.text


def test_questions_that_queue_are_answered_in_their_order(rest: Rest) -> None:
    conversation = rest.post("/api/v1/conversations", {"model": STREAM_SCRIPT})
    path = f"/api/v1/conversations/{conversation['id']}/turns"
    turns = [rest.post(path, {"new": {"text": text}, "on_conflict": "queue"}) for text in ("One", "Two", "Three")]

    for turn in turns:
        watcher = Watcher()
        with rest.events("GET", f"/api/v1/turns/{turn['id']}/events") as events:
            for event in events:
                watcher.see(event)
        assert stored(watcher)["state"] == "complete"

    ended = [rest.get(f"/api/v1/turns/{turn['id']}") for turn in turns]
    for before, after in pairwise(ended):
        assert before["end_time"] <= after["start_time"]
    messages = rest.get(f"/api/v1/conversations/{conversation['id']}/messages")["messages"]
    assert [message["turn_id"] for message in messages] == [turn["id"] for turn in turns for _ in range(2)]
