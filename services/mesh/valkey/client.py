"""A client that never repeats a command behind our back, and scripts.

redis-py sends a command again when its answer was lost, so an INCR can run twice; here a lost answer is `Unavailable`
and the caller decides. Commands share one connection, see `line`; those that wait for something have one each, see
`waiting`.
"""

import asyncio
import builtins
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.client import PubSub
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - the driver's own, named as it names it
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,  # noqa: A004 - as above
    TryAgainError,
)

from services.mesh import telemetry
from services.mesh.errors import MeshError, Overloaded, Unavailable
from services.mesh.valkey.line import Line, Streams
from services.mesh.valkey.waiting import WaitingLines

CONNECT_TIMEOUT_S: Final = 2.0
POOL_WAIT_S: Final = 2.0
"""For a free connection. A longer wait only moves the queue from Valkey to us."""
HEALTH_CHECK_S: Final = 15
"""A connection that was idle this long is pinged before use, so a restart of Valkey costs a reconnect, not an error."""
_CLOSED: Final = "the handler is closed"
"""How uvloop's RuntimeError ends when redis-py writes to a connection that was reset while it was being made."""
_UNBLOCKED: Final = "UNBLOCKED"
_TROUBLES: Final = (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    OutOfMemoryError,
    TimeoutError,
    TryAgainError,
    OSError,
)
_WAITING: Final = frozenset(
    {
        *("BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN"),
        *("WAIT", "WAITAOF"),
    }
)
"""Commands that would keep all behind them from being answered."""
_READING: Final = frozenset({"XREAD", "XREADGROUP"})
"""They wait where they are asked to."""
_OF_OTHERS: Final = frozenset({"keys", EMPTY_RESPONSE, NEVER_DECODE})
"""Options that redis-py gives to itself, and not to what reads an answer."""
_SCANNED: Final = 1_000
"""Keys that one step of a removal looks at; Valkey serves nobody else during it."""

Argument: TypeAlias = str | bytes | int | float

_COMMANDS: Final = telemetry.counter(
    "parley_mesh_valkey_commands", "Commands and scripts by what came of them: answered, or failed.", ["outcome"]
)
_ANSWERED: Final = _COMMANDS.labels("answered")
_FAILED: Final = _COMMANDS.labels("failed")


class Births:
    """Counts connections that were made.

    A connection may lead to another process than the one before it, which a restart or failover has put in its place,
    and what that one acknowledged last may be gone.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class _Cautious:
    """A connection that sends without `asyncio.wait_for`, and leaves a server that is no primary any more.

    redis-py bounds a send with that, and on Python 3.11 it loses a cancellation which comes just as the send ends
    (cpython gh-86296): of 3,000 loops that were cancelled on a busy event loop, 67 went on for ever, and their
    processes did not leave.

    A server that was made a replica keeps its connections, and refuses every write on them until they are closed;
    whatever leads to the primary, a name or sentinels, is asked anew with the next connection.
    """

    socket_timeout: float | None
    _reader: Any  # Any: redis-py left these untyped
    _writer: Any
    _parser: Any

    def __init__(self, *, births: Births, **options: Any) -> None:  # Any: redis-py's own options
        super().__init__(**options)
        self._births = births

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's own signature
        """Counts, and introduces itself."""
        self._births.count += 1
        await super().on_connect_check_health(check_health)  # type: ignore[misc] # of the class beside it

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's own signature, with its Any
        timeout_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(timeout_s):
                await super().send_packed_command(command, check_health)  # type: ignore[misc] # as above
        except builtins.TimeoutError:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined] # as above
            raise TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = timeout_s

    def given_away(self) -> Streams:
        """What the connection, which has logged in, consists of."""
        streams = Streams(self._reader, self._writer, self._parser.parse_error)
        self._reader = self._writer = None
        return streams

    async def read_response(self, *args: Any, **options: Any) -> Any:  # Any: redis-py's own signature
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc] # as above
        except ResponseError as error:
            if _is_demotion(error):
                await self.disconnect(nowait=True)  # type: ignore[attr-defined] # as above
            raise


class PlainConnection(_Cautious, Connection):
    """In the clear."""


class SecureConnection(_Cautious, SSLConnection):
    """Over TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How a client uses its connections.

    Attributes:
        application: name that `CLIENT LIST` shows.
        connections_max: connections at most; to each server of a cluster.
        timeout_s: of one command.
        pool_wait_s: seconds that a command waits for a free connection.
    """

    application: str
    connections_max: int
    timeout_s: float
    pool_wait_s: float = POOL_WAIT_S


class Client(Redis):
    """redis-py's client, whose connection troubles are MeshErrors; answers are bytes.

    Args:
        connections: see `pool`.
        births: of its connections.
    """

    is_cluster: ClassVar[bool] = False
    """Whether one command or script may use keys of one hash tag only."""

    def __init__(self, connections: BlockingConnectionPool, births: Births) -> None:
        super().__init__(connection_pool=connections)
        self._births = births
        timeout_s: float = connections.connection_kwargs["socket_timeout"]
        make = partial(Line, connections, timeout_s=timeout_s, is_final=_is_demotion)
        self._line = make()
        wait_s = POOL_WAIT_S if connections.timeout is None else connections.timeout
        self._waiting = WaitingLines(make, lines_max=connections.max_connections, wait_s=wait_s)

    @property
    def births(self) -> int:
        """How many connections were made so far."""
        return self._births.count

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # Any: redis-py's own signature
        """Sends one command, once.

        Raises:
            Overloaded: no connection of the pool came free, or too many commands wait for their answers.
            Unavailable: the answer did not come. The command may have run or not.
        """
        try:
            with translated():
                if _waits(args):
                    answer = await self._waiting.ask(args)
                else:
                    (answer,) = await self._line.ask((args,))
                if isinstance(answer, Exception):
                    raise answer
                answer = await self._read(args[0], answer, options)
        except (Overloaded, Unavailable):
            _FAILED.inc()
            raise
        _ANSWERED.inc()
        return answer

    async def batch(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:  # Any: answers are what commands return
        """Sends commands together, each once; they are no transaction. The errors of single ones are among the answers.

        Raises:
            Overloaded, Unavailable: see `execute_command`; any of the commands may have run.
        """
        with translated():
            answers = await self._line.ask(commands)
        return [
            in_our_words(answer) if isinstance(answer, Exception) else await self._read(command[0], answer, {})
            for command, answer in zip(commands, answers, strict=True)
        ]

    async def tell(self, channel: str, text: str) -> None:
        """Tells all who are subscribed to the channel now. Raises as `execute_command` does."""
        await self.execute_command("PUBLISH", channel, text)

    async def subscribed(self, channel: str) -> PubSub:
        """A subscription, to be closed by the caller; the first message says that it holds.

        Connection troubles of its methods are redis-py's own: see `translated`.

        Raises:
            Overloaded, Unavailable: see `execute_command`.
        """
        subscription: PubSub = self.pubsub()
        try:
            with translated():
                await subscription.subscribe(channel)
        except MeshError:
            await subscription.aclose()  # type: ignore[no-untyped-call] # redis-py left it untyped
            raise
        return subscription

    async def servers(self) -> "Sequence[Client]":
        """A client for each server that holds keys."""
        return [self]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's own signature
        """Ends the connections of commands, and does what redis-py does at its end."""
        self._line.close()
        self._waiting.close()
        await super().aclose(close_connection_pool)

    async def _read(self, name: Any, answer: Any, options: Mapping[str, Any]) -> Any:  # Any: as `execute_command`
        """An answer as redis-py gives it: it knows for each command what that means."""
        reading = self.response_callbacks.get(name)
        if reading is None:
            return answer
        read = reading(answer, **{name: value for name, value in options.items() if name not in _OF_OTHERS})
        return await read if inspect.isawaitable(read) else read

    async def remove(self, prefix: str) -> int:
        """Removes the keys that begin with the prefix; how many there were. Keys that come meanwhile may stay.

        Raises:
            Overloaded, Unavailable: see `execute_command`; some may be removed.
        """
        removed = 0
        for server in await self.servers():
            cursor: int | bytes = 0
            while True:
                cursor, keys = await server.execute_command(
                    "SCAN", cursor, "MATCH", f"{_literal(prefix)}*", "COUNT", _SCANNED
                )
                for answer in await server.batch([("UNLINK", key) for key in keys]) if keys else ():
                    if isinstance(answer, Exception):
                        raise answer
                    removed += answer
                if int(cursor) == 0:
                    break
        return removed


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

    def command(self, *, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        """For `Client.batch`, whose answer is a `NoScriptError` where Valkey does not know the script: see `load`."""
        return ("EVALSHA", self._digest, len(keys), *keys, *args)

    async def load(self, client: Client) -> None:
        """Makes the script known. Raises as `run` does."""
        await client.execute_command("SCRIPT", "LOAD", self._source)


def pool(
    url: str, limits: Limits, births: Births, **options: Any
) -> BlockingConnectionPool:  # Any: as connections take
    """A bounded pool; see `redis.asyncio.BlockingConnectionPool`.

    Args:
        url: in redis-py's form.
        limits: of the client.
        births: counts its connections.
        options: instead of what the URL says; `connection_class` takes the place of both of ours.
    """
    given: Mapping[str, Any] = {**parse_url(url), **options}
    kind = given.get("connection_class", Connection)
    ours = {Connection: PlainConnection, SSLConnection: SecureConnection}
    settings = {
        "max_connections": limits.connections_max,
        "timeout": limits.pool_wait_s,
        "socket_timeout": limits.timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "health_check_interval": HEALTH_CHECK_S,
        "retry": Retry(NoBackoff(), 0),
        "client_name": limits.application,
        "protocol": 2,
        "births": births,
    }
    return BlockingConnectionPool(**{**settings, **given, "connection_class": ours.get(kind, kind)})


@contextmanager
def translated() -> Iterator[None]:
    """Connection troubles in our words, for pub/sub; `Client` does it by itself for commands.

    Raises:
        Overloaded: no connection of the pool came free.
        Unavailable: Valkey is away, loading, full or read-only, or refuses our login.
    """
    try:
        yield
    except (*_TROUBLES, ResponseError, RuntimeError) as error:
        said = in_our_words(error)
        if said is error:
            raise
        raise said from error


def in_our_words(error: Exception) -> Exception:
    """`Overloaded` or `Unavailable` for a trouble of connections; any other error is returned as it is."""
    if isinstance(error, RuntimeError):
        return _unavailable(error) if str(error).endswith(_CLOSED) else error
    if not isinstance(error, _TROUBLES) and not _is_demotion(error):
        return error
    # The pool has no exception of its own for "none came free": it wraps the timeout of its wait.
    if isinstance(error, ConnectionError) and isinstance(error.__cause__, builtins.TimeoutError):
        return _caused(Overloaded("too many commands wait for a Valkey connection", retry_after_s=1.0), error)
    return _unavailable(error)


def _waits(args: Sequence[Any]) -> bool:  # Any: of a command
    name = args[0]
    return name in _WAITING or (name in _READING and ("BLOCK" in args or b"BLOCK" in args))


def _is_demotion(error: Exception) -> bool:
    """Whether a server says that it was made a replica: to a write, or to a command that waited meanwhile."""
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and str(error).startswith(_UNBLOCKED))


def _unavailable(error: Exception) -> MeshError:
    return _caused(Unavailable("the cache and queue server cannot be reached now", retry_after_s=1.0), error)


def _caused(said: MeshError, error: Exception) -> MeshError:
    said.__cause__ = error
    return said


def _literal(text: str) -> str:
    """The text as a pattern that matches nothing else."""
    return "".join(f"\\{letter}" if letter in r"\*?[]^" else letter for letter in text)
