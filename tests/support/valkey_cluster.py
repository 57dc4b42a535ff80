"""Several real Valkey servers for tests: a cluster, or a primary with its replica and sentinels."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import redis
from redis.crc import key_slot

from dev.ports import LOOPBACK, free_ports
from dev.server import ChildServer
from dev.spawning import Claim, CommandLine, launched
from dev.valkey import installed_binary
from tests.support.servers import own_folder, started

PASSWORD = "of-a-test"
PRIMARY = "parley"
"""What sentinels call it."""
_SLOTS = 16_384
_APART = 23
"""Keeps the ports tried here away from those that other servers of the same process try."""
_WITHIN_S = 120.0
_POLL_S = 0.02
_PATIENT_MS = 60_000
"""A server that is silent on a busy machine is not dead."""
_HASTY_MS = 2_000


class Node(ChildServer):
    """One server, with settings of its own."""

    name: ClassVar[str] = "Valkey"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_s_max: ClassVar[float] = 60.0
    stop_s_max: ClassVar[float] = 20.0

    def __init__(self, port: int, folder: Path, settings: Sequence[str], *, is_sentinel: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(port, folder / "log")
        self._folder = folder
        self._settings = settings
        self._is_sentinel = is_sentinel

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        written = self._folder / "valkey.conf"
        if not written.exists():  # sentinels keep what they know in it
            own = [] if self._is_sentinel else ['save ""', f"requirepass {PASSWORD}", f"primaryauth {PASSWORD}"]
            lines = [f"bind {LOOPBACK}", f"port {self.port}", "loglevel notice", *own, *self._settings]
            written.write_text("\n".join(lines) + "\n", encoding="ascii")
        line: CommandLine = [installed_binary(), "valkey.conf"]
        line += ["--sentinel"] if self._is_sentinel else []
        return launched(line, folder=self._folder, claim=Claim(self._folder / "claim"))

    def is_ready(self) -> bool:
        """See `ChildServer.is_ready`."""
        try:
            told = self.ask("INFO", "server")
        except redis.RedisError:
            return False
        return bool(told["process_id"] == self.pid)

    def ask(self, *words: str | int) -> Any:  # Any: what commands return
        """The answer to a command."""
        password = None if self._is_sentinel else PASSWORD
        with redis.Redis(LOOPBACK, self.port, password=password, socket_timeout=5.0) as client:
            return client.execute_command(*words)


@dataclass(frozen=True, slots=True)
class Group:
    """Servers that belong together.

    Attributes:
        url: for the services.
        nodes: the servers that hold keys.
    """

    url: str
    nodes: Sequence[Node]

    def primary_of(self, key: str) -> Node:
        """The running server that has the key; some server has to."""
        return next(node for node in self.nodes if node.is_running and _owns(node, key))

    def emptied(self) -> str:
        """Remove all data; returns the URL."""
        for node in self.nodes:
            if node.is_running and node.ask("INFO", "replication")["role"] == "master":
                node.ask("FLUSHALL")
        return self.url


@contextmanager
def running_cluster(*, replicas: int = 0) -> Iterator[Group]:
    """Three primaries; with replicas, one that is silent for two seconds is replaced by one of its own."""
    with own_folder() as home, ExitStack() as stack:
        ports = _Ports()
        timeout_ms = _HASTY_MS if replicas else _PATIENT_MS

        def node(number: int) -> Node:
            return stack.enter_context(started(_cluster_nodes(ports, home / str(number), timeout_ms)))

        nodes = [node(number) for number in range(3 + 3 * replicas)]
        for number, primary in enumerate(nodes[:3]):
            first, after = (_SLOTS * each // 3 for each in (number, number + 1))
            primary.ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
            primary.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for other in nodes[1:]:
            other.ask("CLUSTER", "MEET", LOOPBACK, nodes[0].port, ports.bus[nodes[0].port])
        _await(lambda: all(len(each.ask("CLUSTER NODES")) == len(nodes) for each in nodes))
        for number, replica in enumerate(nodes[3:]):
            replica.ask("CLUSTER", "REPLICATE", nodes[number % 3].ask("CLUSTER", "MYID").decode())
        _await(lambda: all(_is_whole(each, replicas) for each in nodes))
        places = ",".join(f"{LOOPBACK}:{each.port}" for each in nodes)
        yield Group(f"valkey+cluster://:{PASSWORD}@{places}", nodes)


@contextmanager
def running_sentinels() -> Iterator[Group]:
    """A primary, its replica, and three sentinels of which two decide."""
    with own_folder() as home, ExitStack() as stack:
        ports = _Ports()
        own = ["appendonly yes", "appendfsync everysec"]

        def node(name: str, settings: Sequence[str], *, is_sentinel: bool = False) -> Node:
            candidates = (Node(port, home / f"{name}-{port}", settings, is_sentinel=is_sentinel) for port in ports)
            return stack.enter_context(started(candidates))

        primary = node("first", own)
        replica = node("second", [*own, f"replicaof {LOOPBACK} {primary.port}"])
        _await(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up")
        watching = [
            f"sentinel monitor {PRIMARY} {LOOPBACK} {primary.port} 2",
            f"sentinel auth-pass {PRIMARY} {PASSWORD}",
            f"sentinel down-after-milliseconds {PRIMARY} {_HASTY_MS}",
            f"sentinel failover-timeout {PRIMARY} 2000",
        ]
        sentinels = [node(f"sentinel{number}", watching, is_sentinel=True) for number in range(3)]
        _await(lambda: all(_knows_all(each.ask("SENTINEL MASTER", PRIMARY)) for each in sentinels))
        places = ",".join(f"{LOOPBACK}:{each.port}" for each in sentinels)
        yield Group(f"valkey+sentinel://:{PASSWORD}@{places}/{PRIMARY}", [primary, replica])


class _Ports:
    """Free ports, none of them twice."""

    def __init__(self) -> None:
        self._free = free_ports(os.getpid() + _APART)
        self.bus: dict[int, int] = {}

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return next(self._free)


def _cluster_nodes(ports: _Ports, folder: Path, timeout_ms: int) -> Iterator[Node]:
    for port in ports:
        bus = ports.bus[port] = next(ports)
        settings = [
            "cluster-enabled yes",
            f"cluster-port {bus}",
            f"cluster-node-timeout {timeout_ms}",
            "cluster-require-full-coverage no",
            "repl-diskless-sync-delay 0",
        ]
        yield Node(port, folder.with_name(f"{folder.name}-{port}"), settings)


def _is_whole(node: Node, replicas: int) -> bool:
    if node.ask("CLUSTER INFO")["cluster_state"] != "ok":
        return False
    told = node.ask("INFO", "replication")
    if told["role"] == "slave":
        return bool(told["master_link_status"] == "up")
    return bool(told["connected_slaves"] == replicas)


def _owns(node: Node, key: str) -> bool:
    told = node.ask("INFO")
    if not told["cluster_enabled"]:
        return bool(told["role"] == "master")
    slot = key_slot(key.encode())
    own = next(each for each in node.ask("CLUSTER NODES").values() if "myself" in each["flags"])
    return "master" in own["flags"] and any(int(each[0]) <= slot <= int(each[-1]) for each in own["slots"])


def _knows_all(told: Any) -> bool:  # Any: redis-py's parsed answer
    return bool(told["num-other-sentinels"] == 2 and told["num-slaves"] == 1)


def _await(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("the servers did not find each other")
        time.sleep(_POLL_S)
