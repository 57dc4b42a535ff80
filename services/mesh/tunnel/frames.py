"""What travels in a tunnel: frames, and how each kind is written.

A frame is a head (a call's number times 16, plus the frame's kind) and a body. Frames of all calls of one end travel in
batches, in the order in which they were said. Kinds that an end does not know it passes over.

Texts are lines: metadata values cannot hold a line feed (they are printable ASCII), so splitting is all the parsing
that a call costs, 1.4 us against the 2.8 us of a message with a field for each.
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from urllib.parse import quote, unquote

KIND_BITS: Final = 4
KIND_MASK: Final = (1 << KIND_BITS) - 1

PART_BYTES: Final = 16 * 1024
"""Larger messages travel in parts, between which other calls have their turn."""
WINDOW_BYTES: Final = 64 * 1024
"""What one call may send, in one direction, of which its reader has not taken anything yet; then it waits."""
MESSAGE_COST_BYTES: Final = 64
"""What a message counts for besides its bytes: empty ones take room as well."""
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of one message, as everywhere in the mesh."""
OPENING_BYTES_MAX: Final = 16 * 1024
"""Of OPEN: what plain gRPC takes of metadata (`server.METADATA_BYTES_MAX`). It comes before anybody's token is read."""

Metadata = tuple[tuple[str, str | bytes], ...]


class Kind(IntEnum):
    """What a frame says.

    OPEN begins a call: method, microseconds it may take (empty for no bound), then metadata. MESSAGE is one message or
    the last part of one, PART another part of it. END: the client sends no more messages. LAST: a MESSAGE, and the end
    of its direction: END from a client, an OK without trailing metadata from a server. HEADERS: initial metadata.
    STATUS ends a call: code, details, then trailing metadata. CANCEL: its caller has left. WINDOW: so many bytes more
    may be sent. REFUSED: the call was not begun here, and can be begun elsewhere.

    Of the tunnel as a whole (call number 0): HELLO is the first frame of each end, and says how many bytes of each call
    it takes. LEAVING: new calls should go elsewhere. CLOSING: this end says no more, and calls with greater numbers
    than this one were never seen.
    """

    HELLO = 0
    OPEN = 1
    MESSAGE = 2
    PART = 3
    END = 4
    LAST = 5
    HEADERS = 6
    STATUS = 7
    CANCEL = 8
    WINDOW = 9
    REFUSED = 10
    LEAVING = 11
    CLOSING = 12


# Plain numbers: each frame is compared with some of them, and an attribute of an enum costs as much as the comparison.
OPEN: Final = int(Kind.OPEN)
MESSAGE: Final = int(Kind.MESSAGE)
PART: Final = int(Kind.PART)
END: Final = int(Kind.END)
LAST: Final = int(Kind.LAST)
HEADERS: Final = int(Kind.HEADERS)
STATUS: Final = int(Kind.STATUS)
CANCEL: Final = int(Kind.CANCEL)
WINDOW: Final = int(Kind.WINDOW)
REFUSED: Final = int(Kind.REFUSED)

HELLO_BODY: Final = b"%d" % WINDOW_BYTES

_BINARY: Final = "-bin"


class FrameError(ValueError):
    """A peer said what no peer of ours says: the tunnel cannot go on."""


def head(number: int, kind: int) -> int:
    """The head of a frame of call `number`."""
    return number << KIND_BITS | kind


@dataclass(frozen=True, slots=True)
class Opening:
    """What OPEN says; `timeout_s` is None where the call has no bound."""

    method: str
    timeout_s: float | None
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Ending:
    """What STATUS says; `code` is gRPC's number."""

    code: int
    details: str
    metadata: Metadata


def metadata_text(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """Metadata as lines, each with the line feed before it.

    Raises:
        ValueError: a key or value holds what gRPC refuses as well.
    """
    if not metadata:
        return ""
    parts = [""]
    for key, value in metadata:
        parts.append(key)
        if key.endswith(_BINARY):
            raw = value if isinstance(value, bytes) else value.encode()
            parts.append(b64encode(raw).decode("ascii"))
        else:
            parts.append(value if isinstance(value, str) else value.decode("ascii"))
    text = "\n".join(parts)
    if not text.isascii() or text.count("\n") != len(parts) - 1:
        raise ValueError(f"metadata was invalid: {metadata!r}")
    return text


def opening(method: str, timeout_s: float | None, metadata: str) -> bytes:
    """Body of OPEN; `metadata` is what `metadata_text` gave."""
    bound = "" if timeout_s is None else str(max(0, int(timeout_s * 1e6)))
    return f"{method}\n{bound}{metadata}".encode("ascii")


def parse_opening(body: bytes) -> Opening:
    """See `opening`.

    Raises:
        FrameError: it is not what `opening` gives.
    """
    try:
        lines = body.decode("ascii").split("\n")
        method, bound = lines[0], lines[1]
        return Opening(method, int(bound) / 1e6 if bound else None, _pairs(lines))
    except (ValueError, IndexError, OverflowError) as error:
        raise FrameError("an opening that cannot be read") from error


def ending(code: int, details: str, metadata: Sequence[tuple[str, str | bytes]]) -> bytes:
    """Body of STATUS."""
    return f"{code}\n{quote(details)}{metadata_text(metadata)}".encode("ascii")


def parse_ending(body: bytes) -> Ending:
    """See `ending`.

    Raises:
        FrameError: it is not what `ending` gives.
    """
    try:
        lines = body.decode("ascii").split("\n")
        return Ending(int(lines[0]), unquote(lines[1]), _pairs(lines))
    except (ValueError, IndexError) as error:
        raise FrameError("an ending that cannot be read") from error


def headers(metadata: Sequence[tuple[str, str | bytes]]) -> bytes:
    """Body of HEADERS."""
    return f"\n{metadata_text(metadata)}".encode("ascii")


def parse_headers(body: bytes) -> Metadata:
    """See `headers`.

    Raises:
        FrameError: it is not what `headers` gives.
    """
    try:
        return _pairs(body.decode("ascii").split("\n"))
    except ValueError as error:
        raise FrameError("headers that cannot be read") from error


def number(body: bytes) -> int:
    """The number that WINDOW, HELLO and CLOSING hold.

    Raises:
        FrameError: it is none.
    """
    try:
        return int(body)
    except ValueError as error:
        raise FrameError("a number that cannot be read") from error


def _pairs(lines: list[str]) -> Metadata:
    # The first two lines are the caller's; metadata comes after them, key by value.
    keys, values = lines[2::2], lines[3::2]
    pairs = tuple(zip(keys, values, strict=True))
    for key in keys:
        if key.endswith(_BINARY):
            return tuple((name, b64decode(text) if name.endswith(_BINARY) else text) for name, text in pairs)
    return pairs
