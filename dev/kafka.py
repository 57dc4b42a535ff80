"""Apache Kafka, for those who run their queue on it: fetched by Maven, one KRaft process, started and stopped by us.

The stack does not start it: `make kafka` does, beside the stack, and tests do. Needs Java 17 and Maven.
"""

import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.errors import DevError
from dev.home import ROOT, Home
from dev.keyfile import write_private
from dev.ports import LOOPBACK, free_ports, is_free
from dev.server import ChildServer
from dev.spawning import Claim, launched

VERSION = "4.1.0"
STOP_SIGNAL = signal.SIGTERM
"""Kafka writes its offsets and leaves."""

_JAVA_MIN = 17
_HEAP = "384m"
_FETCH_S_MAX = 600.0
_FORMAT_S_MAX = 60.0
_ANSWER_S_MAX = 2.0
_LOOK_S = 0.5
_METADATA = struct.pack(">hhihi", 3, 1, 1, -1, 0)
"""Asks for the brokers of the cluster and no topic: key, version, correlation id, no client id, no names."""
_ANSWER = struct.Struct(">iii")
"""Size, correlation id, number of brokers."""
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>parley</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
    </dependency>
    <!-- Without it a broker that cannot start says nothing. -->
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """One data folder of Kafka and what is needed to run a broker on it."""

    folder: Path

    def prepare(self, port: int, controller_port: int) -> list[str]:
        """Fetch, configure and format where that was not done; returns the command line of the broker.

        Raises:
            DevError: Java or Maven is missing, or one of the steps failed.
        """
        libraries = fetched()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = self.folder / "server.properties"
        lines = [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@{LOOPBACK}:{controller_port}",
            "controller.listener.names=CONTROLLER",
            f"listeners=PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
            # The folder is the working directory of the process, so that no path has to be quoted here.
            "log.dirs=data",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            # After kill -9 the next start waits until the cluster, which is itself, has given up the last one.
            "broker.heartbeat.interval.ms=500",
            "broker.session.timeout.ms=2000",
            # A topic that sprang up by itself would have one partition.
            "auto.create.topics.enable=false",
            # A deleted topic is gone at once, and not a minute later.
            "log.segment.delete.delay.ms=1000",
        ]
        write_private(configuration, "\n".join(lines) + "\n")
        if not (self.folder / "data" / "meta.properties").is_file():
            self._format(libraries)
        java = [*_java(libraries, f"-Xmx{_HEAP}"), "kafka.Kafka", configuration.name]
        return launched(java, death_signal=STOP_SIGNAL, folder=self.folder, claim=Claim(self.folder / "claim"))

    def is_ready(self, port: int) -> bool:
        """Whether a Kafka broker answers on the port, and counts itself among the brokers that may be used."""
        try:
            with socket.create_connection((LOOPBACK, port), timeout=_ANSWER_S_MAX) as connection:
                connection.sendall(struct.pack(">i", len(_METADATA)) + _METADATA)
                answer = connection.recv(_ANSWER.size, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == _ANSWER.size and _ANSWER.unpack(answer)[2] > 0

    def _format(self, libraries: Path) -> None:
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", "server.properties"]
        _checked([*_java(libraries, "-Xmx128m"), *tool], self.folder, _FORMAT_S_MAX, "Kafka's folder was not formatted")


class Server(ChildServer):
    """See `ChildServer`."""

    name = "Kafka"
    stop_signal = STOP_SIGNAL
    start_s_max = 180.0
    stop_s_max = 20.0

    def __init__(self, broker: Broker, port: int, controller_port: int, log: Path) -> None:
        super().__init__(port, log)
        self.broker = broker
        self._controller_port = controller_port

    @property
    def bootstrap(self) -> str:
        """What clients connect to."""
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        return self.broker.prepare(self.port, self._controller_port)

    def is_ready(self) -> bool:
        """See `ChildServer.is_ready`."""
        return self.broker.is_ready(self.port)


def missing() -> str:
    """What this machine lacks for a broker, as a sentence; empty when it lacks nothing."""
    lacking = [name for name, command in (("Java 17 or newer", "java"), ("Maven", "mvn")) if not shutil.which(command)]
    if lacking:
        return f"a Kafka broker needs {' and '.join(lacking)} (Debian: default-jre-headless, maven)"
    told = subprocess.run(["java", "-version"], check=False, capture_output=True, text=True, timeout=_FORMAT_S_MAX)
    found = re.search(r'version "(\d+)', told.stderr + told.stdout)
    if found is None or int(found[1]) < _JAVA_MIN:
        return f"a Kafka broker needs Java {_JAVA_MIN} or newer; `java -version` tells {found[1] if found else 'none'}"
    return ""


def fetched() -> Path:
    """The folder of Kafka's libraries; Maven fills it once per version and checkout, checking every checksum.

    Raises:
        DevError: Java or Maven is missing, or Maven failed.
    """
    if lack := missing():
        raise DevError(lack)
    folder = ROOT / ".build" / "kafka" / VERSION
    libraries = folder / "libs"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / "lock"):
        if libraries.is_dir():
            return libraries
        (folder / "pom.xml").write_text(_POM.format(version=VERSION), encoding="utf-8")
        partial = folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
        maven = ["mvn", "--quiet", "--batch-mode", "--strict-checksums", *goal]
        _checked(maven, folder, _FETCH_S_MAX, f"Maven could not fetch Kafka {VERSION}")
        partial.rename(libraries)
    return libraries


def kafka() -> None:
    """Run a broker in the foreground until Ctrl-C; its data is kept in the stack's folder.

    Raises:
        DevError: it cannot start; the message says what to do.
    """
    folder = Home.from_environment().folder / "kafka"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    print(f"starting Kafka {VERSION}; its data is in {folder}", flush=True)
    server = Server(Broker(folder), *_kept_ports(folder), folder / "kafka.log")
    server.start()
    print(f"ready {server.bootstrap}; Ctrl-C stops it. In a second terminal:", flush=True)
    print(f"  PARLEY_QUEUE=kafka PARLEY_KAFKA_BOOTSTRAP={server.bootstrap} make run", flush=True)
    while server.is_running and not ended.wait(_LOOK_S):
        pass
    if not server.is_running:
        raise DevError(f"Kafka ended by itself; see {folder / 'kafka.log'}")
    server.stop()
    print("stopped", flush=True)


def _kept_ports(folder: Path) -> tuple[int, int]:
    """Those of the last start, so that what was configured with them stays right; else free ones."""
    file = folder / "ports"
    if file.is_file():
        port, controller = (int(word) for word in file.read_text(encoding="ascii").split())
        if is_free(port) and is_free(controller):
            return port, controller
    free = free_ports(os.getpid())
    port, controller = next(free), next(free)
    write_private(file, f"{port} {controller}\n")
    return port, controller


def _java(libraries: Path, heap: str) -> list[str]:
    # The first compiler alone: a broker of one person gains nothing from the second one, which doubles its start.
    return ["java", heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{libraries}/*"]


def _checked(command: list[str], folder: Path, within_s: float, failure: str) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
        )
    except subprocess.CalledProcessError as error:
        raise DevError(f"{failure}:\n{error.stdout[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise DevError(f"{failure} within {within_s:.0f} s") from error


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
