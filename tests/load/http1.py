"""Reads an answer of HTTP/1.1 from pieces of bytes: as little as a load needs, and nothing that it could forgive."""

from collections.abc import Iterator
from typing import Final

_HEAD_END: Final = b"\r\n\r\n"
_LINE_END: Final = b"\r\n"


class Answer:
    """One answer.

    Attributes:
        status: 0 until its head is there.
        head: lower case.
        is_whole: whether its end has come.
    """

    __slots__ = ("_left", "_rest", "head", "is_whole", "status")

    def __init__(self) -> None:
        self.status = 0
        self.head = b""
        self.is_whole = False
        self._rest = b""
        self._left: int | None = None  # of a body that is not in chunks

    def feed(self, data: bytes) -> bytes:
        """What of the body is complete with this piece.

        Raises:
            ValueError: it is no HTTP.
        """
        self._rest += data
        if not self.status and not self._read_head():
            return b""
        if self._left is None:
            return self._chunks()
        taken, self._rest = self._rest[: self._left], b""
        self._left -= len(taken)
        self.is_whole = self._left == 0
        return taken

    def header(self, name: str) -> str:
        """Of the head; empty without it."""
        for line in self.head.split(_LINE_END):
            key, _, value = line.partition(b":")
            if key == name.encode():
                return value.strip().decode()
        return ""

    def _read_head(self) -> bool:
        end = self._rest.find(_HEAD_END)
        if end < 0:
            return False
        self.head, self._rest = self._rest[:end].lower(), self._rest[end + len(_HEAD_END) :]
        self.status = int(self.head[9:12])
        if self.header("transfer-encoding") != "chunked":
            self._left = int(self.header("content-length") or "0")
        return True

    def _chunks(self) -> bytes:
        """Whole chunks only."""
        rest, at, found = self._rest, 0, []
        while not self.is_whole:
            line = rest.find(_LINE_END, at)
            if line < 0:
                break
            size = int(rest[at:line], 16)
            if len(rest) < line + size + 4:
                break
            found.append(rest[line + 2 : line + 2 + size])
            at = line + size + 4
            self.is_whole = size == 0
        self._rest = rest[at:]
        return found[0] if len(found) == 1 else b"".join(found)


class Events:
    """Splits a body into the events of a stream (WHATWG HTML, server-sent events)."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, body: bytes) -> Iterator[bytes]:
        """The events that are complete with this piece, as they were written; comments too."""
        if self._rest:
            body = self._rest + body
        *whole, self._rest = body.split(b"\n\n")
        return iter(whole)
