"""Server-sent events as raw ASGI messages: heads, heartbeats, bounds and ends of all open streams.

One loop looks after every stream once a second, so that a stream costs no timer and no second task.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

import orjson

from edge.connection import connection_of
from edge.http import EVENT_STREAM, Exchange, HeaderList
from edge.limits import release_slot
from services.mesh import telemetry
from services.mesh.errors import Overloaded
from services.mesh.tasks import Loop

HEARTBEAT_S: Final = 15.0
COMMIT_S: Final = 1.0
"""A stream whose first event is this late gets its head without it; until then an error is an ordinary answer."""
HEARTBEAT_WRITE_S: Final = 5.0
"""A heartbeat that cannot be written in this time meets a client that has not read for a heartbeat already."""
WRITE_S_MAX: Final = 30.0
"""A client that takes no byte for this long is hung up on."""
LIFE_S_MAX: Final = 3_600.0
"""Then a stream ends, and its client resumes it; what the mesh allows a stream."""
TICK_S: Final = 1.0
STREAMS_MAX: Final = 10_000
"""At some 15 KB each."""

_HEADERS: Final[HeaderList] = (("cache-control", "no-store"), ("x-accel-buffering", "no"))
_HEARTBEAT: Final = b": heartbeat\n\n"

_OPEN: Final = telemetry.gauge("parley_edge_streams_open_count", "Event streams that are open.")
_EVENTS: Final = telemetry.counter("parley_edge_stream_events", "Events written to streams.")

Cancel = Callable[[], object]


def event(data: object, *, name: str | None = None, number: int | None = None) -> bytes:
    """The text of one event."""
    return frame(orjson.dumps(data), name=name, number=number)


def frame(data: bytes, *, name: str | None = None, number: int | None = None) -> bytes:
    """The text of one event whose data is JSON already: one line, as JSON has no bare line ends."""
    head = b"" if number is None else b"id: %d\n" % number
    if name is not None:
        head += b"event: %b\n" % name.encode()
    return b"%bdata: %b\n\n" % (head, data)


class EventStream:
    """One answer that is a stream of events.

    Attributes:
        is_resumable: whether the client can go on elsewhere, so that the edge may end the stream at any event.
        is_ended: the edge itself ended it: drained, or too old.
    """

    def __init__(self, exchange: Exchange, headers: HeaderList, *, is_resumable: bool) -> None:
        self._exchange = exchange
        self._headers = (*_HEADERS, *headers)
        self._cancel: Cancel | None = None
        self._writing = asyncio.Lock()
        self._is_begun = False
        self._is_finished = False
        self._opened = self._touched = monotonic()
        self.is_resumable = is_resumable
        self.is_ended = False

    def attach(self, cancel: Cancel) -> None:
        """`cancel` ends the call that feeds the stream."""
        self._cancel = cancel

    def add_headers(self, headers: HeaderList) -> None:
        """What is known only now; it is too late once the head has been sent."""
        self._headers = (*self._headers, *headers)

    async def write(self, text: bytes, *, events: int = 1) -> None:
        """Send events, after the head; what is given together is sent together."""
        self._touched = monotonic()
        async with self._writing:
            await self._begin()
            await self._exchange.write(text)
        self._touched = monotonic()
        _EVENTS.inc(events)

    async def finish(self, text: bytes = b"", *, empty_status: int = 200) -> None:
        """Send the last event, if there is one, and the end; nothing follows.

        A stream to which nothing was written ends with `empty_status`.
        """
        async with self._writing:
            self._is_finished = True
            if empty_status != 200 and not self._is_begun:  # noqa: PLR2004 - OK is what a stream begins with
                self._is_begun = True
                await self._exchange.respond(empty_status)
                return
            await self._begin()
            await self._exchange.write(text, more=False)
        if text:
            _EVENTS.inc()

    @property
    def is_begun(self) -> bool:
        """Whether the head has been sent, so that an error can only be an event."""
        return self._is_begun

    def end(self) -> None:
        """Let the stream end here."""
        self.is_ended = True
        if self._cancel is not None:
            self._cancel()

    def is_due(self, now: float) -> bool:
        """Whether the stream needs looking after."""
        idle_s = COMMIT_S if not self._is_begun else HEARTBEAT_S
        return now - self._touched > idle_s or now - self._opened > LIFE_S_MAX

    async def look_after(self, now: float) -> None:
        """Does what is due: a head, a heartbeat, an end, or hanging up on a client that does not read."""
        if self._writing.locked():
            if now - self._touched > WRITE_S_MAX:
                self._hang_up()
        elif now - self._opened > LIFE_S_MAX:
            self.end()
        elif not self._is_finished:
            try:
                async with asyncio.timeout(HEARTBEAT_WRITE_S):
                    await self.write(_HEARTBEAT, events=0)
            except TimeoutError:
                self._hang_up()

    async def _begin(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            await self._exchange.begin(200, media_type=EVENT_STREAM, headers=self._headers)

    def _hang_up(self) -> None:
        connection = connection_of(self._exchange.scope)
        if connection is None:
            self.end()
        else:
            connection.abort()


class Place:
    """Room for one stream, which no other one takes."""


class EventStreams:
    """All open streams of the process."""

    def __init__(self, *, streams_max: int = STREAMS_MAX) -> None:
        self._streams_max = streams_max
        self._open: set[EventStream] = set()
        self._kept: set[Place] = set()
        self._is_draining = False
        self._none_open = asyncio.Event()
        self._none_open.set()

    @contextmanager
    def kept(self) -> Iterator[Place]:
        """Room for the stream of a request that begins something first, and must not be refused behind that.

        Raises:
            Overloaded: there are as many as may be.
        """
        self._check_room()
        place = Place()
        self._kept.add(place)
        try:
            yield place
        finally:
            self._kept.discard(place)

    @contextmanager
    def opened(
        self, exchange: Exchange, *, headers: HeaderList = (), is_resumable: bool = True, place: Place | None = None
    ) -> Iterator[EventStream]:
        """A stream that is looked after while the body runs.

        Args:
            exchange: whose answer it is.
            headers: of the answer.
            is_resumable: see `EventStream`.
            place: that was kept for it.

        Raises:
            Overloaded: there are as many as may be, or the process is about to end. A stream that can be resumed is
                not refused then, for what it follows may have begun with this very request: it has ended already.
        """
        if place is None:
            self._check_room()
        else:
            self._kept.discard(place)
        if self._is_draining and not is_resumable:
            raise _full()
        stream = EventStream(exchange, headers, is_resumable=is_resumable)
        stream.is_ended = self._is_draining
        release_slot(exchange.scope)
        self._open.add(stream)
        self._none_open.clear()
        _OPEN.set(len(self._open))
        try:
            yield stream
        finally:
            self._open.discard(stream)
            if not self._open:
                self._none_open.set()
            _OPEN.set(len(self._open))

    def _check_room(self) -> None:
        if len(self._open) + len(self._kept) >= self._streams_max:
            raise _full()

    def loop(self) -> Loop:
        """The loop that looks after the streams."""
        return Loop("event_streams", self._run)

    async def drain(self) -> None:
        """Ends streams that can be resumed elsewhere, and waits for the others to end by themselves."""
        self._is_draining = True
        for stream in list(self._open):
            if stream.is_resumable:
                stream.end()
        await self._none_open.wait()

    def end_all(self) -> None:
        """Ends the streams that did not end by themselves in the time to drain."""
        for stream in list(self._open):
            stream.end()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.look_after(monotonic())

    async def look_after(self, now: float) -> None:
        """One round over all streams; each is bounded by itself, so a stuck one holds up nobody."""
        async with asyncio.TaskGroup() as group:
            for stream in self._open:
                if stream.is_due(now):
                    group.create_task(stream.look_after(now))


def _full() -> Overloaded:
    return Overloaded("too many event streams are open", retry_after_s=1.0)
