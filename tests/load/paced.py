"""`python -m tests.load.paced`: a provider of OpenAI's streamed chat completions that keeps to a timetable.

Each answer is what its question wishes for (`Wish`). Bare sockets and one timer for all answers: at ten thousand of
them anything else would take the machine from what is measured. Lines of its input, with instants and spans in
microseconds: `hold` and `begin <instant>` for answers that wait to be told, `end <instant> <span>` makes every open
answer end at an instant of its own in that span.
"""

import asyncio
import gc
import heapq
import sys
from itertools import count
from typing import Final, cast

import uvloop

from tests.load.double import chunk, ending, event
from tests.load.wish import STAMP_LENGTH, Wish, now_us, stamp

BACKLOG: Final = 4_096
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MARK: Final = "@" * STAMP_LENGTH
_MORE, _REST = event(chunk(0, {"content": _MARK})).split(_MARK.encode())
_BEFORE: Final = b"%x\r\n%b" % (len(_MORE) + STAMP_LENGTH + len(_REST), _MORE)
_AFTER: Final = _REST + b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_TICK_S_MIN: Final = 0.001
"""What the event loop's timers can tell apart."""


class Timetable:
    """All open answers, by when their next token is due."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Answering]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._held: list[Answering] = []
        self._begin_us = self._end_us = self._spread_us = 0

    def hold(self) -> None:
        """Answers that wait to be told wait from now on; none was told to end."""
        self._begin_us = self._end_us = 0

    def begin(self, at_us: int) -> None:
        """Those that wait begin at an instant, and those that come late at once."""
        self._begin_us = at_us
        held, self._held = self._held, []
        for answering in held:
            self.ask(answering)

    def ask(self, answering: "Answering") -> None:
        """An answer is wanted."""
        wish, now = answering.wish, now_us()
        if wish.first_us is not None:
            self.add(now + wish.first_us, answering)
        elif self._begin_us:
            self.add(max(self._begin_us, now) + round(_share(answering) * wish.apart_us), answering)
        else:
            self._held.append(answering)

    def add(self, due_us: int, answering: "Answering") -> None:
        """An answer's next token is due then."""
        heapq.heappush(self._due, (due_us, next(self._numbers), answering))
        if self._due[0][0] == due_us:
            self._arm()

    def end(self, at_us: int, spread_us: int) -> None:
        """Answers end from an instant on, spread by the number of each over so many microseconds."""
        self._end_us, self._spread_us = at_us, spread_us

    def is_over(self, answering: "Answering", now: int) -> bool:
        """Whether an answer was told to end before now."""
        if not self._end_us:
            return False
        return now >= self._end_us + _share(answering) * self._spread_us

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(_TICK_S_MIN, (self._due[0][0] - now_us()) / 1_000_000)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = now_us()
        while self._due and self._due[0][0] <= now:
            due_us, _, answering = heapq.heappop(self._due)
            following_us = answering.write(due_us, is_over=self.is_over(answering, now))
            if following_us:
                heapq.heappush(self._due, (following_us, next(self._numbers), answering))
        if self._due:
            self._arm()


class Answering(asyncio.Protocol):
    """One connection of a client, which asks again when it has its answer."""

    _numbers = count()

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._transport: asyncio.WriteTransport | None = None
        self._request = b""
        self._written = 0
        self.wish = Wish(tokens=0, apart_us=0)
        self.number = 0

    @property
    def is_connected(self) -> bool:
        """Whether its client is there."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own class, which is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._request += data
        head, found, body = self._request.partition(_HEAD_END)
        if not found or len(body) < _length(head):
            return
        self._request = b""
        self.wish, self._written = Wish.found_in(body), 0
        self.number = next(self._numbers)
        assert self._transport is not None
        self._transport.write(_HEAD)
        self._timetable.ask(self)

    def write(self, due_us: int, *, is_over: bool) -> int:
        """Writes the token that is due, or the end; gives when the next one is, 0 when nothing follows."""
        wish, transport = self.wish, self._transport
        if transport is None:
            return 0
        self._written += 1
        is_last = is_over or self._written == wish.tokens
        rest = _end_of(self._written) if is_last else b""
        transport.write(b"".join((_BEFORE, stamp(due_us), _AFTER, rest)))
        return 0 if is_last else due_us + wish.apart_us


def _share(answering: Answering) -> float:
    """Of a span, by an answer's number: neighbours are far apart, and all evenly spread."""
    return answering.number * 0.618_033_988_75 % 1.0


def _end_of(tokens: int) -> bytes:
    body = ending(tokens)
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    timetable = Timetable()
    server = await loop.create_server(lambda: Answering(timetable), "127.0.0.1", 0, backlog=BACKLOG)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match line.split():
            case ["hold"]:
                timetable.hold()
            case ["begin", at_us]:
                timetable.begin(int(at_us))
            case ["end", at_us, span_us]:
                timetable.end(int(at_us), int(span_us))
            case _:
                raise ValueError(f"not understood: {line!r}")


if __name__ == "__main__":
    gc.disable()  # nothing here makes circles, and a pause would make every token late
    uvloop.run(_serve())
