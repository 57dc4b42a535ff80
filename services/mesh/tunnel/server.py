"""The server's end of tunnels: the servicers of a process, answering calls that come in frames."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import grpc.aio

from parley.mesh.v1 import tunnel_service_pb2, tunnel_service_pb2_grpc
from services.mesh import telemetry
from services.mesh.errors import MeshError
from services.mesh.rpc import RpcContext
from services.mesh.status import to_wire
from services.mesh.tunnel.context import TunnelContext
from services.mesh.tunnel.frames import (
    CANCEL,
    END,
    HELLO_BODY,
    KIND_BITS,
    KIND_MASK,
    LAST,
    MESSAGE,
    OPEN,
    OPENING_BYTES_MAX,
    PART,
    REFUSED,
    STATUS,
    WINDOW,
    WINDOW_BYTES,
    FrameError,
    Kind,
    ending,
    head,
    number,
    parse_opening,
)
from services.mesh.tunnel.outbox import Outbox
from services.mesh.tunnel.served import Served, served

PATH: Final = "/parley.mesh.v1.TunnelService/Open"
"""Of the RPC that carries calls; interceptors run around each call on it, and not around the carrier."""
_LEAVING_TEXT: Final = "this process is about to end"
_UNIMPLEMENTED: Final = int(grpc.StatusCode.UNIMPLEMENTED.value[0])
_EXHAUSTED: Final = int(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])

_log = telemetry.logger("mesh.tunnel")
_OPEN: Final = telemetry.gauge("parley_mesh_tunnel_open_count", "Tunnels that other processes have open to this one.")

# Any: handlers of all messages
Find = Callable[[str], "grpc.RpcMethodHandler[Any, Any] | None"]
Admit = Callable[[RpcContext], object]


class TunnelServer(tunnel_service_pb2_grpc.TunnelServiceServicer):
    """The servicer of `parley.mesh.v1.TunnelService`.

    Args:
        find: gives the handler of a path as plain gRPC on this server calls it, interceptors included; None for none.
        admit: looks at who opens a tunnel, and raises a MeshError where they may not.
    """

    def __init__(self, find: Find, admit: Admit | None = None) -> None:
        self._find = find
        self._admit = admit
        self._methods: dict[str, Served] = {}
        self._sessions: set[_Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_leaving = False

    async def Open(  # type: ignore[override]  # noqa: N802 - it writes where the stub's base class yields
        self, request_iterator: AsyncIterator[tunnel_service_pb2.OpenRequest], context: RpcContext
    ) -> None:
        """See the contract. It writes instead of yielding: a generator's `finally` would run some day."""
        if self._is_leaving:
            await context.abort(grpc.StatusCode.UNAVAILABLE, _LEAVING_TEXT)
        if self._admit is not None:
            try:
                self._admit(context)
            except MeshError as error:
                _log.warning("tunnel_forbidden", cause=repr(error.__cause__ or error))
                await context.abort_with_status(to_wire(error))
        session = _Session(self, context, self._tasks)
        self._sessions.add(session)
        _OPEN.inc()
        is_unreadable = False
        try:
            await session.run()
        except* FrameError:
            _log.exception("tunnel_unreadable")
            is_unreadable = True
        except* grpc.aio.BaseError as lost:
            # Its end is the end of a write or a read here; who called knows it by itself.
            _log.info("tunnel_lost", error=repr(lost.exceptions[0]))
        finally:
            _OPEN.dec()
            self._sessions.discard(session)
            session.cut()
        if is_unreadable:
            await context.abort(grpc.StatusCode.INTERNAL, "a frame that cannot be read")

    def leave(self) -> None:
        """Tells all peers that new calls should go elsewhere; those that come all the same are answered."""
        self._is_leaving = True
        for session in self._sessions:
            session.leave()

    def refuse(self) -> None:
        """Begins no further calls; each tunnel ends with the last of its calls."""
        for session in tuple(self._sessions):
            session.refuse()

    async def ended(self) -> None:
        """Returns when the handlers of all calls have ended; their tunnels have."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def served(self, path: str) -> Served | None:
        """The method behind a path; None for none."""
        found = self._methods.get(path)
        if found is None:
            handler = self._find(path)
            if handler is not None:  # paths that nobody serves are the peer's to invent, so they are not remembered
                found = self._methods[path] = served(handler)
        return found


class _Session:
    """One tunnel: the calls on it, and what they say to its other end."""

    def __init__(self, server: TunnelServer, context: RpcContext, tasks: set[asyncio.Task[None]]) -> None:
        self._server = server
        self._context = context
        self._tasks = tasks
        self._calls: dict[int, TunnelContext] = {}
        self._last = 0
        self._window = WINDOW_BYTES
        self._is_half_closed = self._is_refusing = self._is_closed = False
        self.outbox = Outbox(self._write)
        self.loop = asyncio.get_running_loop()

    @property
    def carrying(self) -> RpcContext:
        """See `Carrier`."""
        return self._context

    async def run(self) -> None:
        """Answers until the other end has no more, or this one has refused further calls and ended the present ones."""
        self.outbox.put(head(0, Kind.HELLO), HELLO_BODY)
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(), name="tunnel reader")
            try:
                await self.outbox.run()
            finally:
                reader.cancel()

    def leave(self) -> None:
        """See `TunnelServer.leave`."""
        self.outbox.put(head(0, Kind.LEAVING))

    def refuse(self) -> None:
        """See `TunnelServer.refuse`."""
        self._is_refusing = True
        self._close_if_done()

    def cut(self) -> None:
        """The tunnel is no more, and with it the callers."""
        self._is_closed = True
        for call in tuple(self._calls.values()):
            call.cancel()

    def ended(self, call: int) -> None:
        """See `Carrier`."""
        self._calls.pop(call, None)
        if self._is_half_closed or self._is_refusing:
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._calls and not self._is_closed:
            self._is_closed = True
            self.outbox.put(head(0, Kind.CLOSING), b"%d" % self._last)
            self.outbox.close()

    async def _write(self, heads: list[int], bodies: list[bytes]) -> None:
        await self._context.write(tunnel_service_pb2.OpenResponse(heads=heads, bodies=bodies))

    async def _read(self) -> None:
        read, eof = self._context.read, grpc.aio.EOF
        while (batch := await read()) is not eof:
            if len(batch.heads) != len(batch.bodies):
                raise FrameError("heads and bodies are not as many")
            # Copied at once: to take an item from a repeated field costs as much as all else that is done with it.
            for frame, body in zip(tuple(batch.heads), tuple(batch.bodies), strict=True):
                kind, call = frame & KIND_MASK, frame >> KIND_BITS
                if kind == OPEN:
                    self._open(call, body)
                elif (found := self._calls.get(call)) is not None:
                    self._say(found, kind, body)
                elif kind == Kind.HELLO:
                    self._window = number(body)
            if self.outbox.is_full:  # whoever asks and does not listen is heard no more
                await self.outbox.room()
        self._is_half_closed = True
        self._close_if_done()

    def _open(self, call: int, body: bytes) -> None:
        if self._is_closed:
            return  # CLOSING has said that this one was not seen
        if call <= self._last:
            raise FrameError("a call that has been begun already")  # its end would be taken for that of the other
        self._last = call
        if self._is_refusing:
            self.outbox.put(head(call, REFUSED))
            return
        if len(body) > OPENING_BYTES_MAX:
            text = f"received metadata size exceeds limit ({len(body)} vs. {OPENING_BYTES_MAX})"
            self.outbox.put(head(call, STATUS), ending(_EXHAUSTED, text, ()))
            return
        opening = parse_opening(body)
        method = self._server.served(opening.method)
        if method is None:
            self.outbox.put(head(call, STATUS), ending(_UNIMPLEMENTED, "Method not found!", ()))
            return
        context = self._calls[call] = TunnelContext(self, call, method, opening, window=self._window)
        if method.streams_requests:
            context.begin(self._tasks)

    def _say(self, call: TunnelContext, kind: int, body: bytes) -> None:
        if kind in (LAST, MESSAGE):
            message = call.whole(body)
            if call.waits_for_request:
                call.begin(self._tasks, message)
            elif call.is_streamed:
                call.received(message)
                if kind == LAST:
                    call.half_closed()
        elif kind == WINDOW:
            call.granted(number(body))
        elif kind == PART:
            call.part(body)
        elif kind == END:
            call.half_closed()
        elif kind == CANCEL:
            call.cancel()
