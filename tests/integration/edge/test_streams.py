"""Server-sent events: framing, resuming, following a created turn, and errors before and within a stream."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from edge.transcoding import streams
from services.mesh.errors import NotFound, Overloaded, Unavailable
from tests.support.edge import KEY_HEADERS, EdgeUnderTest, running_edge
from tests.support.fakes.conversation import ANSWER, Told, delta, finished, started
from tests.support.waiting import until

EVENTS = KEY_HEADERS | {"accept": "text/event-stream"}


def read(text: str) -> list[dict[str, Any]]:  # Any: JSON
    """The events of a stream; comments are left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append({**fields, "data": orjson.loads(fields["data"])})
    return found


async def asked(edge: EdgeUnderTest, headers: Mapping[str, str] = KEY_HEADERS) -> str:
    """A turn of a new conversation."""
    conversation = (await edge.client.post("/api/v1/conversations", json={}, headers=KEY_HEADERS)).json()["id"]
    response = await edge.client.post(
        f"/api/v1/conversations/{conversation}/turns", json={"new": {"text": "q"}}, headers=headers
    )
    assert response.status_code == 202
    identity: str = response.json()["id"]
    return identity


async def told(edge: EdgeUnderTest, turn: str) -> Told:
    found = edge.fakes.turns.told[turn]
    await until(lambda: found.is_ended)
    return found


async def test_a_created_turn_is_accepted_as_json_or_followed_as_events(edge: EdgeUnderTest) -> None:
    turn = await asked(edge)
    conversation = edge.fakes.turns.told[turn].turn.conversation_id
    path = f"/api/v1/conversations/{conversation}/turns"
    followed = await edge.client.post(path, json={"new": {"text": "q"}}, headers=EVENTS)
    events = read(followed.text)

    assert followed.status_code == 200
    assert followed.headers["content-type"] == "text/event-stream"
    assert followed.headers["cache-control"] == "no-store"
    assert followed.headers["x-accel-buffering"] == "no"
    created = followed.headers["x-parley-turn"]
    assert followed.headers["location"] == f"/api/v1/turns/{created}/events"
    assert [event["id"] for event in events] == ["1", "2", "3", "4"]
    assert [event["event"] for event in events] == ["turn_started", "text_delta", "text_delta", "turn_finished"]
    assert "".join(event["data"]["text_delta"]["text"] for event in events[1:3]) == ANSWER
    assert events[3]["data"]["turn_finished"]["message"]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?after_sequence=2", {}),
        ("", {"last-event-id": "2"}),
        ("?after_sequence=1", {"last-event-id": "2"}),
    ],
)
async def test_a_stream_goes_on_after_what_the_client_has(
    edge: EdgeUnderTest, query: str, headers: dict[str, str]
) -> None:
    turn = await asked(edge)
    await told(edge, turn)
    response = await edge.client.get(f"/api/v1/turns/{turn}/events{query}", headers=EVENTS | headers)

    assert [event["id"] for event in read(response.text)] == ["3", "4"]


async def test_a_browser_that_has_everything_is_told_to_stop(edge: EdgeUnderTest) -> None:
    turn = await asked(edge)
    await told(edge, turn)
    path = f"/api/v1/turns/{turn}/events"
    reconnected = await edge.client.get(path, headers=EVENTS | {"last-event-id": "4"})
    asked_by_query = await edge.client.get(f"{path}?after_sequence=4", headers=EVENTS)

    assert (reconnected.status_code, reconnected.content) == (204, b"")
    assert (asked_by_query.status_code, asked_by_query.content) == (200, b"")


async def test_the_same_events_come_as_one_document_of_what_there_is(edge: EdgeUnderTest) -> None:
    async def stay(turn: Told) -> None:
        await turn.tell(started(turn), delta(0, "so far"))

    edge.fakes.turns.script = stay
    turn = await asked(edge)
    await until(lambda: edge.fakes.turns.told[turn].events)
    response = await edge.client.get(f"/api/v1/turns/{turn}/events", headers=KEY_HEADERS)

    assert response.headers["content-type"] == "application/json"
    assert [event["sequence"] for event in response.json()["events"]] == [1, 2]


async def test_events_are_streamed_while_they_happen() -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    async def slowly(turn: Told) -> None:
        await turn.tell(started(turn))
        await gates[0].wait()
        await turn.tell(delta(0, "one"))
        await gates[1].wait()
        await turn.tell(finished(turn, "one"))

    async with running_edge(listens=True) as edge:
        edge.fakes.turns.script = slowly
        turn = await asked(edge)
        seen: list[str] = []
        async with edge.client.stream("GET", f"/api/v1/turns/{turn}/events", headers=EVENTS) as response:
            lines = (line async for line in response.aiter_lines() if line.startswith("event: "))
            async for line in lines:
                seen.append(line)
                if len(seen) <= len(gates):
                    gates[len(seen) - 1].set()

    assert seen == ["event: turn_started", "event: text_delta", "event: turn_finished"]


async def test_a_stream_without_sequence_or_kinds_is_plain_events(edge: EdgeUnderTest) -> None:
    streamed = await edge.client.get("/api/v1/documents/doc_1:watch", headers=EVENTS)
    document = await edge.client.get("/api/v1/documents/doc_1:watch", headers=KEY_HEADERS)

    assert [event["data"]["document"]["state"] for event in read(streamed.text)] == ["processing", "ready"]
    assert "id:" not in streamed.text.replace('"id":', "")
    assert [item["document"]["state"] for item in document.json()["items"]] == ["processing"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_turn_that_is_not_there_is_an_ordinary_problem(edge: EdgeUnderTest, accept: str) -> None:
    response = await edge.client.get("/api/v1/turns/turn_x/events", headers=KEY_HEADERS | {"accept": accept})

    assert (response.status_code, response.json()["reason"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 19])
async def test_a_bad_last_event_id_is_refused(edge: EdgeUnderTest, value: str) -> None:
    turn = await asked(edge)
    response = await edge.client.get(f"/api/v1/turns/{turn}/events", headers=EVENTS | {"last-event-id": value})

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "last-event-id")


async def test_a_stream_that_fails_later_ends_with_an_error_event(edge: EdgeUnderTest) -> None:
    turn = await asked(edge)
    await told(edge, turn)
    edge.fakes.turns.breaks = [NotFound.of("turn")]
    events = read((await edge.client.get(f"/api/v1/turns/{turn}/events", headers=EVENTS)).text)

    assert events[-1]["event"] == "error"
    assert (events[-1]["data"]["reason"], events[-1]["data"]["status"]) == ("NOT_FOUND", 404)


@pytest.mark.parametrize("is_following", [True, False])
async def test_a_stream_goes_on_at_another_replica_and_its_client_sees_nothing_of_it(
    edge: EdgeUnderTest, *, is_following: bool
) -> None:
    async def slowly(turn: Told) -> None:
        await turn.tell(started(turn))
        await until(lambda: edge.fakes.turns.watched == [0, 1])
        await turn.tell(delta(0, "one"), finished(turn, "one"))

    edge.fakes.turns.script = slowly
    edge.fakes.turns.breaks = [Unavailable("this process is about to end")]
    conversation = (await edge.client.post("/api/v1/conversations", json={}, headers=KEY_HEADERS)).json()["id"]
    path, body = f"/api/v1/conversations/{conversation}/turns", {"new": {"text": "q"}}
    if is_following:
        response = await edge.client.post(path, json=body, headers=EVENTS)
    else:
        turn = (await edge.client.post(path, json=body, headers=KEY_HEADERS)).json()["id"]
        response = await edge.client.get(f"/api/v1/turns/{turn}/events", headers=EVENTS)
    events = read(response.text)

    assert [event["id"] for event in events] == ["1", "2", "3"]
    assert [event["event"] for event in events] == ["turn_started", "text_delta", "turn_finished"]


async def test_a_stream_whose_service_stays_away_ends_with_an_error_event(
    edge: EdgeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RESUME_PAUSE_S", 0.0)
    turns = edge.fakes.turns

    async def stay(turn: Told) -> None:
        await turn.tell(started(turn))

    turns.script, turns.breaks = stay, [Unavailable()]
    turns.refusal, turns.refused_from = Unavailable(), 1
    turn = await asked(edge)
    events = read((await edge.client.get(f"/api/v1/turns/{turn}/events", headers=EVENTS)).text)

    assert [event["event"] for event in events] == ["turn_started", "error"]
    assert (events[-1]["data"]["reason"], events[-1]["data"]["status"]) == ("UNAVAILABLE", 503)


async def test_a_turn_that_begins_while_the_edge_leaves_is_told_and_can_be_followed_elsewhere(
    edge: EdgeUnderTest,
) -> None:
    conversation = (await edge.client.post("/api/v1/conversations", json={}, headers=KEY_HEADERS)).json()["id"]
    path = f"/api/v1/conversations/{conversation}/turns"
    await edge.edge.streams.drain()
    response = await edge.client.post(path, json={"new": {"text": "q"}}, headers=EVENTS)

    assert (response.status_code, response.text) == (200, "")
    assert response.headers["x-parley-turn"] in edge.fakes.turns.told


async def test_streams_are_bounded() -> None:
    async def stay(turn: Told) -> None:
        await turn.tell(started(turn))

    async with running_edge(listens=True, streams_max=1) as edge:
        edge.fakes.turns.script = stay
        path = f"/api/v1/turns/{await asked(edge)}/events"
        async with edge.client.stream("GET", path, headers=EVENTS) as first:
            await anext(first.aiter_lines())
            second = await edge.client.get(path, headers=EVENTS)

    assert (second.status_code, second.json()["reason"]) == (503, "OVERLOADED")
    assert second.headers["retry-after"] == "1"


async def test_no_turn_begins_that_could_not_be_followed() -> None:
    async def stay(turn: Told) -> None:
        await turn.tell(started(turn))

    async with running_edge(listens=True, streams_max=1) as edge:
        edge.fakes.turns.script = stay
        turn = await asked(edge)
        conversation = edge.fakes.turns.told[turn].turn.conversation_id
        path = f"/api/v1/conversations/{conversation}/turns"
        async with edge.client.stream("GET", f"/api/v1/turns/{turn}/events", headers=EVENTS) as first:
            await anext(first.aiter_lines())
            refused = await edge.client.post(path, json={"new": {"text": "q"}}, headers=EVENTS)

    assert (refused.status_code, refused.json()["reason"]) == (503, "OVERLOADED")
    assert refused.headers["retry-after"] == "1"
    assert list(edge.fakes.turns.told) == [turn]


async def test_a_turn_that_began_is_named_where_nobody_can_tell_of_it(edge: EdgeUnderTest) -> None:
    conversation = (await edge.client.post("/api/v1/conversations", json={}, headers=KEY_HEADERS)).json()["id"]
    edge.fakes.turns.refusal = Overloaded("too many calls are in flight", retry_after_s=1.0)
    path = f"/api/v1/conversations/{conversation}/turns"
    response = await edge.client.post(path, json={"new": {"text": "q"}}, headers=EVENTS)
    (event,) = read(response.text)

    assert response.status_code == 200
    assert response.headers["x-parley-turn"] in edge.fakes.turns.told
    assert (event["event"], event["data"]["reason"]) == ("error", "OVERLOADED")
    assert event["data"]["retry_after_s"] == 1.0


async def test_a_client_that_leaves_ends_the_call_and_not_the_turn() -> None:
    gate = asyncio.Event()

    async def slowly(turn: Told) -> None:
        await turn.tell(started(turn))
        await gate.wait()
        await turn.tell(finished(turn, "whole"))

    async with running_edge(listens=True) as edge:
        edge.fakes.turns.script = slowly
        turn = await asked(edge)
        async with edge.client.stream("GET", f"/api/v1/turns/{turn}/events", headers=EVENTS) as response:
            await anext(response.aiter_lines())
            assert edge.fakes.turns.watchers == 1
        await until(lambda: edge.fakes.turns.watchers == 0, within_s=2)
        gate.set()
        await told(edge, turn)


async def test_a_client_that_leaves_while_following_ends_the_call_too() -> None:
    async def stay(turn: Told) -> None:
        await turn.tell(started(turn))

    async with running_edge(listens=True) as edge:
        edge.fakes.turns.script = stay
        turn = await asked(edge)
        path = f"/api/v1/conversations/{edge.fakes.turns.told[turn].turn.conversation_id}/turns"
        async with edge.client.stream("POST", path, json={"new": {"text": "q"}}, headers=EVENTS) as response:
            await anext(response.aiter_lines())
        await until(lambda: edge.fakes.turns.watchers == 0, within_s=2)


async def test_a_repeated_key_follows_the_same_turn(edge: EdgeUnderTest) -> None:
    conversation = (await edge.client.post("/api/v1/conversations", json={}, headers=KEY_HEADERS)).json()["id"]
    path, headers = f"/api/v1/conversations/{conversation}/turns", EVENTS | {"idempotency-key": "k"}
    first = await edge.client.post(path, json={"new": {"text": "q"}}, headers=headers)
    again = await edge.client.post(path, json={"new": {"text": "q"}}, headers=headers | {"last-event-id": "3"})

    assert again.headers["x-parley-turn"] == first.headers["x-parley-turn"]
    assert [event["id"] for event in read(again.text)] == ["4"]
