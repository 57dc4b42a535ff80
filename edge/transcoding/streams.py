"""Server streams on HTTP: messages to server-sent events, or to one JSON document of what there is."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final

from google.protobuf.message import Message

from edge.errors import problem_members
from edge.http import Exchange, HeaderList
from edge.sse import EventStream, EventStreams, Place, event
from edge.transcoding.contracts import Contract, message_of
from edge.transcoding.encoding import Encode, Encoders
from edge.transcoding.requests import LAST_EVENT_ID
from services.mesh import context
from services.mesh.client import streaming
from services.mesh.errors import Code, MeshError, RequestTooLarge, Unavailable

DOCUMENT_ITEMS_MAX: Final = 20_000
"""Of a stream that is asked for as one document: an answer of 100,000 characters, event by event."""
ITEMS_FIELD: Final = "items"
"""Member of that document when the contract names none."""
ERROR_EVENT: Final = "error"
NO_CONTENT: Final = 204
RESUMES_MAX: Final = 5
"""How often in a row a call that broke off is followed by another without an event between: a service that restarts
breaks off once, one that is down for longer is the client's to wait for."""
RESUME_PAUSE_S: Final = 0.2

Begin = Callable[[int | None], Awaitable[Any]]
"""Begins a call, behind the event with the given id or where the request says. Any: grpc.aio's call, generic in both
messages."""


class EventWriter:
    """Makes events of the messages of one server-streaming method.

    Attributes:
        is_resumable: whether a call can begin behind an event.
    """

    def __init__(self, contract: Contract, encoders: Encoders) -> None:
        rules, output = contract.event_stream, contract.method.output_type
        assert rules is not None
        item = message_of(output.fields_by_name[rules.items_field]) if rules.items_field else output
        self._items_field = rules.items_field
        self._id_field = rules.id_field
        self.is_resumable = bool(rules.id_field and rules.resume_field)
        self._kind_oneof = rules.kind_oneof
        self._encode: Encode = encoders.of(item)

    def write(self, message: Message) -> tuple[bytes, int]:
        """The text of all events of a message, and their number."""
        events = [self._event(item) for item in self._items(message)]
        return b"".join(events), len(events)

    def last_id(self, message: Message) -> int | None:
        """The id of the last event of a message; None when events have none."""
        ids: list[int] = [getattr(item, self._id_field) for item in self._items(message)] if self._id_field else []
        return ids[-1] if ids else None

    async def document(self, call: Any) -> dict[str, object]:  # Any: grpc.aio's call, generic in both messages
        """All events that a call gives until it ends.

        Raises:
            RequestTooLarge: they are more than one document may hold.
        """
        found: list[dict[str, object]] = []
        async with streaming(call) as messages:
            async for message in messages:
                found += [self._encode(item) for item in self._items(message)]
                if len(found) > DOCUMENT_ITEMS_MAX:
                    raise RequestTooLarge(
                        "there are too many events for one document: ask for `text/event-stream`",
                        metadata={"limit": str(DOCUMENT_ITEMS_MAX)},
                    )
        return {self._items_field or ITEMS_FIELD: found}

    def _items(self, message: Message) -> Iterable[Message]:
        return getattr(message, self._items_field) if self._items_field else (message,)

    def _event(self, item: Message) -> bytes:
        return event(
            self._encode(item),
            name=item.WhichOneof(self._kind_oneof) if self._kind_oneof else None,
            number=getattr(item, self._id_field) if self._id_field else None,
        )


class StreamPump:
    """Moves the messages of calls to the caller's event stream."""

    def __init__(self, streams: EventStreams) -> None:
        self._streams = streams

    def kept(self) -> AbstractContextManager[Place]:
        """See `EventStreams.kept`."""
        return self._streams.kept()

    async def run(
        self,
        exchange: Exchange,
        begin: Begin,
        writer: EventWriter,
        *,
        headers: HeaderList = (),
        place: Place | None = None,
    ) -> None:
        """Answer with the events of a call, which is cancelled as soon as the caller leaves.

        Args:
            exchange: what is answered.
            begin: the calls.
            writer: of their events.
            headers: of the answer.
            place: that was kept for the stream, because the request has begun something: that nobody can tell of it now
                is an event, for the headers say what it was and where to go on.

        Raises:
            MeshError: the call failed before anything was sent; later the error is an event.
        """
        with self._streams.opened(exchange, headers=headers, place=place) as stream:
            await _feed(stream, begin, writer, has_begun=place is not None)
            # Nothing after what the browser has: 204 tells it to stop reconnecting (HTML, section 9.2.3).
            is_known = exchange.header(LAST_EVENT_ID) is not None and not stream.is_ended
            await stream.finish(empty_status=NO_CONTENT if is_known else 200)


async def _feed(stream: EventStream, begin: Begin, writer: EventWriter, *, has_begun: bool) -> None:
    """Write events until they end, or until the edge ends the stream.

    Raises:
        MeshError: the call failed before anything was sent.
    """
    try:
        await _feed_from_calls(stream, begin, writer)
    except MeshError as error:
        if not stream.is_begun and not (has_begun and error.code is Code.UNAVAILABLE):
            raise
        await stream.write(event(problem_members(error, context.request_id()), name=ERROR_EVENT))
    except asyncio.CancelledError:
        # Either our own call was cancelled by `stream.end()`, or this task was, because the client left.
        task = asyncio.current_task()
        if not stream.is_ended or (task is not None and task.cancelling()):
            raise


async def _feed_from_calls(stream: EventStream, begin: Begin, writer: EventWriter) -> None:
    """Write what calls give: where one breaks off because its process went, the next one goes on at another."""
    last_id: int | None = None
    failures = 0
    while not stream.is_ended:
        call = await begin(last_id)
        stream.attach(call.cancel)
        try:
            async with streaming(call) as messages:
                async for message in messages:
                    text, events = writer.write(message)
                    await stream.write(text, events=events)
                    last_id, failures = writer.last_id(message), 0
            return
        except Unavailable:
            if failures >= RESUMES_MAX or not writer.is_resumable:
                raise
        failures += 1
        await asyncio.sleep(RESUME_PAUSE_S)
