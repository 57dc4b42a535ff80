"""What one end of a tunnel has to say, in batches: at once when idle, else all that came up during the last write.

No timers, as in `services.mesh.groupcommit`; what differs is that frames are not waited for one by one, and that large
messages take turns, part by part, so that they do not delay what is small.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from services.mesh import telemetry
from services.mesh.tunnel.frames import KIND_BITS, PART, PART_BYTES, head

BATCH_BYTES: Final = 128 * 1024
"""Of small frames in one batch; more go in the next one."""
BULK_BYTES: Final = 64 * 1024
"""Of parts of large messages in one batch: what a small frame waits for at most, besides those before it."""
BACKLOG_BYTES_MAX: Final = 4 * 1024 * 1024
"""Above this, whoever streams waits: the peer's process does not read, whatever its calls would take."""

Write = Callable[[list[int], list[bytes]], Awaitable[None]]

_BATCH: Final = telemetry.histogram(
    "parley_mesh_tunnel_batch_frames",
    "Frames of calls between our own processes that travelled together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024),
)


class Outbox:
    """Collects frames and writes them in batches while `run` runs.

    Args:
        write: sends one batch; it comes back when there is room for another.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._heads: list[int] = []
        self._bodies: list[bytes] = []
        self._bytes = 0
        self._put = self._gone = 0
        self._bulk: dict[int, _Bulk] = {}
        self._bulk_bytes = 0
        self._idle: asyncio.Future[None] | None = None
        self._is_closing = False
        self._room: asyncio.Event = asyncio.Event()
        self._room.set()

    @property
    def is_full(self) -> bool:
        """Whether those who stream should wait for `room`."""
        return self._bytes + self._bulk_bytes > BACKLOG_BYTES_MAX

    async def room(self) -> None:
        """Returns when the backlog is small enough, or nothing is written any more."""
        while self.is_full and not self._is_closing:
            self._room.clear()
            await self._room.wait()

    def put(self, frame: int, body: bytes = b"") -> None:
        """Adds a small frame, whatever else of its call still waits."""
        self._heads.append(frame)
        self._bodies.append(body)
        self._bytes += len(body)
        self._put += 1
        self._wake()

    def send(self, number: int, kind: int, body: bytes) -> None:
        """Adds a frame behind all that its call has said; a large one in parts."""
        if len(body) <= PART_BYTES and not (self._bulk and number in self._bulk):
            self.put(number << KIND_BITS | kind, body)
            return
        bulk = self._bulk.get(number)
        if bulk is None:
            bulk = self._bulk[number] = _Bulk(after=self._put)
        parts = bulk.parts
        self._bulk_bytes += len(body)
        part = head(number, PART)
        last = max(0, (len(body) - 1) // PART_BYTES) * PART_BYTES
        for start in range(0, last, PART_BYTES):
            parts.append((part, body[start : start + PART_BYTES]))
        parts.append((head(number, kind), body[last:]))
        self._wake()

    def drop(self, number: int) -> None:
        """Forgets the large messages of a call that has ended."""
        if (bulk := self._bulk.pop(number, None)) is not None:
            self._bulk_bytes -= sum(len(body) for _, body in bulk.parts)

    def close(self) -> None:
        """Makes `run` return when all is written."""
        self._is_closing = True
        self._wake()

    async def run(self) -> None:
        """Writes until closed."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not self._heads and not self._bulk:
                    if self._is_closing:
                        return
                    self._idle = loop.create_future()
                    await self._idle
                    continue
                heads, bodies = self._taken()
                _BATCH.observe(len(heads))
                await self._write(heads, bodies)
                if not self._room.is_set() and not self.is_full:
                    self._room.set()
        finally:
            self._is_closing = True
            self._room.set()

    def _wake(self) -> None:
        if self._idle is not None:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None

    def _taken(self) -> tuple[list[int], list[bytes]]:
        heads, bodies = self._heads, self._bodies
        if self._bytes <= BATCH_BYTES:
            self._heads, self._bodies, self._bytes = [], [], 0
        else:
            size = count = 0
            while size < BATCH_BYTES:
                size += len(bodies[count])
                count += 1
            self._heads, self._bodies = heads[count:], bodies[count:]
            heads, bodies = heads[:count], bodies[:count]
            self._bytes -= size
        self._gone += len(heads)
        if self._bulk:
            self._take_parts(heads, bodies)
        return heads, bodies

    def _take_parts(self, heads: list[int], bodies: list[bytes]) -> None:
        left = BULK_BYTES
        held: dict[int, _Bulk] = {}
        while left > 0 and self._bulk:
            number = next(iter(self._bulk))
            bulk = self._bulk.pop(number)
            if bulk.after > self._gone:  # what its call said before, such as its opening, goes in a later batch
                held[number] = bulk
                continue
            frame, body = bulk.parts.popleft()
            heads.append(frame)
            bodies.append(body)
            left -= len(body) or 1
            self._bulk_bytes -= len(body)
            if bulk.parts:
                self._bulk[number] = bulk  # at the end: large messages take turns
        self._bulk.update(held)


class _Bulk:
    """Large messages of one call, in parts, and what is said behind them.

    Attributes:
        after: of all small frames there ever were, how many have to be gone before.
        parts: frames, and their bodies.
    """

    __slots__ = ("after", "parts")

    def __init__(self, *, after: int) -> None:
        self.after = after
        self.parts: deque[tuple[int, bytes]] = deque()
