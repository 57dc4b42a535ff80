"""The process table of Parley: what runs, with which environment, in which order, and when it is ready."""

import http.client
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from dev import certificates, postgres, valkey
from dev.errors import DevError
from dev.home import ROOT, Home
from dev.keyfile import kept_secret
from dev.ports import LOOPBACK, free_ports
from dev.process import Process
from dev.replica import copied
from dev.spawning import launched

SERVICES = ("auth", "conversation", "retrieval", "inference")
_WORKLOADS = ("edge", "conversation", "retrieval", "inference")
"""Who calls others: each has a secret of its own, of which auth knows the hash."""
_PROVIDER_KEYS = ("OPENAI_", "ANTHROPIC_")
"""Settings and keys of model providers; they reach inference and nobody else."""
_OURS = (
    *("PARLEY_DEV_", "PARLEY_URL", "PARLEY_API_KEY", "PARLEY_EMAIL", "PARLEY_PASSWORD"),
    *("PARLEY_DATABASE_URL", "PARLEY_DATABASE_SHARDS", "PARLEY_DATABASE_REPLICAS"),
    *("PARLEY_VALKEY_URL", "PARLEY_WORKLOAD_SECRET"),
    *("PARLEY_GRPC_LISTEN", "PARLEY_DEBUG_LISTEN", "PARLEY_HTTP_LISTEN"),
    "PG",
)
"""Variables that speak to the stack or to its clients, or that it sets itself for each process."""
_SHARDED = ("conversation", "retrieval", "inference")
"""Services whose data is by organization; auth's has to be in one place, for it tells which organization it is."""
_READING = ("conversation", "inference")
"""Services whose API asks replicas of their servers; nobody calls a worker."""
_REPLICAS_MAX = 3
_MAIN = "main"
_LETTERS = ("b", "c")
_INSTANCES_MAX = 1 + len(_LETTERS)
_DATABASE_REPLICAS_MAX = 2
"""Small numbers all of them: every process has connections of its own on every server."""
_DRAIN_S = "8"
"""A person who typed Ctrl-C does not wait for long; an answer that is cut here is taken up at the next start."""
_PROBE_S_MAX = 2.0
_OK = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What one start of the stack runs, and where it can be reached.

    Attributes:
        table: the processes.
        url: of the first edge.
        targets: gRPC addresses of each service, with commas between those of its replicas.
        has_tls: whether callers by gRPC need a certificate.
    """

    table: list[Process]
    url: str
    targets: Mapping[str, str]
    has_tls: bool


def plan(home: Home, *, port: int) -> Plan:
    """The process table for the folder, with the edge on the given port and every other port chosen freely.

    `PARLEY_DATABASE_URL` (with `PARLEY_DATABASE_SHARDS` and `PARLEY_DATABASE_REPLICAS`) and `PARLEY_VALKEY_URL` in the
    environment take the place of the embedded servers.
    `PARLEY_DEV_REPLICAS` in it is how often every process of Parley itself runs; `edge-2` is the second edge.
    `PARLEY_DEV_SHARDS` in it is how many PostgreSQL servers share the organizations; `postgres-b` is the second one.
    `PARLEY_DEV_DATABASE_REPLICAS` in it is how many read replicas each server has; `postgres-replica` is the first one.
    With `PARLEY_DEV_TLS=1` they know each other by certificates, which are made anew for each start.

    Raises:
        DevError: one of these is not a number that there can be, `PARLEY_DEV_TLS` no 0 or 1.
    """
    return _Planner(home, port, dict(os.environ)).plan()


class _Planner:
    def __init__(self, home: Home, port: int, given: Mapping[str, str]) -> None:
        self._home = home
        self._port = port
        self._given = given
        self._ports = (free for free in free_ports(port) if free != port)
        self._table: list[Process] = []
        self._replicas = _number(given, "PARLEY_DEV_REPLICAS", _REPLICAS_MAX)
        self._instances = _number(given, "PARLEY_DEV_SHARDS", _INSTANCES_MAX)
        self._database_replicas = _number(given, "PARLEY_DEV_DATABASE_REPLICAS", _DATABASE_REPLICAS_MAX, least=0)
        self._has_tls = _is_on(given, "PARLEY_DEV_TLS")
        self._grpc = {service: [next(self._ports) for _ in range(self._replicas)] for service in SERVICES}
        self._targets = {
            service: ",".join(f"{LOOPBACK}:{number}" for number in numbers) for service, numbers in self._grpc.items()
        }
        self._secrets = {name: kept_secret(home.folder / "secrets" / name) for name in _WORKLOADS}

        self._database_url = self._valkey_url = ""
        self._shard_urls: dict[str, str] = {}
        self._replica_urls: dict[str, list[str]] = {}
        self._following: list[str] = []

    def plan(self) -> Plan:
        self._database_url, after_database = self._database()
        self._valkey_url, after_valkey = self._valkey()
        stores = (*after_database, *self._following, *after_valkey)
        if self._has_tls:
            certificates.certificates(self._home.certificates)
        for service in SERVICES:
            self._once(f"migrate-{service}", service, ["migrate"], after=after_database)
        stores = (*stores, *self._after_restore(stores))
        self._serve("auth", "auth", after=("migrate-auth", *stores))
        bootstrap = ["bootstrap", "--output", str(self._home.bootstrap)]
        self._once("bootstrap", "auth", bootstrap, after=("migrate-auth", *stores))
        self._serve("inference", "inference", after=("auth", "migrate-inference", *stores))
        self._serve("retrieval", "retrieval", after=("auth", "migrate-retrieval", *stores))
        self._work("retrieval-worker", "retrieval", after=("auth", "migrate-retrieval", *stores))
        self._serve("conversation", "conversation", after=("auth", "migrate-conversation", *stores))
        self._work("conversation-worker", "conversation", after=("conversation", "retrieval", "inference"))
        self._edge(after=("bootstrap", *SERVICES))
        return Plan(self._table, f"http://{LOOPBACK}:{self._port}", self._targets, self._has_tls)

    def _after_restore(self, stores: tuple[str, ...]) -> tuple[str, ...]:
        """On a database that was just restored, what has to be done before anything serves."""
        if not self._home.unseen.exists():
            return ()
        names = {service: f"after-restore-{service}" for service in SERVICES}
        for service, name in names.items():
            self._once(name, service, ["after-restore"], after=(f"migrate-{service}", *stores))
        return tuple(names.values())

    def _database(self) -> tuple[str, tuple[str, ...]]:
        if given := self._given.get("PARLEY_DATABASE_URL"):
            self._shard_urls = json.loads(self._given.get("PARLEY_DATABASE_SHARDS") or "{}")
            self._replica_urls = json.loads(self._given.get("PARLEY_DATABASE_REPLICAS") or "{}")
            return given, ()
        first = self._postgres("postgres", _MAIN)
        shards = {letter: f"postgres-{letter}" for letter in _LETTERS[: self._instances - 1]}
        self._shard_urls = {letter: self._postgres(name, letter) for letter, name in shards.items()}
        return first, ("postgres", *shards.values())

    def _postgres(self, name: str, instance: str) -> str:
        """A server, on data of its own, and its replicas; gives its address."""
        cluster = postgres.Cluster(self._home.folder / name)
        port = next(self._ports)
        self._server(name, cluster, port, cluster.prepare)
        for number in range(self._database_replicas):
            following = _named(f"{name}-replica", number)
            # It is copied at every start, so nothing of it has to outlive a crash.
            copy = postgres.Cluster(self._home.folder / following, durable=False)
            its_port = next(self._ports)
            self._server(following, copy, its_port, partial(copied, cluster, port, copy), after=(name,))
            self._following.append(following)
            self._replica_urls.setdefault(instance, []).append(cluster.url(its_port))
        return cluster.url(port)

    def _server(
        self,
        name: str,
        cluster: postgres.Cluster,
        port: int,
        prepare: Callable[[], postgres.Prepared],
        *,
        after: tuple[str, ...] = (),
    ) -> None:
        self._add(
            Process(
                name,
                lambda: prepare().command(port),
                after=after,
                is_ready=cluster.is_ready,
                environment=_inherited(self._given, "postgres"),
                ports={"postgres": port},
                stop_signal=postgres.STOP_SIGNAL,
                # An interrupted server reads its log first, and as long as it does so there is nothing to restart.
                start_s_max=300.0,
                stop_s_max=60.0,
            )
        )

    def _valkey(self) -> tuple[str, tuple[str, ...]]:
        if given := self._given.get("PARLEY_VALKEY_URL"):
            return given, ()
        store = valkey.Store(self._home.folder / "valkey")
        port = next(self._ports)
        self._add(
            Process(
                "valkey",
                lambda: store.prepare(port),
                is_ready=lambda pid: store.is_ready(port, pid),
                environment=_inherited(self._given, "valkey"),
                ports={"valkey": port},
                stop_signal=valkey.STOP_SIGNAL,
            )
        )
        return store.url(port), ("valkey",)

    def _once(self, name: str, service: str, arguments: list[str], *, after: tuple[str, ...]) -> None:
        command = _python(f"services.{service}", arguments)
        # A migration calls no provider, so it sees no provider's key.
        own = self._environment(service).items()
        environment = {name: value for name, value in own if not name.startswith(_PROVIDER_KEYS)}
        self._add(Process(name, command, after=after, one_shot=True, environment=environment, start_s_max=300.0))

    def _serve(self, name: str, service: str, *, after: tuple[str, ...]) -> None:
        for replica, grpc in enumerate(self._grpc[service]):
            self._run(_named(name, replica), service, "serve", after=after, listens={"grpc": grpc})

    def _work(self, name: str, service: str, *, after: tuple[str, ...]) -> None:
        for replica in range(self._replicas):
            self._run(_named(name, replica), service, "worker", after=after, listens={})

    def _edge(self, *, after: tuple[str, ...]) -> None:
        for replica in range(self._replicas):
            port = next(self._ports) if replica else self._port
            self._run(_named("edge", replica), "edge", "serve", after=after, listens={"http": port})

    def _run(
        self, name: str, deployable: str, command: str, *, after: tuple[str, ...], listens: Mapping[str, int]
    ) -> None:
        """A process that runs until it is stopped."""
        ports = {**listens, "debug": next(self._ports)}
        environment = self._environment(deployable)
        environment |= {f"PARLEY_{purpose.upper()}_LISTEN": f"{LOOPBACK}:{port}" for purpose, port in ports.items()}
        if self._replica_urls and deployable in _READING and command == "serve":
            environment["PARLEY_DATABASE_REPLICAS"] = json.dumps(self._replica_urls)
        process = Process(
            name,
            _python(deployable if deployable == "edge" else f"services.{deployable}", [command]),
            # Of what is replicated, every replica: what needs one of them is stopped before all of them.
            after=tuple(_named(each, replica) for each in after for replica in range(self._copies(each))),
            is_ready=_http_ready(ports["debug"]),
            environment=environment,
            ports=ports,
        )
        self._add(process)

    def _copies(self, name: str) -> int:
        return self._replicas if name in (*SERVICES, "conversation-worker", "retrieval-worker") else 1

    def _environment(self, deployable: str) -> dict[str, str]:
        """Everything that a process of the deployable sees, and nothing that belongs to another one."""
        environment = _inherited(self._given, deployable) | _local(self._given)
        if self._replicas == 1:
            # Nobody can go elsewhere, so nobody is given the time for it.
            environment.setdefault("PARLEY_NOT_SERVING_PAUSE_S", "0")
        environment |= {f"PARLEY_{service.upper()}_TARGET": target for service, target in self._targets.items()}
        if deployable in SERVICES:
            environment["PARLEY_DATABASE_URL"] = self._database_url
            if self._shard_urls and deployable in _SHARDED:
                environment["PARLEY_DATABASE_SHARDS"] = json.dumps(self._shard_urls)
            environment["PARLEY_VALKEY_URL"] = self._valkey_url
        if self._has_tls:
            environment |= certificates.settings(self._home.certificates, deployable)
            environment |= {"PARLEY_MESH_TLS_PEERS": json.dumps(certificates.peers())} if deployable in SERVICES else {}
        if deployable in self._secrets:
            environment["PARLEY_WORKLOAD_SECRET"] = self._secrets[deployable]
        if deployable == "auth":
            key = kept_secret(self._home.folder / "secrets" / "auth-key-encryption")
            environment.setdefault("PARLEY_AUTH_KEY_ENCRYPTION_SECRET", key)
            hashes = {name: sha256(secret.encode("ascii")).hexdigest() for name, secret in self._secrets.items()}
            environment["PARLEY_AUTH_WORKLOADS"] = json.dumps(hashes)
        return environment

    def _add(self, process: Process) -> None:
        self._table.append(process)


def _number(given: Mapping[str, str], variable: str, most: int, *, least: int = 1) -> int:
    text = given.get(variable) or str(least)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise DevError(f"{variable} is {text!r}: choose a number from {least} to {most}")
    return int(text)


def _is_on(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name) or "0"
    if text not in {"0", "1"}:
        raise DevError(f"{name} is {text!r}: choose 1 for on, or 0")
    return text == "1"


def _named(name: str, replica: int) -> str:
    return f"{name}-{replica + 1}" if replica else name


def _inherited(given: Mapping[str, str], deployable: str) -> dict[str, str]:
    """What the caller's environment holds for this deployable: nothing of another one's, no credentials of people."""
    others = tuple(f"PARLEY_{name.upper()}_" for name in (*SERVICES, "edge") if name != deployable)
    foreign = (*others, *_OURS, *(() if deployable == "inference" else _PROVIDER_KEYS))
    return {name: value for name, value in given.items() if not name.startswith(foreign)}


def _local(given: Mapping[str, str]) -> dict[str, str]:
    """What suits a stack on one machine."""
    # A proxy of the machine must not come between two processes of the stack.
    bypass = given.get("no_proxy") or given.get("NO_PROXY") or ""
    around = ",".join(filter(None, [bypass, LOOPBACK, "localhost"]))
    return {
        "no_proxy": around,
        "NO_PROXY": around,
        "PYTHONUNBUFFERED": "1",
        "PARLEY_LOG_FORMAT": given.get("PARLEY_LOG_FORMAT", "text"),
        "PARLEY_REFLECTION": given.get("PARLEY_REFLECTION", "true"),
        "PARLEY_DRAIN_S": given.get("PARLEY_DRAIN_S", _DRAIN_S),
    }


def _python(package: str, arguments: list[str]) -> Callable[[], list[str]]:
    def command() -> list[str]:
        if not (ROOT / Path(*package.split(".")) / "__main__.py").is_file():
            raise DevError(f"{package} is missing in {ROOT}: the checkout is not complete")
        return launched([sys.executable, "-m", package, *arguments])

    return command


def _http_ready(port: int) -> Callable[[int], bool]:
    """Whether `/readyz` on the debug port says yes."""

    def is_ready(_: int) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_PROBE_S_MAX)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == _OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return is_ready
