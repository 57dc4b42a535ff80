"""A cluster: each command goes to the primary that has its key.

redis-py has a cluster client, too. It sends a command again when its answer was lost, refuses at once where a
connection comes free in a moment, and bounds sends as `client` tells not to; so each server gets a `Client` here, and
this finds the right one. A command is sent again only where a server has said that it did nothing.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.client import Pipeline, PubSub
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from services.mesh import telemetry
from services.mesh.errors import MeshError, Unavailable
from services.mesh.valkey.client import Argument, Births, Client, translated
from services.mesh.valkey_address import Host

REDIRECTS_MAX: Final = 4
"""While slots move, one command can be sent on a few times; more is a cluster that contradicts itself."""
ASK_S_MAX: Final = 1.0
"""For one server to tell who has which slots; one that needs longer is passed over."""

_WITHOUT_KEY: Final = frozenset({"PING", "INFO", "TIME", "PUBLISH", "CLUSTER"})
"""Any server can answer."""
_BY_KEY_EACH: Final = frozenset({"DEL", "UNLINK", "EXISTS", "MGET"})
"""All arguments are keys, and nobody needs them in one step: they may lie on several servers."""
_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})

_log = telemetry.logger("mesh.valkey")


class ClusterClient(Client):
    """As `Client`, for a cluster.

    Args:
        seeds: servers to ask first.
        opened: makes the client of one server.
        births: of the connections of all.
    """

    is_cluster: ClassVar[bool] = True

    def __init__(self, seeds: Sequence[Host], opened: Callable[[Host], Client], births: Births) -> None:
        self._seeds = tuple(seeds)
        self._opened = opened
        self._servers: dict[Host, Client] = {}
        self._slots: dict[int, Host] = {}
        self._is_stale = True
        self._asked = 0
        self._asking = asyncio.Lock()
        self._silent: set[Host] = set()
        # Commands never reach the base class, which wants to have a pool all the same.
        unused = self._server(self._seeds[0]).connection_pool
        assert isinstance(unused, BlockingConnectionPool)
        super().__init__(unused, births)

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # Any: redis-py's own signature
        """See `Client.execute_command`."""
        name = str(args[0]).upper()
        if name == "SCRIPT":
            return [await server.execute_command(*args, **options) for server in await self.servers()][-1]
        if name in _BY_KEY_EACH:
            return await self._apart(name, args[1:], options)
        return await self._routed(_slot(name, args), args, options)

    async def batch(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:  # Any: see `Client.batch`
        """See `Client.batch`; of servers that are away, the answers are `Unavailable`."""
        groups: dict[Host, list[int]] = {}
        for number, command in enumerate(commands):
            groups.setdefault(await self._host(_slot(str(command[0]).upper(), command)), []).append(number)
        answers: list[Any] = [None] * len(commands)
        async with asyncio.TaskGroup() as group:
            for host, numbers in groups.items():
                group.create_task(self._batch_at(host, numbers, commands, answers))
        for number, answer in enumerate(answers):
            if isinstance(answer, AskError):
                try:
                    answers[number] = await self.execute_command(*commands[number])
                except MeshError as error:
                    answers[number] = error
        return answers

    async def tell(self, channel: str, text: str) -> None:
        """See `Client.tell`: by the server that has the channel's slot, to which all who listen are connected.

        A message to all servers could be lost between two of them while each of its listeners is well connected.
        """
        await self._routed(_slot_of(channel), ("SPUBLISH", channel, text), {})

    async def subscribed(self, channel: str) -> PubSub:
        """See `Client.subscribed`."""
        # The answer to a subscription comes with the messages; this one says now whether the server is the right one.
        await self.execute_command("EXISTS", channel)
        host = await self._host(_slot_of(channel))
        subscription: PubSub = self._server(host).pubsub()
        try:
            with translated():
                await subscription.ssubscribe(channel)
        except MeshError:
            self._doubt(host)
            await subscription.aclose()  # type: ignore[no-untyped-call] # redis-py left it untyped
            raise
        return subscription

    async def servers(self) -> Sequence[Client]:
        """See `Client.servers`."""
        await self._learn()
        return [self._server(host) for host in sorted(set(self._slots.values()), key=str)]

    def pipeline(self, *_: Any, **__: Any) -> Pipeline:  # Any: redis-py's own signature
        """There is none: keys of a pipeline may lie apart. Use `batch`, or a script."""
        raise TypeError("a cluster has no pipelines: use batch, or a script")

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's own signature
        """Closes all connections."""
        del close_connection_pool
        await self._forget(tuple(self._servers))

    async def _routed(self, slot: int | None, args: Sequence[Any], options: Mapping[str, Any]) -> Any:  # Any: as above
        host = await self._host(slot)
        asks = False
        for _ in range(REDIRECTS_MAX):
            server = self._server(host)
            try:
                if not asks:
                    return await server.execute_command(*args, **options)
                # What follows ASKING on the same connection may use a slot that is on its way to that server.
                _, answer = await server.batch([("ASKING",), args])
                if not isinstance(answer, Exception):
                    return answer
                raise answer
            except AskError as error:  # MovedError is one
                host, asks = self._redirected(host, error), not isinstance(error, MovedError)
            except Unavailable:
                self._doubt(host)
                raise
        raise Unavailable("the cluster sends a command from server to server", retry_after_s=1.0)

    async def _apart(self, name: str, keys: Sequence[Any], options: Mapping[str, Any]) -> Any:  # Any: as above
        if len({_slot_of(key) for key in keys}) == 1:
            return await self._routed(_slot_of(keys[0]), (name, *keys), options)
        answers = await self.batch([(name, key) for key in keys])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [found for (found,) in answers] if name == "MGET" else sum(answers)

    async def _batch_at(
        self, host: Host, numbers: Sequence[int], commands: Sequence[Sequence[Argument]], answers: list[Any]
    ) -> None:
        try:
            found = await self._server(host).batch([commands[number] for number in numbers])
        except MeshError as error:
            found = [error] * len(numbers)
        for number, answer in zip(numbers, found, strict=True):
            answers[number] = answer
            if isinstance(answer, AskError):
                self._redirected(host, answer)
            elif isinstance(answer, Unavailable):
                self._doubt(host)

    def _redirected(self, host: Host, error: AskError) -> Host:
        """The server that the error names; one that does not know its own name leaves it out."""
        target = Host(error.host or host.name, error.port)
        if isinstance(error, MovedError):
            self._slots[error.slot_id] = target
            self._is_stale = True
        return target

    async def _host(self, slot: int | None) -> Host:
        """The primary that has the slot, or any; raises Unavailable when none is known."""
        await self._learn()
        host = random.choice(tuple(self._slots.values())) if slot is None else self._slots.get(slot)  # noqa: S311 - balances
        if host is None:
            self._is_stale = True
            raise Unavailable("no server of the cluster has the key's slot", retry_after_s=1.0)
        return host

    def _server(self, host: Host) -> Client:
        server = self._servers.get(host)
        if server is None:
            server = self._servers[host] = self._opened(host)
        return server

    def _doubt(self, host: Host) -> None:
        """What is known may be over: it is asked for before the next command, and this server last."""
        self._silent.add(host)
        self._is_stale = True

    async def _learn(self) -> None:
        """Asks who has which slots, where that is in doubt. Who comes meanwhile shares the answer.

        Raises:
            Unavailable: no server told.
        """
        if not self._is_stale:
            return
        asked = self._asked
        async with self._asking:
            if self._asked == asked:
                self._asked += 1
                await self._ask()
        if not self._slots:
            raise Unavailable("no server of the cluster answers", retry_after_s=1.0)

    async def _ask(self) -> None:
        hosts = list(dict.fromkeys((*self._servers, *self._seeds)))
        random.shuffle(hosts)
        for host in sorted(hosts, key=lambda one: one in self._silent):
            try:
                async with asyncio.timeout(ASK_S_MAX):
                    told = await self._server(host).execute_command("CLUSTER", "SLOTS")
            except (MeshError, TimeoutError):
                self._silent.add(host)
                continue
            slots = dict(_slots_of(told, host))
            if slots:
                before, self._slots = set(self._slots.values()), slots
                self._is_stale = False
                self._silent.clear()
                now = set(slots.values())
                if before != now:
                    _log.info("cluster_learned", servers=[str(one) for one in sorted(now, key=str)])
                await self._forget([one for one in self._servers if one not in now])
                return
        _log.warning("cluster_unknown", asked=len(hosts))

    async def _forget(self, hosts: Iterable[Host]) -> None:
        """Closes connections; whoever waits on one of them learns that its server is no primary any more."""
        for host in hosts:
            server = self._servers.pop(host)
            await server.aclose()
            await server.connection_pool.aclose()


def _slots_of(told: Any, host: Host) -> Iterable[tuple[int, Host]]:  # Any: rows of numbers and servers
    """Slots and their primaries."""
    for first, last, (name, port, *_), *_ in told:
        primary = Host((name or b"").decode() or host.name, int(port))
        for slot in range(int(first), int(last) + 1):
            yield slot, primary


def _slot(name: str, args: Sequence[Any]) -> int | None:
    """The slot of a command's first key; the others share it, or the server refuses. None for a command without."""
    if name in _WITHOUT_KEY:
        return None
    if name in _SCRIPTS:
        if int(args[2]) == 0:
            return None
        return _slot_of(args[3])
    if name == "XREAD":
        return _slot_of(args[1 + next(i for i, word in enumerate(args) if word == "STREAMS")])
    return _slot_of(args[1])


def _slot_of(key: Argument) -> int:
    return key_slot(key if isinstance(key, bytes) else str(key).encode())
