"""Reads server-sent events from bytes, bounded, without objects per line; the vendors' JSON is read path by path.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6. Only what both vendors use:
`event` and `data` fields and comments; lines end with LF or CRLF.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import httpx2
import orjson

from services.inference.providers.failures import Failure

# The longest event seen from either vendor is a few KiB; a larger one is a fault or an attack.
EVENT_BYTES_MAX: Final = 1_048_576
# How long the token counts may take after the last word, and the end of the body after the end mark.
SETTLE_S: Final = 2.0
DRAIN_S: Final = 0.1


class MalformedStream(Exception):  # noqa: N818 - a state of the stream, turned into a Failure by the adapter
    """The bytes are not what the vendor's format says."""


class ByteStream(Protocol):
    """The part of the SDKs' responses that is used."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the answer."""
        ...

    def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """The body as it comes."""
        ...


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event; `name` is empty when the stream gave none."""

    name: str
    data: bytes


async def server_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[ServerEvent, None]:
    """Events of a body; an event that the end of the body cuts off is not given, one that comes twice once.

    Raises:
        MalformedStream: an event is longer than the bound, or not in its order as far as the stream tells one.
    """
    rest = b""
    name = ""
    data: list[bytes] = []
    size = 0
    order = _Order()
    async for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for raw in lines:
            line = raw.removesuffix(b"\r")
            size += len(line)
            if not line:
                if data and order.is_next(body := b"\n".join(data)):
                    yield ServerEvent(name, body)
                name, data, size = "", [], 0
            elif line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"event:"):
                name = line[6:].strip().decode("utf-8", "replace")
            elif line.startswith(b"id:"):
                order.number(line[3:].strip())
        if size + len(rest) > EVENT_BYTES_MAX:
            raise MalformedStream("an event is too long")


class _Order:
    """Whether events come once and in their order, as far as the stream tells.

    Neither vendor numbers its events. Two marks tell all the same: `id:` lines with numbers, which some servers and
    proxies send, and OpenAI's `obfuscation`, random per chunk, by which a chunk is told from one that says the same.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._is_repeated = False
        self._last = b""

    def number(self, text: bytes) -> None:
        """The event at hand has this id.

        Raises:
            MalformedStream: one between the last event and this one is missing.
        """
        if not text.isdigit():
            return
        number = int(text)
        if self._number is not None:
            if number > self._number + 1:
                raise MalformedStream("events are not in their order")
            self._is_repeated = number <= self._number
        self._number = number if self._number is None else max(self._number, number)

    def is_next(self, body: bytes) -> bool:
        """Whether the event at hand is new."""
        is_repeated = self._is_repeated or (body == self._last and b'"obfuscation":' in body)
        self._is_repeated, self._last = False, body
        return not is_repeated


async def settle(
    events: AsyncIterator[ServerEvent], take: Callable[[ServerEvent], object], *, is_last: Callable[[ServerEvent], bool]
) -> None:
    """Reads what follows the end of an answer: its token counts, the end mark, and the end of the body.

    The answer is complete by now, so nothing that goes wrong here may spoil it, and nothing may hold it up for long.

    Raises:
        MalformedStream: text came after the end, so the answer was not complete.
    """
    clock = asyncio.get_running_loop().time
    is_late = False
    with suppress(TimeoutError, MalformedStream, Failure, httpx2.HTTPError):
        async with asyncio.timeout(SETTLE_S) as timer:
            async for event in events:
                is_late = bool(take(event)) or is_late
                if is_last(event):
                    # Only a body that is read to its end gives the connection back for the next call.
                    timer.reschedule(clock() + DRAIN_S)
    if is_late:
        raise MalformedStream("text came after the end")


def parse(data: bytes) -> object:
    """The JSON of an event.

    Raises:
        MalformedStream: it is no JSON, or not UTF-8.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise MalformedStream("an event is no JSON") from None


def at(value: object, *path: str | int) -> object:
    """What lies at `path` in parsed JSON, or None."""
    for step in path:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and len(value) > step else None
    return value


def text_at(value: object, *path: str | int) -> str:
    """The text at `path`, empty when there is none."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def count_at(value: object, *path: str | int) -> int | None:
    """The count at `path`; None when there is none."""
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def require_events(headers: Mapping[str, str]) -> None:
    """Refuses what a proxy or a wrong address answers with.

    Raises:
        MalformedStream: the body is no event stream.
    """
    kind = headers.get("content-type", "")
    if not kind.lower().startswith("text/event-stream"):
        raise MalformedStream("the body is no event stream")
