"""The client's end of one tunnel: calls by number, until the tunnel is left or lost."""

import asyncio
import sys
from collections.abc import Awaitable
from time import monotonic
from typing import Final

import grpc
import grpc.aio

from parley.mesh.v1 import tunnel_service_pb2
from services.mesh import telemetry
from services.mesh.tunnel.calls import OK, Call
from services.mesh.tunnel.frames import (
    CANCEL,
    END,
    HEADERS,
    HELLO_BODY,
    KIND_BITS,
    KIND_MASK,
    LAST,
    MESSAGE,
    OPEN,
    PART,
    REFUSED,
    STATUS,
    WINDOW,
    WINDOW_BYTES,
    FrameError,
    Kind,
    head,
    number,
    opening,
    parse_ending,
    parse_headers,
)
from services.mesh.tunnel.outbox import Outbox

Rpc = grpc.aio.StreamStreamCall[tunnel_service_pb2.OpenRequest, tunnel_service_pb2.OpenResponse]

_log = telemetry.logger("mesh.tunnel")
_LOST: Final = telemetry.counter("parley_mesh_tunnel_lost", "Tunnels to other processes that ended with calls on them.")


class TunnelLink:
    """See the module, and `calls.Link`.

    Args:
        rpc: the stream.

    Attributes:
        left: set when new calls should go elsewhere, for good.
        is_usable: whether calls can be begun on it.
        is_leaving: whether they had better be begun elsewhere.
    """

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._window = WINDOW_BYTES
        self._outbox = Outbox(self._write)
        self._written = 0
        self._is_retired = False
        self._first: tunnel_service_pb2.OpenResponse | None = None
        self.left = asyncio.Event()
        self.is_usable = True
        self.is_leaving = False

    @property
    def load(self) -> int:
        """Calls that are on it."""
        return len(self._calls)

    # --------------------------------------------------------------------------------------------------- for its calls

    def begin(self, call: Call) -> None:
        """See `calls.Link`."""
        this = self._next
        self._next = this + 1
        self._calls[this] = call
        call.begun(self, this, self._window)
        timeout_s = None if call.deadline is None else call.deadline - monotonic()
        self._outbox.put(this << KIND_BITS | OPEN, opening(call.method.path, timeout_s, call.metadata))
        if call.request is not None:
            self._outbox.send(this, LAST, call.request)
        elif call.is_half_closed:
            self._outbox.put(head(this, END))

    def send(self, call: Call, message: bytes) -> Awaitable[None] | None:
        """See `calls.Link`."""
        self._outbox.send(call.number, MESSAGE, message)
        return self._outbox.room() if self._outbox.is_full else None

    def end(self, call: Call) -> None:
        """See `calls.Link`."""
        self._outbox.send(call.number, END, b"")

    def cancel(self, call: Call) -> None:
        """See `calls.Link`."""
        self._drop(call.number)
        self._outbox.drop(call.number)
        self._outbox.put(head(call.number, CANCEL))

    def grant(self, call: Call, size: int) -> None:
        """See `calls.Link`."""
        self._outbox.put(head(call.number, WINDOW), b"%d" % size)

    # ------------------------------------------------------------------------------------------------- for its backend

    def retire(self) -> None:
        """Ends the tunnel with the last of its calls; new ones go elsewhere."""
        self.is_usable, self.is_leaving, self._is_retired = False, True, True
        self.left.set()
        if not self._calls:
            self._outbox.close()

    def calls(self) -> list[Call]:
        """Those that are on it."""
        return list(self._calls.values())

    async def run(self) -> None:
        """Carries calls until the tunnel ends, however that happens; then each call learns of it."""
        self._outbox.put(head(0, Kind.HELLO), HELLO_BODY)
        writer = asyncio.ensure_future(self._write_all())
        seen = sys.maxsize
        try:
            seen = await self._read()
        except (grpc.aio.AioRpcError, FrameError) as error:
            _log.info("tunnel_lost", calls=len(self._calls), error=_reason(error))
        finally:
            self._rpc.cancel()
            writer.cancel()
            self._end(seen)
            await asyncio.gather(writer, return_exceptions=True)
            del self._rpc  # or its connection stays open until Python looks for garbage

    async def greeted(self) -> None:
        """Returns when the peer has said its first words.

        Raises:
            AioRpcError: it will not.
            FrameError: it says what no peer of ours says.
        """
        batch = await self._rpc.read()
        if not isinstance(batch, tunnel_service_pb2.OpenResponse) or not batch.heads or batch.heads[0] != Kind.HELLO:
            raise FrameError("no greeting")
        self._window = number(batch.bodies[0])
        self._first = batch

    async def _write_all(self) -> None:
        try:
            await self._outbox.run()
            await self._rpc.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader learns why

    async def _write(self, heads: list[int], bodies: list[bytes]) -> None:
        self._written = self._next  # what has a smaller number may be on its way from here on
        await self._rpc.write(tunnel_service_pb2.OpenRequest(heads=heads, bodies=bodies))

    async def _read(self) -> int:
        """The number from which on the peer has seen no calls."""
        read = self._rpc.read
        batch: object = self._first  # the peer may have said more than its greeting
        while isinstance(batch, tunnel_service_pb2.OpenResponse):
            # Copied at once: to take an item from a repeated field costs as much as all else that is done with it.
            for frame, body in zip(tuple(batch.heads), tuple(batch.bodies), strict=True):
                call = self._calls.get(frame >> KIND_BITS)
                if call is not None:
                    self._tell(call, frame & KIND_MASK, body)
                elif frame == Kind.LEAVING:
                    self.is_leaving = True
                    self.left.set()
                elif frame == Kind.CLOSING:
                    return number(body) + 1
            batch = await read()
        return self._written

    def _tell(self, call: Call, kind: int, body: bytes) -> None:
        if kind == LAST:
            self._drop(call.number)
            call.told(body)
            call.told_end(OK, "", ())
        elif kind == MESSAGE:
            call.told(body)
        elif kind == STATUS:
            ending = parse_ending(body)
            self._drop(call.number)
            call.told_end(ending.code, ending.details, ending.metadata)
        elif kind == WINDOW:
            call.told_credit(number(body))
        elif kind == PART:
            call.told_part(body)
        elif kind == HEADERS:
            call.told_headers(parse_headers(body))
        elif kind == REFUSED:
            self._drop(call.number)
            self.is_usable = False
            self.left.set()
            call.told_lost(may_have_begun=False)

    def _drop(self, this: int) -> None:
        self._calls.pop(this, None)
        if self._is_retired and not self._calls:
            self._outbox.close()

    def _end(self, seen: int) -> None:
        self.is_usable = False
        self.left.set()
        if self._calls:
            _LOST.inc()
        calls, self._calls = self._calls, {}
        for this, call in calls.items():
            call.told_lost(may_have_begun=this < min(seen, self._written))


def _reason(error: Exception) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
