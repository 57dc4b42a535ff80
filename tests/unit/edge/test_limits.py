"""Bodies are counted as they arrive, and so are requests."""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive, Scope, Send

from edge import limits
from edge.limits import BodyLimit, Limited, json_limit, release_slot, upload_limit
from services.mesh.errors import DocumentTooLarge, InvalidArgument, MeshError, Overloaded, RequestTooLarge
from services.mesh.limiter import InFlightLimiter

LIMIT = 100


class Body:
    """ASGI `receive` of a body in pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)
        self.taken = 0

    async def __call__(self) -> Message:
        piece = self._pieces.pop(0)
        self.taken += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}


async def read_all(_scope: Scope, receive: Receive, _send: Send) -> None:
    while (await receive())["more_body"]:
        pass


async def send(_message: Message) -> None:
    raise AssertionError("nothing is sent here")


def scope(*headers: tuple[str, str], method: str = "POST") -> Scope:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http", "method": method, "path": "/", "headers": raw}


def limited(limit: BodyLimit | None = None, *, in_flight: int = 10) -> Limited:
    chosen = limit or json_limit(LIMIT)
    places = InFlightLimiter(in_flight)
    return Limited(read_all, limit_of=lambda _: chosen, places_of=lambda _: places)


@pytest.mark.parametrize("size", [0, LIMIT - 1, LIMIT])
async def test_bodies_up_to_the_limit_pass(size: int) -> None:
    await limited()(scope(("content-length", str(size))), Body([b"x" * size]), send)


async def test_a_body_that_says_it_is_larger_is_refused_unread() -> None:
    body = Body([b"x" * (LIMIT + 1)])

    with pytest.raises(RequestTooLarge) as caught:
        await limited()(scope(("content-length", str(LIMIT + 1))), body, send)
    assert caught.value.metadata == {"limit": str(LIMIT)}
    assert body.taken == 0


@pytest.mark.parametrize("headers", [[], [("content-length", "5")]])
async def test_a_body_that_lies_about_its_length_is_stopped_at_the_limit(headers: list[tuple[str, str]]) -> None:
    body = Body([b"x" * 60] * 10)

    with pytest.raises(RequestTooLarge):
        await limited()(scope(*headers), body, send)
    assert body.taken == 120


async def test_a_body_of_a_get_is_counted_too() -> None:
    with pytest.raises(RequestTooLarge):
        await limited()(scope(("content-length", "1000"), method="GET"), Body([b"x" * 1000]), send)


async def test_uploads_have_their_own_error() -> None:
    with pytest.raises(DocumentTooLarge) as caught:
        await limited(upload_limit(LIMIT))(scope(("content-length", "1000000")), Body([b""]), send)
    assert caught.value.metadata == {"limit": str(LIMIT)}


@pytest.mark.parametrize("length", ["-1", "abc", "1" * 19, ""])
async def test_a_malformed_length_is_refused(length: str) -> None:
    with pytest.raises(InvalidArgument):
        await limited()(scope(("content-length", length)), Body([b""]), send)


async def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(limits, "BODY_IDLE_S_MAX", 0.01)
    with pytest.raises(InvalidArgument, match="did not arrive in time"):
        await limited()(scope(("content-length", "5")), never, send)


async def test_requests_in_flight_are_bounded_and_streams_give_their_place_back() -> None:
    inside, leave = asyncio.Event(), asyncio.Event()

    async def wait(held: Scope, _receive: Receive, _send: Send) -> None:
        if "stream" in held:
            release_slot(held)
        inside.set()
        await leave.wait()

    places = InFlightLimiter(1)
    app = Limited(wait, limit_of=lambda _: json_limit(LIMIT), places_of=lambda _: places)
    async with asyncio.TaskGroup() as group:
        group.create_task(app({**scope(), "stream": True}, Body([b""]), send))
        await inside.wait()
        inside.clear()
        group.create_task(app(scope(), Body([b""]), send))
        await inside.wait()
        with pytest.raises(Overloaded) as caught:
            await app(scope(), Body([b""]), send)
        leave.set()

    assert isinstance(caught.value, MeshError)
