"""Reads server-sent events from bytes, bounded, without objects per line; the vendors' JSON is read path by path.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6. Only what both vendors use:
`event` and `data` fields and comments; lines end with LF or CRLF.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import httpx2
import orjson

from services.mesh.errors import MeshError

# The longest event seen from either vendor is a few KiB; a larger one is a fault or an attack.
EVENT_BYTES_MAX: Final = 1_048_576
# How long the token counts may take after the last word, and the end of the body after the end mark.
SETTLE_S: Final = 2.0
DRAIN_S: Final = 0.1


class MalformedStream(Exception):  # noqa: N818 - a state of the stream, turned into a MeshError by the adapter
    """The bytes are not what the vendor's format says."""


class ByteStream(Protocol):
    """The part of the SDKs' responses that is used."""

    def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """The body as it comes."""
        ...


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event; `name` is empty when the stream gave none."""

    name: str
    data: bytes


async def server_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[ServerEvent, None]:
    """Events of a body; an event that the end of the body cuts off is not given.

    Raises:
        MalformedStream: an event is longer than the bound.
    """
    rest = b""
    name = ""
    data: list[bytes] = []
    size = 0
    async for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for raw in lines:
            line = raw.removesuffix(b"\r")
            size += len(line)
            if not line:
                if data:
                    yield ServerEvent(name, b"\n".join(data))
                name, data, size = "", [], 0
            elif line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"event:"):
                name = line[6:].strip().decode("utf-8", "replace")
        if size + len(rest) > EVENT_BYTES_MAX:
            raise MalformedStream("an event is too long")


async def settle(
    events: AsyncIterator[ServerEvent], take: Callable[[ServerEvent], object], *, is_last: Callable[[ServerEvent], bool]
) -> None:
    """Reads what follows the end of an answer: its token counts, the end mark, and the end of the body.

    The answer is complete by now, so nothing that goes wrong here may spoil it, and nothing may hold it up for long.
    """
    clock = asyncio.get_running_loop().time
    with suppress(TimeoutError, MalformedStream, MeshError, httpx2.HTTPError):
        async with asyncio.timeout(SETTLE_S) as timer:
            async for event in events:
                take(event)
                if is_last(event):
                    # Only a body that is read to its end gives the connection back for the next call.
                    timer.reschedule(clock() + DRAIN_S)


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
