"""A channel that goes on with the certificates of today.

gRPC reads the credentials of a channel once. So there is another channel behind this one for each renewal: it takes
over when a peer has answered on it, and the one before is closed when its calls have ended.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

import grpc
import grpc.aio

from services.mesh import telemetry
from services.mesh.tasks import Loop, supervised
from services.mesh.tls.certificates import CertificateFiles, Certificates, channel_credentials

ANSWER_S_MAX: Final = 10.0
"""For a peer to answer on a new channel; after that the channel before goes on, until the next look."""
CALLS_S_MAX: Final = 3_600.0
"""For calls on a channel that was renewed: the longest stream."""

DRAIN_S: Final = 1.0
"""The loop has nothing to drain; leaving waits for no longer."""

_CHANNELS: Final[WeakSet["RenewedChannel"]] = WeakSet()
telemetry.gauge(
    "parley_mesh_channels_behind_count",
    "Channels of this process that still use the certificates before the present ones, because no peer answers.",
).set_function(lambda: sum(channel.is_behind for channel in _CHANNELS))

Dial = Callable[[grpc.ChannelCredentials], grpc.aio.Channel]

_log = telemetry.logger("mesh.tls")


@asynccontextmanager
async def renewed_channel(
    files: CertificateFiles, dial: Dial, *, look_every_s: float, answer_s_max: float = ANSWER_S_MAX
) -> AsyncIterator["RenewedChannel"]:
    """A channel that follows the files while the body runs; closed on leaving.

    Args:
        files: with the certificates.
        dial: makes a channel to the peer. It has to be ready only when a peer has answered, which is what client-side
            health checks see to: a server judges a certificate of TLS 1.3 after its client has taken the handshake to
            be over.
        look_every_s: seconds between two looks at the files.
        answer_s_max: seconds for a peer to answer.
    """
    channel = RenewedChannel(files, dial, answer_s_max=answer_s_max)
    try:
        async with supervised((Loop("certificates", lambda: channel.follow(look_every_s)),), drain_s=DRAIN_S):
            yield channel
    finally:
        _CHANNELS.discard(channel)
        await channel.close()


class RenewedChannel(grpc.aio.Channel):
    """See the module. Calls begin on the channel of the moment, and stay with it."""

    def __init__(self, files: CertificateFiles, dial: Dial, *, answer_s_max: float) -> None:
        self._files = files
        self._answer_s_max = answer_s_max
        self._dial = dial
        self._used = files.current
        self._renewed = asyncio.Event()
        self.current = dial(channel_credentials(self._used))
        _CHANNELS.add(self)

    @property
    def is_behind(self) -> bool:
        """Whether the files have been renewed and this channel has not."""
        return self._used is not self._files.current

    async def follow(self, look_every_s: float) -> None:
        """Renews the channel whenever the files have changed, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(look_every_s)
                found = self._files.look()
                if found is not self._used:
                    before = await self._renew(found)
                    if before is not None:
                        group.create_task(_ended(before), name="channel before")

    async def _renew(self, found: Certificates) -> grpc.aio.Channel | None:
        """Goes over to another channel; gives the one before, None where no peer answers on the other one."""
        candidate = self._dial(channel_credentials(found))
        try:
            async with asyncio.timeout(self._answer_s_max):
                await candidate.channel_ready()
        except TimeoutError:
            _log.warning("channel_not_renewed", waited_s=self._answer_s_max)
            await candidate.close()
            return None
        except BaseException:
            await candidate.close()
            raise
        before, self.current, self._used = self.current, candidate, found
        self._renewed.set()
        self._renewed = asyncio.Event()
        _log.info("channel_renewed")
        return before

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:  # Any: generated code's own call
        """See `grpc.aio.Channel`."""
        return _MultiCallable(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        return _MultiCallable(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        return _MultiCallable(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:  # Any: as above
        """See `grpc.aio.Channel`."""
        return _MultiCallable(self, "stream_stream", args, kwargs)

    async def close(self, grace: float | None = None) -> None:
        """See `grpc.aio.Channel`."""
        await self.current.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """See `grpc.aio.Channel`."""
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See `grpc.aio.Channel`; a renewal counts as a change, for nobody tells of the channel before any more."""
        renewed = self._renewed
        change = asyncio.ensure_future(self.current.wait_for_state_change(last_observed_state))
        renewal = asyncio.ensure_future(renewed.wait())
        try:
            await asyncio.wait((change, renewal), return_when=asyncio.FIRST_COMPLETED)
            if not renewed.is_set():
                await change
        finally:
            change.cancel()
            renewal.cancel()

    async def channel_ready(self) -> None:
        """See `grpc.aio.Channel`."""
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _MultiCallable:
    """A stub's method, on whichever channel it is now."""

    def __init__(
        self, channel: RenewedChannel, shape: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:  # Any: what generated code gives
        self._channel = channel
        self._shape = shape
        self._args = args
        self._kwargs = kwargs
        self._bind()

    def _bind(self) -> None:
        self._to = self._channel.current
        self._inner = getattr(self._to, self._shape)(*self._args, **self._kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # Any: calls of all shapes
        if self._to is not self._channel.current:
            self._bind()
        return self._inner(*args, **kwargs)


async def _ended(channel: grpc.aio.Channel) -> None:
    """Closes the channel when its calls have ended, or at once when cancelled."""
    try:
        await channel.close(CALLS_S_MAX)
    finally:
        await channel.close()
