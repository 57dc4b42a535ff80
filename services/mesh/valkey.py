"""Valkey: a client that never repeats a command behind our back, and scripts.

redis-py sends a command again when its answer was lost, so an INCR can run twice; here a lost answer is `Unavailable`
and the caller decides.
"""

import asyncio
import builtins
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - the driver's own, named as it names it
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,  # noqa: A004 - as above
)

from services.mesh import telemetry
from services.mesh.errors import Overloaded, Unavailable
from services.mesh.settings import ValkeySettings

CONNECT_TIMEOUT_S: Final = 2.0
POOL_WAIT_S: Final = 2.0
"""For a free connection. A longer wait only moves the queue from Valkey to us."""
HEALTH_CHECK_S: Final = 15
"""A connection that was idle this long is pinged before use, so a restart of Valkey costs a reconnect, not an error."""
_CLOSED: Final = "the handler is closed"
"""How uvloop's RuntimeError ends when redis-py writes to a connection that was reset while it was being made."""

Argument: TypeAlias = str | bytes | int | float

_COMMANDS: Final = telemetry.counter(
    "parley_mesh_valkey_commands", "Commands and scripts by what came of them: answered, or failed.", ["outcome"]
)
_ANSWERED: Final = _COMMANDS.labels("answered")
_FAILED: Final = _COMMANDS.labels("failed")


class _Sending:
    """Sends without `asyncio.wait_for`, with which redis-py bounds a send.

    On Python 3.11 that loses a cancellation which comes just as the send ends (cpython gh-86296): of 3,000 loops that
    were cancelled on a busy event loop, 67 went on for ever, and their processes did not leave.
    """

    socket_timeout: float | None

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's own signature, with its Any
        timeout_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(timeout_s):
                await super().send_packed_command(command, check_health)  # type: ignore[misc] # of the class beside it
        except builtins.TimeoutError:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined] # as above
            raise TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = timeout_s


class _Connection(_Sending, Connection):
    """In the clear."""


class _SecureConnection(_Sending, SSLConnection):
    """Over TLS."""


class Client(Redis):
    """redis-py's client, whose connection troubles are MeshErrors; answers are bytes."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # Any: redis-py's own signature
        """Sends one command, once.

        Raises:
            Overloaded: no connection of the pool came free.
            Unavailable: the answer did not come. The command may have run or not.
        """
        try:
            with translated():
                answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # redis-py left it untyped
        except (Overloaded, Unavailable):
            _FAILED.inc()
            raise
        _ANSWERED.inc()
        return answer


class Script:
    """A Lua script: one atomic step of several commands, sent in full only when Valkey does not know it yet."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Client, *, keys: Sequence[str] = (), args: Sequence[Argument] = ()) -> Any:
        """Runs the script; its answer is whatever Lua returns, hence Any.

        Raises:
            Unavailable, Overloaded: see `Client.execute_command`.
        """
        try:
            return await client.execute_command("EVALSHA", self._digest, len(keys), *keys, *args)
        except NoScriptError:
            return await client.execute_command("EVAL", self._source, len(keys), *keys, *args)


@asynccontextmanager
async def open_valkey(
    settings: ValkeySettings, *, application: str, timeout_s: float | None = None, pool_wait_s: float = POOL_WAIT_S
) -> AsyncIterator[Client]:
    """A client with a bounded pool, closed on leaving. It connects when it is first used.

    Args:
        settings: address, pool size, command timeout.
        application: name that `CLIENT LIST` shows.
        timeout_s: of a command instead of the setting's; blocking reads need more than they block.
        pool_wait_s: seconds that a command waits for a free connection.
    """
    pool = BlockingConnectionPool.from_url(
        settings.valkey_url.get_secret_value(),
        max_connections=settings.valkey_connections_max,
        timeout=pool_wait_s,
        socket_timeout=timeout_s or settings.valkey_timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=HEALTH_CHECK_S,
        retry=Retry(NoBackoff(), 0),
        client_name=application,
        protocol=2,
    )
    pool.connection_class = _SecureConnection if pool.connection_class is SSLConnection else _Connection
    client = Client(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()


@contextmanager
def translated() -> Iterator[None]:
    """Connection troubles in our words, for pipelines and pub/sub; `Client` does it by itself for single commands.

    Raises:
        Overloaded: no connection of the pool came free.
        Unavailable: Valkey is away, loading, full or read-only, or refuses our login.
    """
    try:
        yield
    except (
        AuthenticationError,
        BusyLoadingError,
        ConnectionError,
        OutOfMemoryError,
        ReadOnlyError,
        TimeoutError,
        OSError,
    ) as error:
        # The pool has no exception of its own for "none came free": it wraps the timeout of its wait.
        if isinstance(error, ConnectionError) and isinstance(error.__cause__, builtins.TimeoutError):
            raise Overloaded("too many commands wait for a Valkey connection", retry_after_s=1.0) from error
        raise _unavailable() from error
    except RuntimeError as error:
        if not str(error).endswith(_CLOSED):
            raise
        raise _unavailable() from error


def _unavailable() -> Unavailable:
    return Unavailable("the cache and queue server cannot be reached now", retry_after_s=1.0)
