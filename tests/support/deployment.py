"""Parley as an image holds it, without an image: the Dockerfile's own steps, in a folder outside the checkout."""

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dev.home import ROOT, Home
from dev.ports import LOOPBACK
from dev.process import Process
from dev.spawning import Account, launched
from tests.support import dockerfile
from tests.support.servers import own_folder
from tests.support.waiting import wait_until

READY_S_MAX = 110.0
_STEP_S_MAX = 240
_ONCE_S_MAX = 100
_PROBE_S_MAX = 2.0
_OK = 200


@dataclass(frozen=True, slots=True)
class Deployment:
    """An installed Parley.

    Attributes:
        folder: holds everything below, and nothing of the checkout.
        account: as whom its processes run: the image's number, which no passwd knows; None keeps an ordinary user.
    """

    folder: Path
    account: Account | None

    @property
    def wheel(self) -> Path:
        """What was built."""
        (found,) = (self.folder / "wheel").glob("*.whl")
        return found

    @property
    def home(self) -> Path:
        """The environment that the image has at /opt/parley."""
        return self.folder / "parley"

    @property
    def temporary(self) -> Path:
        """The one folder that a process may write to."""
        return self.folder / "tmp"

    @property
    def working(self) -> Path:
        """Where processes stand, as they do in the image's root."""
        return self.folder / "root"

    def environment(self, process: Process) -> dict[str, str]:
        """What the image sets, and what the local stack tells this process."""
        ours = {name: value for name, value in process.environment.items() if name.startswith("PARLEY_")}
        around = {name: process.environment[name] for name in ("no_proxy", "NO_PROXY")}
        image = dockerfile.stages()["runtime"].environment()
        own = {"PATH": f"{self.home / 'bin'}:/usr/bin:/bin", "HOME": str(self.temporary)}
        return image | ours | around | own | {"TMPDIR": str(self.temporary)}

    def command(self, process: Process, *instead: str) -> list[str]:
        """Its command line, with the installed interpreter in the place of ours; `instead` of its own command."""
        line = process.command()
        _, flag, package, *words = line[line.index("--") + 1 :]
        command = [self.home / "bin" / "python", flag, package, *(instead or words)]
        return launched(command, account=self.account, folder=self.working)

    def run(self, process: Process, *instead: str) -> subprocess.CompletedProcess[str]:
        """Run a command that ends by itself."""
        return subprocess.run(
            self.command(process, *instead),
            env=self.environment(process),
            capture_output=True,
            text=True,
            timeout=_ONCE_S_MAX,
            check=False,
        )

    def files(self) -> Mapping[str, int]:
        """Every file that a process must leave alone, with the time of its last change."""
        kept = [path for folder in (self.home, self.working) for path in folder.rglob("*")]
        return {str(path.relative_to(self.folder)): path.lstat().st_mtime_ns for path in kept}


@dataclass(slots=True)
class Running:
    """The processes of a deployment.

    Attributes:
        deployment: what they run from.
        home: credentials and secrets.
        processes: the table of the local stack.
        before: every file that they must leave alone, as it was before the first of them.
    """

    deployment: Deployment
    home: Home
    processes: Mapping[str, Process]
    before: Mapping[str, int]
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a process, without waiting for it."""
        process = self.processes[name]
        command, environment = self.deployment.command(process), self.deployment.environment(process)
        with self._log(name).open("wb") as log:
            self.children[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def await_ready(self, name: str) -> None:
        """Wait until its own probe says that it is ready; an AssertionError shows what it printed otherwise."""
        try:
            wait_until(lambda: self.has_ended(name) or is_ready(self.processes[name]), within_s=READY_S_MAX)
        except AssertionError as late:
            raise AssertionError(f"{name} is not ready:\n{self.log(name)}") from late
        assert not self.has_ended(name), f"{name} ended:\n{self.log(name)}"

    def has_ended(self, name: str) -> bool:
        """Whether it runs no more."""
        return self.children[name].poll() is not None

    def stop(self, *, within_s: float) -> Mapping[str, int]:
        """Ask all of them to leave; returns how each ended."""
        for child in self.children.values():
            child.send_signal(signal.SIGTERM)
        return {name: child.wait(within_s) for name, child in self.children.items()}

    def kill(self) -> None:
        """End what still runs."""
        for child in self.children.values():
            child.kill()
            child.wait()

    def log(self, name: str) -> str:
        """What it has printed."""
        return self._log(name).read_text(encoding="utf-8", errors="replace")[-6000:]

    def _log(self, name: str) -> Path:
        return self.deployment.folder / f"{name}.log"


def is_ready(process: Process) -> bool:
    """Ask as Kubernetes would: gRPC's own health service where there is one, else /readyz."""
    if "grpc" in process.ports:
        return _is_serving(process.ports["grpc"])
    connection = http.client.HTTPConnection(LOOPBACK, process.ports["debug"], timeout=_PROBE_S_MAX)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == _OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def deployed() -> Iterator[Deployment]:
    """Install from this checkout; gone afterwards."""
    with own_folder() as folder:
        # So that the image's account, which owns nothing here, can pass.
        folder.chmod(0o711)
        for stage in ("wheel", "libraries", "installed"):
            for command in dockerfile.stages()[stage].commands():
                _install(command, folder)
        found = Deployment(folder, _account(folder / "parley" / "bin" / "python"))
        found.working.mkdir()
        found.temporary.mkdir()
        found.temporary.chmod(0o1777)
        yield found


def _install(command: list[str], folder: Path) -> None:
    """One step of the Dockerfile, with folders of this machine in the place of the image's."""
    places = {"python": sys.executable, "/wheel": str(folder / "wheel"), "/opt/parley": str(folder / "parley")}
    done = subprocess.run(
        [places.get(word, word) for word in command],
        cwd=ROOT,
        # Everything was fetched when the environment of this test was made.
        env={**os.environ, "UV_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=_STEP_S_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"


def _account(python: Path) -> Account | None:
    """The image's user, where this process may become it; below a folder that only root enters, by another name."""
    if os.geteuid() != 0:
        return None
    uid, gid = (int(number) for number in dockerfile.stages()["runtime"].every("USER")[0].words[0].split(":"))
    for namespace in (False, True):
        account = Account(uid, gid, namespace=namespace)
        tried = subprocess.run(launched([python, "-c", ""], account=account), capture_output=True, check=False)
        if tried.returncode == 0:
            return account
    raise AssertionError("nobody but root can run what was installed")


def _is_serving(port: int) -> bool:
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_S_MAX)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
