"""A process is killed in mid-answer: the turn still ends in one complete stored answer, and a watcher can prove it."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import httpx
import pytest

from tests.support.rest import Rest, ServerSentEvent, StreamBrokenError, Watcher, text_of
from tests.support.stack import Stack

MODEL: Final = "scripted/slow"
LONG_MODEL: Final = "scripted/long"
KILLED_IN_ONE_ANSWER: Final = ("conversation-worker", "conversation", "edge")
DELTAS_BEFORE_KILL: Final = 5
DELTAS_BETWEEN_KILLS: Final = 3
RECOVERY_S_MAX: Final = 120.0
RETRY_S: Final = 0.2


@pytest.fixture(scope="module")
def whole_answer(stack: Stack) -> str:
    """What the scripted model says when nothing dies."""
    with Rest(stack.url, stack.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"model": MODEL})
        return rest.ask(conversation["id"], "Go").text


@pytest.mark.parametrize("process", ["conversation-worker", "conversation", "inference", "valkey", "edge"])
def test_killed_process_costs_no_answer(stack: Stack, whole_answer: str, process: str) -> None:
    watcher = Watcher()
    with Rest(stack.url, stack.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"model": MODEL})
        path = f"/api/v1/conversations/{conversation['id']}/turns"
        with rest.events("POST", path, {"new": {"text": "Go"}}) as events:
            turn_id = _see_deltas(watcher, events, DELTAS_BEFORE_KILL)
            stack.kill(process)
            with _cut_tolerated():
                _see_deltas(watcher, events, None)

        _watch(rest, turn_id, watcher)
        stack.await_restart(process)
        stored = rest.get(f"/api/v1/messages/{_finished(watcher)['id']}")
        turn = rest.get(f"/api/v1/turns/{turn_id}")
        messages = rest.get(f"/api/v1/conversations/{conversation['id']}/messages", tree="true")["messages"]

    assert turn["state"] == "completed", turn
    assert stored["state"] == "complete"
    assert text_of(stored) == watcher.text == whole_answer
    assert [message["role"] for message in messages] == ["user", "assistant"]


@pytest.mark.timeout(600)
def test_answer_watched_through_the_death_of_worker_api_and_edge_is_the_stored_one(stack: Stack) -> None:
    """One answer, one watcher, three kills in mid-answer: each when the text goes on after the one before."""
    watcher = Watcher()
    restarts = {process: stack.restarts(process) for process in KILLED_IN_ONE_ANSWER}
    with Rest(stack.url, stack.api_key) as rest:
        conversation = rest.post("/api/v1/conversations", {"model": LONG_MODEL})
        path = f"/api/v1/conversations/{conversation['id']}/turns"
        with rest.events("POST", path, {"new": {"text": "Go"}}) as events:
            turn_id = _see_deltas(watcher, events, DELTAS_BEFORE_KILL)
        for process in KILLED_IN_ONE_ANSWER:
            enough = watcher.kinds.count("text_delta") + DELTAS_BETWEEN_KILLS
            is_killed = False
            while not is_killed:  # what was sent before the last death may be enough to get here while nobody answers
                with _cut_tolerated(), _events_after(rest, turn_id, watcher) as events:
                    stack.kill(process)
                    is_killed = True
                    _see_deltas(watcher, events, enough)
            _watch(rest, turn_id, watcher, deltas=enough)
        _watch(rest, turn_id, watcher)
        for process, before in restarts.items():
            stack.await_restart(process, beyond=before)
        stored = rest.get(f"/api/v1/messages/{_finished(watcher)['id']}")
        turn = rest.get(f"/api/v1/turns/{turn_id}")

    assert turn["state"] == "completed", turn
    assert turn["attempt"] > 1
    assert stored["finish_reason"] == "stop"
    assert text_of(stored).encode() == watcher.text.encode()
    words = watcher.text.split()
    assert words == [f"word{number}" for number in range(1, len(words) + 1)]


def _finished(watcher: Watcher) -> dict[str, str]:
    assert watcher.message is not None
    return dict(watcher.message)


def _watch(rest: Rest, turn_id: str, watcher: Watcher, *, deltas: int | None = None) -> None:
    """Reconnects like a client does, from the last sequence it has: until so many deltas were seen, or to the end."""
    deadline = time.monotonic() + RECOVERY_S_MAX
    while watcher.message is None and (deltas is None or watcher.kinds.count("text_delta") < deltas):
        assert time.monotonic() < deadline, f"no end after {RECOVERY_S_MAX} s: {watcher.kinds[-3:]}"
        with _cut_tolerated(), _events_after(rest, turn_id, watcher) as events:
            _see_deltas(watcher, events, deltas)


def _events_after(rest: Rest, turn_id: str, watcher: Watcher) -> AbstractContextManager[Iterator[ServerSentEvent]]:
    """The events that the watcher has not seen."""
    return rest.events("GET", f"/api/v1/turns/{turn_id}/events", None, **{"last-event-id": str(watcher.sequence)})


@contextmanager
def _cut_tolerated() -> Iterator[None]:
    """A connection that is refused or cut, or a server that is not there yet: what a client meets in a restart."""
    try:
        yield
    except (httpx.TransportError, httpx.HTTPStatusError, StreamBrokenError) as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise
        time.sleep(RETRY_S)


def _see_deltas(watcher: Watcher, events: Iterator[ServerSentEvent], deltas: int | None) -> str:
    turn_id = ""
    for event in events:
        watcher.see(event)
        if event.event == "turn_started":
            turn_id = event.data["turn_started"]["turn_id"]
        if deltas is not None and watcher.kinds.count("text_delta") >= deltas:
            break
    return turn_id
