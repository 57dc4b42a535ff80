"""Event streams: framing, heads, heartbeats, bounds and ends."""

import asyncio
from collections.abc import Callable
from time import monotonic

import pytest
from starlette.types import Message

from edge.http import Exchange
from edge.sse import COMMIT_S, HEARTBEAT_S, LIFE_S_MAX, WRITE_S_MAX, EventStreams, event, frame
from services.mesh.errors import Overloaded


class Client:
    """Takes what is sent; `blocked` is a client that does not read."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def receive(self) -> Message:
        raise AssertionError("an event stream reads nothing")

    def exchange(self) -> Exchange:
        return Exchange({"type": "http", "method": "GET", "path": "/", "headers": []}, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: event({"a": "ä\n"}, name="x", number=7), 'id: 7\nevent: x\ndata: {"a":"ä\\n"}\n\n'),
        (lambda: event({}), "data: {}\n\n"),
        (lambda: frame(b"[DONE]"), "data: [DONE]\n\n"),
        (lambda: event(1, number=0), "id: 0\ndata: 1\n\n"),
    ],
)
def test_events_are_framed(made: Callable[[], bytes], text: str) -> None:
    assert made().decode() == text


async def test_the_head_goes_with_the_first_event_and_the_end_last(client: Client) -> None:
    with EventStreams().opened(client.exchange(), headers=[("x-a", "b")]) as stream:
        assert not stream.is_begun
        await stream.write(b"data: 1\n\n")
        await stream.write(b"data: 2\n\n")
        await stream.finish()

    assert [message["type"] for message in client.sent] == ["http.response.start", *["http.response.body"] * 3]
    assert (b"x-a", b"b") in client.sent[0]["headers"]
    assert client.body == b"data: 1\n\ndata: 2\n\n"
    assert not client.sent[-1]["more_body"]


async def test_a_stream_without_events_may_end_with_another_status(client: Client) -> None:
    with EventStreams().opened(client.exchange()) as stream:
        await stream.finish(empty_status=204)

    assert client.sent[0]["status"] == 204


@pytest.mark.parametrize(("idle_s", "beats"), [(HEARTBEAT_S - 0.5, 0), (HEARTBEAT_S + 0.5, 1)])
async def test_an_idle_stream_gets_a_heartbeat(client: Client, idle_s: float, beats: int) -> None:
    streams = EventStreams()
    with streams.opened(client.exchange()) as stream:
        await stream.write(b"data: 1\n\n")
        await streams.look_after(monotonic() + idle_s)

    assert client.body.count(b": heartbeat\n\n") == beats


async def test_a_stream_whose_first_event_is_late_gets_its_head(client: Client) -> None:
    streams = EventStreams()
    with streams.opened(client.exchange()) as stream:
        await streams.look_after(monotonic() + COMMIT_S / 2)
        assert not stream.is_begun
        await streams.look_after(monotonic() + COMMIT_S + 0.1)

    assert client.sent[0]["status"] == 200


async def test_nothing_follows_the_end(client: Client) -> None:
    streams = EventStreams()
    with streams.opened(client.exchange()) as stream:
        await stream.finish()
        await streams.look_after(monotonic() + HEARTBEAT_S + 1)

    assert client.body == b""


async def test_a_stream_ends_at_the_end_of_its_life(client: Client) -> None:
    streams, ended = EventStreams(), asyncio.Event()
    with streams.opened(client.exchange()) as stream:
        stream.attach(ended.set)
        await streams.look_after(monotonic() + LIFE_S_MAX + 1)

    assert ended.is_set()
    assert stream.is_ended


async def test_a_client_that_does_not_read_is_hung_up_on(client: Client) -> None:
    streams, ended = EventStreams(), asyncio.Event()
    client.reads.clear()
    with streams.opened(client.exchange()) as stream:
        stream.attach(ended.set)
        writing = asyncio.ensure_future(stream.write(b"data: 1\n\n"))
        await asyncio.sleep(0)
        await streams.look_after(monotonic() + WRITE_S_MAX - 1)
        assert not ended.is_set()
        await streams.look_after(monotonic() + WRITE_S_MAX + 1)
        writing.cancel()

    assert ended.is_set()


async def test_streams_are_bounded(client: Client) -> None:
    streams = EventStreams(streams_max=1)
    with (
        streams.opened(client.exchange()),
        pytest.raises(Overloaded) as caught,
        streams.opened(client.exchange()),
    ):
        pass
    with streams.opened(client.exchange()):
        pass

    assert caught.value.retry_after_s == 1.0


async def test_a_kept_place_is_taken_by_the_stream_it_is_for(client: Client) -> None:
    streams = EventStreams(streams_max=2)
    with streams.kept() as place, streams.opened(client.exchange()):
        with pytest.raises(Overloaded), streams.opened(client.exchange()):
            pass
        with pytest.raises(Overloaded), streams.kept():
            pass
        with streams.opened(client.exchange(), place=place), pytest.raises(Overloaded), streams.kept():
            pass
        with streams.opened(client.exchange()):
            pass
    with streams.kept(), streams.kept():
        pass


async def test_draining_ends_what_can_be_resumed_and_waits_for_the_rest(client: Client) -> None:
    streams, ended = EventStreams(), asyncio.Event()
    with streams.opened(client.exchange(), is_resumable=False) as lasting:
        lasting.attach(ended.set)
        with streams.opened(client.exchange()) as resumable:
            draining = asyncio.ensure_future(streams.drain())
            await asyncio.sleep(0)
            assert resumable.is_ended
            assert not lasting.is_ended
        assert not draining.done()
        with streams.opened(client.exchange()) as late:
            assert late.is_ended
        with pytest.raises(Overloaded), streams.opened(client.exchange(), is_resumable=False):
            pass
        streams.end_all()
    await draining

    assert ended.is_set()
