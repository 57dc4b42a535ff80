"""What a caller has seen of the database goes to the service with its call, and comes back with the answer."""

import pytest

from services.mesh.rpc import Position
from tests.support.edge import KEY_HEADERS, EdgeUnderTest

CONVERSATIONS = "/api/v1/conversations"


async def test_caller_that_wants_its_position_is_told_it(edge: EdgeUnderTest) -> None:
    edge.fakes.conversations.position = Position(1, 0x3A4B)
    written = await edge.client.post(CONVERSATIONS, json={}, headers={**KEY_HEADERS, "parley-position": "none"})
    assert written.headers["parley-position"] == "conversation.main=1-3a4b"

    edge.fakes.conversations.position = Position(1, 0x3A00)
    told = [
        ("parley-position", "conversation.main=1-3a4b"),
        ("parley-position", "retrieval.main=1-1, conversation.b=1-7"),
    ]
    read = await edge.client.get(CONVERSATIONS, headers=[*KEY_HEADERS.items(), *told])

    assert edge.fakes.conversations.seen[-1] == Position(1, 0x3A4B)
    assert read.headers["parley-position"] == "conversation.b=1-7, conversation.main=1-3a4b, retrieval.main=1-1"


@pytest.mark.parametrize("stream", [True, False])
async def test_question_by_the_dialect_of_openai_is_seen(edge: EdgeUnderTest, *, stream: bool) -> None:
    edge.fakes.turns.position = Position(1, 0x3A4B)
    asked = {"model": "extractive", "messages": [{"role": "user", "content": "Who?"}], "stream": stream}
    answer = await edge.client.post(
        "/v1/chat/completions", json=asked, headers={**KEY_HEADERS, "parley-position": "none"}
    )
    assert answer.headers["parley-position"] == "conversation.main=1-3a4b"


async def test_question_is_seen_when_its_answer_is_streamed(edge: EdgeUnderTest) -> None:
    edge.fakes.turns.position = Position(1, 0x3A4B)
    headers = {**KEY_HEADERS, "parley-position": "none", "accept": "text/event-stream"}
    path = f"{CONVERSATIONS}/conv_01m81yxdt5er79mzf15ea65abm/turns"
    answer = await edge.client.post(path, json={"new": {"text": "Who?"}}, headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["parley-position"] == "conversation.main=1-3a4b"


async def test_call_that_changes_something_is_taken_for_one_that_has_seen_nothing(edge: EdgeUnderTest) -> None:
    headers = {**KEY_HEADERS, "parley-position": "conversation.main=1-1"}
    await edge.client.post(CONVERSATIONS, json={}, headers=headers)
    assert edge.fakes.conversations.seen == [None]


async def test_caller_that_sends_no_position_is_told_none(edge: EdgeUnderTest) -> None:
    edge.fakes.conversations.position = Position(1, 1)
    written = await edge.client.post(CONVERSATIONS, json={}, headers=KEY_HEADERS)
    assert "parley-position" not in written.headers


async def test_what_is_no_position_says_nothing(edge: EdgeUnderTest) -> None:
    for word in ("x" * 10_000, "conversation.main=1-zz", "\xe4=1-1", "=,=,-"):
        sent = [*KEY_HEADERS.items(), ("parley-position", word)]
        headers = [(name.encode(), value.encode("latin-1")) for name, value in sent]
        read = await edge.client.get(CONVERSATIONS, headers=headers)
        assert (read.status_code, read.headers["parley-position"]) == (200, "none")
