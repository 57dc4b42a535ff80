"""A link to a process that knows no tunnel: each call is a call of plain gRPC."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final

import grpc
import grpc.aio

from services.mesh import telemetry
from services.mesh.tunnel.calls import OK, Call
from services.mesh.tunnel.frames import MESSAGE_COST_BYTES, WINDOW_BYTES, parse_headers

_ENDLESS: Final = 1 << 62
"""Credit that is never used up: plain gRPC holds senders back by itself."""
_PLAIN: Final = telemetry.gauge(
    "parley_mesh_tunnel_plain_count", "Connections without a tunnel, to processes that know none."
)


class PlainLink:
    """See the module, and for what it has `calls.Link` and `link.TunnelLink`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._calls: dict[int, _Carried] = {}
        self._next = 1
        self._ended = asyncio.Event()
        self.left = asyncio.Event()
        self.is_usable = True
        self.is_leaving = False

    @property
    def load(self) -> int:
        """Calls that are on it."""
        return len(self._calls)

    def begin(self, call: Call) -> None:
        """See `calls.Link`."""
        carried = self._calls[self._next] = _Carried(self._channel, call)
        call.begun(self, self._next, _ENDLESS)
        self._next += 1
        carried.begin(partial(self._ended_with, call.number))

    def send(self, call: Call, message: bytes) -> Awaitable[None] | None:
        """See `calls.Link`."""
        return self._calls[call.number].say(message)

    def end(self, call: Call) -> None:
        """See `calls.Link`."""
        self._calls[call.number].end()

    def cancel(self, call: Call) -> None:
        """See `calls.Link`."""
        carried = self._calls.get(call.number)
        if carried is not None:
            carried.cancel()

    def grant(self, call: Call, size: int) -> None:
        """See `calls.Link`."""
        self._calls[call.number].granted(size)

    def retire(self) -> None:
        """Another link has taken over."""
        self.is_usable, self.is_leaving = False, True
        self.left.set()

    def calls(self) -> list[Call]:
        """Those that are on it."""
        return [carried.call for carried in self._calls.values()]

    async def run(self) -> None:
        """Returns when the process is gone or another link has taken over, and the last call has ended."""
        with _PLAIN.track_inprogress():
            await self._until_over()

    async def _until_over(self) -> None:
        watch = asyncio.ensure_future(self._channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        leave = asyncio.ensure_future(self.left.wait())
        try:
            await asyncio.wait((watch, leave), return_when=asyncio.FIRST_COMPLETED)
            self.retire()
            while self._calls:
                self._ended.clear()
                await self._ended.wait()
        finally:
            self.retire()
            watch.cancel()
            leave.cancel()
            for carried in tuple(self._calls.values()):
                carried.lose()

    def _ended_with(self, number: int) -> None:
        self._calls.pop(number, None)
        self._ended.set()


class _Carried:
    """One call, and the task that carries it."""

    def __init__(self, channel: grpc.aio.Channel, call: Call) -> None:
        self._channel = channel
        self.call = call
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        if call.request is not None:
            self._outgoing.put_nowait(call.request)
        if call.request is not None or call.is_half_closed:
            self._outgoing.put_nowait(None)
        self._room = asyncio.Event()
        self._untaken = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self, ended: Callable[[], None]) -> None:
        """Begins it; `ended` is told of its end, even of one before its task had its first turn."""

        def over(_task: asyncio.Task[None]) -> None:
            self._drop_rest()
            ended()

        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(over)

    def cancel(self) -> None:
        """The caller has left."""
        if self._task is not None:
            self._task.cancel()

    def say(self, message: bytes) -> Awaitable[None]:
        """One message; gives what to wait for until it is sent."""
        self._outgoing.put_nowait(message)
        return self._outgoing.join()

    def end(self) -> None:
        """No more messages."""
        self._outgoing.put_nowait(None)

    def granted(self, size: int) -> None:
        """The caller has taken so many bytes."""
        self._untaken -= size
        self._room.set()

    def lose(self) -> None:
        """The channel is closed."""
        self.cancel()
        self.call.told_lost(may_have_begun=True)

    async def _run(self) -> None:
        call = self.call
        timeout_s = None if call.deadline is None else max(0.0, call.deadline - monotonic())
        metadata = parse_headers(f"\n{call.metadata}".encode())
        rpc: Any = self._channel.stream_stream(call.method.path)(metadata=metadata, timeout=timeout_s)  # Any: of bytes
        writer = asyncio.get_running_loop().create_task(self._write(rpc))
        try:
            if initial := tuple(await rpc.initial_metadata()):
                call.told_headers(initial)
            await self._read(rpc)
            call.told_end(OK, "", tuple(await rpc.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            call.told_end(int(error.code().value[0]), error.details() or "", tuple(error.trailing_metadata() or ()))
        finally:
            rpc.cancel()
            writer.cancel()

    async def _read(self, rpc: Any) -> None:  # Any: gRPC's call of bytes
        while (message := await rpc.read()) is not grpc.aio.EOF:
            self.call.told(message)
            self._untaken += len(message) + MESSAGE_COST_BYTES
            # One answer is taken when the call has ended, and not before.
            while self.call.method.streams_responses and self._untaken > WINDOW_BYTES and not self.call.is_done:
                self._room.clear()
                await self._room.wait()

    async def _write(self, rpc: Any) -> None:  # Any: as above
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader learns why
            while True:
                message = await self._outgoing.get()
                try:
                    await (rpc.done_writing() if message is None else rpc.write(message))
                finally:
                    self._outgoing.task_done()

    def _drop_rest(self) -> None:
        """What is not sent any more; nobody waits for it."""
        while not self._outgoing.empty():
            self._outgoing.get_nowait()
            self._outgoing.task_done()
