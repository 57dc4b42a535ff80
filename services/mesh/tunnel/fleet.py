"""The processes behind a target: which of them answers the next call, and what becomes of calls that none can answer.

What gRPC's service config promises for a plain channel (`services.mesh.client.service_config`) is kept here for calls
in tunnels.
"""

import asyncio
import socket
from contextlib import suppress
from contextvars import Context
from typing import Final

import grpc

from services.mesh import telemetry
from services.mesh.tunnel.backend import Backend, Dial, Usable
from services.mesh.tunnel.calls import UNAVAILABLE, Call
from services.mesh.tunnel.frames import Metadata
from services.mesh.tunnel.retries import Retries

RESOLVE_S: Final = 10.0
"""How often a name is looked up again, and at the latest this long after a process has gone: replicas come and go."""
RESOLVE_SOON_S: Final = 1.0
"""The same for a name that nobody knows, or whose processes are all away."""
CLOSE_S: Final = 5.0
"""For links to end when a channel is closed; they are cancelled, which takes no time."""

_STATIC: Final = "ipv4:"
_NAME: Final = "dns:///"
_AWAY_TEXT: Final = "no process answers"

_log = telemetry.logger("mesh.tunnel")
_State = grpc.ChannelConnectivity


class Fleet:
    """See the module, and `calls.Starter`.

    Args:
        target: see `channel.TunnelChannel`.
        dial: see `channel.TunnelChannel`.

    Attributes:
        state: of all of them together, as gRPC's round robin has it.
    """

    def __init__(self, target: str, dial: Dial) -> None:
        self._target = target
        self._dial = dial
        self._backends: dict[str, Backend] = {}
        self._tasks: dict[asyncio.Task[None], Backend] = {}
        self._lookout: asyncio.Task[None] | None = None
        self._waiting: dict[Call, None] = {}
        self._pauses: dict[Call, asyncio.TimerHandle] = {}
        self._retries = Retries()
        self._turn = 0
        self._is_unknown = False
        self._changes = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.state = _State.IDLE

    @property
    def is_closed(self) -> bool:
        """Whether no call can be begun any more."""
        return self.state is _State.SHUTDOWN

    # ------------------------------------------------------------------------------------------------------- for calls

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """See `calls.Starter`."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def start(self, call: Call) -> None:
        """See `calls.Starter`."""
        if call.is_done:
            return
        link = self._chosen()
        if link is not None:
            link.begin(call)
        elif self.state is _State.TRANSIENT_FAILURE and not call.waits_for_ready:
            call.told_end(UNAVAILABLE, _AWAY_TEXT, ())
        elif self.state is _State.SHUTDOWN:
            call.cancel()
        else:
            self._waiting[call] = None
            self.connect()

    def repeats(self, call: Call, metadata: Metadata) -> bool:
        """See `calls.Starter`."""
        call.attempts += 1
        pause_s = self._retries.pause_s(call.attempts, metadata)
        if pause_s is None or self.is_closed:
            return False
        self._pauses[call] = self.loop.call_later(pause_s, self._resume, call)
        return True

    def succeeded(self) -> None:
        """See `calls.Starter`."""
        self._retries.succeeded()

    def ended(self, call: Call) -> None:
        """See `calls.Starter`."""
        self._waiting.pop(call, None)
        pause = self._pauses.pop(call, None)
        if pause is not None:
            pause.cancel()

    # -------------------------------------------------------------------------------------------------- for its channel

    def connect(self) -> None:
        """Connects to all processes, from now on until closed."""
        if self._lookout is None and not self.is_closed:
            # Who happens to make the first call has nothing to do with how long this lasts, nor with its log lines.
            self._lookout = self.loop.create_task(self._look_out(), name="tunnel fleet", context=Context())
            self._set_state()

    async def changed(self) -> None:
        """Returns when the state has changed."""
        await self._changes.wait()

    async def close(self, grace_s: float | None) -> None:
        """Ends all calls, after `grace_s` seconds for them to end by themselves, and all connections."""
        if self.is_closed:
            return
        if grace_s:
            calls = [call for link in self._links() for call in link.calls()] + [*self._waiting, *self._pauses]
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    for call in calls:
                        await call.ended()
        for call in (*self._waiting, *self._pauses):
            call.cancel()
        self._tell(_State.SHUTDOWN)
        for link in self._links():
            for call in link.calls():
                call.cancel()
        running = {task for task in (self._lookout, *self._tasks) if task is not None}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=CLOSE_S)

    # --------------------------------------------------------------------------------------------------------- its own

    def _chosen(self) -> Usable | None:
        """The link with the fewest calls; one that is about to end only where there is no other."""
        links = [backend.link for backend in self._backends.values() if backend.link is not None]
        count = len(links)
        if not count:
            return None
        self._turn = turn = (self._turn + 1) % count
        chosen: Usable | None = None
        for index in range(turn, turn + count):  # those with the same number of calls take turns
            link = links[index % count]
            if link.is_usable and (chosen is None or (link.is_leaving, link.load) < (chosen.is_leaving, chosen.load)):
                chosen = link
        return chosen

    def _links(self) -> list[Usable]:
        return [link for backend in self._tasks.values() for link in tuple(backend.links)]

    def _resume(self, call: Call) -> None:
        self._pauses.pop(call, None)
        self.start(call)

    def _set_state(self) -> None:
        """What is known of all backends, told to those who wait for it."""
        backends = self._backends.values()
        if self.is_closed:
            return
        if any(backend.is_ready for backend in backends):
            self._tell(_State.READY)
        elif self._is_unknown or (backends and all(backend.has_failed for backend in backends)):
            self._tell(_State.TRANSIENT_FAILURE)
        else:
            self._tell(_State.CONNECTING)
        if self._waiting and self.state is not _State.CONNECTING:
            waiting, self._waiting = self._waiting, {}
            for call in waiting:
                self.start(call)

    def _tell(self, state: grpc.ChannelConnectivity) -> None:
        if state is not self.state:
            self.state = state
            self._changes.set()
            self._changes = asyncio.Event()

    async def _look_out(self) -> None:
        if self._target.startswith(_STATIC):
            self._set_addresses([_STATIC + address for address in self._target.removeprefix(_STATIC).split(",")])
            return
        while True:
            try:
                self._set_addresses(await self._resolved())
                self._is_unknown = False
            except OSError as error:
                _log.warning("name_unknown", target=self._target, error=str(error))
                self._is_unknown = not self._backends
            self._set_state()
            await asyncio.sleep(RESOLVE_S if self.state is _State.READY else RESOLVE_SOON_S)

    async def _resolved(self) -> list[str]:
        host, _, port = self._target.removeprefix(_NAME).rpartition(":")
        found = await self.loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        return sorted({_address(family, str(address[0]), port) for family, _, _, _, address in found})

    def _set_addresses(self, addresses: list[str]) -> None:
        for address in addresses:
            if address not in self._backends:
                backend = self._backends[address] = Backend(address, self._dial, self._set_state)
                task = self.loop.create_task(backend.run(), name="tunnel backend")
                self._tasks[task] = backend
                task.add_done_callback(self._tasks.pop)
        for address in self._backends.keys() - set(addresses):
            self._backends.pop(address).leave()  # its calls end by themselves, and its task with the last of them


def _address(family: int, host: str, port: str) -> str:
    return f"ipv6:[{host}]:{port}" if family == socket.AF_INET6 else f"{_STATIC}{host}:{port}"
