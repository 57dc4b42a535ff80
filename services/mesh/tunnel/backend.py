"""One process that answers: a tunnel to it that is opened again whenever it ends, and exchanged before it is too old.

A process that knows no tunnel, because it is older than they are, is called by plain gRPC until it is replaced.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

import grpc
import grpc.aio

from parley.mesh.v1 import tunnel_service_pb2_grpc
from services.mesh import telemetry
from services.mesh.tunnel.calls import Call, Link
from services.mesh.tunnel.frames import FrameError
from services.mesh.tunnel.link import TunnelLink
from services.mesh.tunnel.plain import PlainLink

GREETING_S_MAX: Final = 5.0
"""For a peer that is connected to open a tunnel; one that has just started is busy with other things."""
REOPEN_S_MIN: Final = 0.1
REOPEN_S_MAX: Final = 0.5
"""Between two tries, as between gRPC's own tries to connect: a process that is back is found within 0.6 s."""
EXCHANGE_S: Final = 75.0
"""A tunnel is exchanged for another one this often: a quarter more than the age at which servers ask their connections
to be left (`server.CONNECTION_AGE_S`), so that each tunnel has a connection of its own, and ends before that does."""
PLAIN_S: Final = 30.0
"""How often a process that knew no tunnel is asked again: it may have been replaced by one that does."""

Dial = Callable[[str], grpc.aio.Channel]

_log = telemetry.logger("mesh.tunnel")


class Usable(Link, Protocol):
    """A link, as a backend and its channel see it; see `link.TunnelLink`."""

    left: asyncio.Event
    is_usable: bool
    is_leaving: bool

    @property
    def load(self) -> int:
        """Calls that are on it."""
        ...

    def retire(self) -> None:
        """Ends it with the last of its calls."""
        ...

    def calls(self) -> list[Call]:
        """Those that are on it."""
        ...

    async def run(self) -> None:
        """Carries calls until it ends."""
        ...


class Backend:
    """See the module.

    Args:
        address: of the process, in gRPC's notation.
        dial: makes a channel to it.
        changed: told whenever calls that wait may have somewhere to go, or nowhere.

    Attributes:
        link: for new calls; None where there is none.
        has_failed: whether the last try failed.
        links: all that have calls, or may get some.
    """

    def __init__(self, address: str, dial: Dial, changed: Callable[[], None]) -> None:
        self.address = address
        self.link: Usable | None = None
        self.has_failed = False
        self.links: set[Usable] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._is_left = False
        self._dial = dial
        self._changed = changed

    @property
    def is_ready(self) -> bool:
        """Whether new calls are welcome there."""
        return self.link is not None and self.link.is_usable and not self.link.is_leaving

    async def run(self) -> None:
        """Keeps a link to the process until cancelled, or until it was left and its last call has ended."""
        while not self._is_left:
            channel = self._dial(self.address)
            try:
                async with asyncio.TaskGroup() as group:
                    self._keeper = group.create_task(self._keep(channel, group), name="tunnel keeper")
            except Exception:  # noqa: BLE001 - only a bug comes here; calls are carried on all the same
                _log.exception("tunnel_backend_failed", address=self.address)
                await asyncio.sleep(REOPEN_S_MAX)
            finally:
                self.link = self._keeper = None  # a task keeps what it ended by, and that the RPC of its tunnel
                await channel.close()

    def leave(self) -> None:
        """No new calls; the process is no longer one of the target's."""
        self._is_left = True
        if self.link is not None:
            self.link.retire()
        if self._keeper is not None:
            self._keeper.cancel()

    async def _keep(self, channel: grpc.aio.Channel, group: asyncio.TaskGroup) -> None:
        while True:
            link = await self._opened(channel)
            before, self.link, self.has_failed = self.link, link, False
            group.create_task(self._carry(link), name="tunnel link")
            if before is not None:
                before.retire()
            self._changed()
            await self._served(link)

    async def _carry(self, link: Usable) -> None:
        self.links.add(link)
        try:
            await link.run()
        finally:
            self.links.discard(link)

    async def _served(self, link: Usable) -> None:
        life_s = EXCHANGE_S if isinstance(link, TunnelLink) else PLAIN_S
        try:
            async with asyncio.timeout(life_s * (1 + random.random() / 5)):  # noqa: S311 - jitter, not a secret
                await link.left.wait()
        except TimeoutError:
            return
        self._changed()

    async def _opened(self, channel: grpc.aio.Channel) -> Usable:
        pause_s = REOPEN_S_MIN
        while True:
            await self._connected(channel)
            try:
                return await self._greeted(channel)
            except (grpc.aio.AioRpcError, FrameError, TimeoutError) as error:
                if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    if not isinstance(self.link, PlainLink):
                        _log.warning("tunnel_unknown_to_peer", address=self.address)
                    return PlainLink(channel)
                self._fail()
            await asyncio.sleep(pause_s * (1 - random.random() / 5))  # noqa: S311 - as above
            pause_s = min(REOPEN_S_MAX, pause_s * 2)

    async def _connected(self, channel: grpc.aio.Channel) -> None:
        while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                self._fail()
            await channel.wait_for_state_change(state)

    async def _greeted(self, channel: grpc.aio.Channel) -> Usable:
        rpc = tunnel_service_pb2_grpc.TunnelServiceStub(channel).Open()
        try:
            link = TunnelLink(rpc)
            async with asyncio.timeout(GREETING_S_MAX):
                await link.greeted()
        except BaseException:
            rpc.cancel()
            raise
        return link

    def _fail(self) -> None:
        if not self.has_failed:
            self.has_failed = True
            self._changed()
