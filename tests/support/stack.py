"""The whole of Parley for end-to-end tests: `python -m dev up` in a folder of its own, on ports of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev.home import Home, shell_values
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[2]
_START_S_MAX = 110.0
_STOP_S_MAX = 60.0
_POLL_S = 0.05
_TAIL_BYTES = 6000
_FOREIGN = ("PARLEY_", "OPENAI_", "ANTHROPIC_")
"""Variables of the person who runs the tests; a test's stack sees its own only."""


_AS_ASKED = ("SHARDS", "DATABASE_REPLICAS")
"""What whoever runs the tests chooses for every stack, by variables that begin with PARLEY_TEST_."""


class Stack:
    """A running stack.

    Attributes:
        folder: its data, logs and credentials.
        environment: what its processes are given beyond the defaults.
        tree: the checkout that is run.
        command: of Python, that runs it.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        tree: Path = _ROOT,
        command: Sequence[str] = ("-m", "dev", "up"),
    ) -> None:
        self.folder = folder
        self.tree = tree
        self.command = command
        self.environment = dict(environment or {})
        self._home = Home(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the edge, such as `http://127.0.0.1:20123`."""
        return self._credential("PARLEY_URL")

    @property
    def api_key(self) -> str:
        """Of the first user, who owns the first organization."""
        return self._credential("PARLEY_API_KEY")

    @property
    def email(self) -> str:
        """Of the first user."""
        return self._credential("PARLEY_EMAIL")

    @property
    def password(self) -> str:
        """Of the first user."""
        return self._credential("PARLEY_PASSWORD")

    @property
    def targets(self) -> Mapping[str, str]:
        """gRPC address of each service by name: `auth`, `conversation`, `retrieval`, `inference`."""
        known = shell_values(self._home.credentials)
        suffix = "_TARGET"
        return {
            name.removeprefix("PARLEY_").removesuffix(suffix).lower(): value
            for name, value in known.items()
            if name.endswith(suffix)
        }

    @property
    def certificates(self) -> Path:
        """With a folder per workload, where `PARLEY_DEV_TLS` is on."""
        return self._home.certificates

    def start(self) -> None:
        """Start it and wait until it is ready; an AssertionError shows the end of its output otherwise."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        environment |= {"PARLEY_DEV_DIR": str(self.folder), "PARLEY_DEV_PORT": "0"}
        environment |= {f"PARLEY_DEV_{name}": os.environ.get(f"PARLEY_TEST_{name}", "") for name in _AS_ASKED}
        environment |= self.environment
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *self.command], cwd=self.tree, env=environment, stdout=output, stderr=output
            )
        deadline = time.monotonic() + _START_S_MAX
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"the stack did not get ready:\n{_tail(self._output)}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Stop it as Ctrl-C does; harmless when it does not run."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the stack did not stop:\n{_tail(self._output)}") from None
        finally:
            self._process = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the processes that run until they are stopped."""
        return tuple(name for name, state in self._states().items() if state["state"] != "done")

    def pid(self, name: str) -> int:
        """Process id of a process of the table, such as `conversation-worker`."""
        return int(str(self._state(name)["pid"]))

    def ports(self, name: str) -> Mapping[str, int]:
        """Ports of a process by purpose: `grpc`, `debug`, `http`, `postgres` or `valkey`."""
        found = self._state(name)["ports"]
        assert isinstance(found, dict)
        return found

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process; the stack starts it again when it dies of it."""
        os.kill(self.pid(name), number)

    def await_restart(self, name: str, *, beyond: int = 0) -> None:
        """Wait until a process has been started again more than `beyond` times and is ready."""
        wait_until(lambda: self.has_restarted(name, beyond=beyond), within_s=_START_S_MAX)

    def restarts(self, name: str) -> int:
        """How often a process has been started again."""
        return int(str(self._state(name)["restarts"]))

    def is_restarting(self, name: str) -> bool:
        """Whether a process has ended and the next one was not started yet."""
        return self._state(name)["state"] == "restarting"

    def has_restarted(self, name: str, *, beyond: int) -> bool:
        """Whether a process has been started again more than `beyond` times and is ready."""
        state = self._state(name)
        return int(str(state["restarts"])) > beyond and state["state"] == "ready"

    def last_status(self, name: str) -> int | None:
        """How a process ended last: its exit status, or minus the signal's number; None if it never did."""
        status = self._state(name)["last_status"]
        assert status is None or isinstance(status, int)
        return status

    def log(self, name: str) -> str:
        """The end of a process's log."""
        return _tail(self._home.logs / f"{name}.log")

    def report(self) -> str:
        """The end of what the stack and its processes printed, for the report of a failed test."""
        return _tail(self._output)

    @property
    def _output(self) -> Path:
        return self.folder / "output.log"

    def _is_ready(self) -> bool:
        return any(line.startswith(b"ready http") for line in self._output.read_bytes().splitlines())

    def _credential(self, name: str) -> str:
        return shell_values(self._home.credentials)[name]

    def _state(self, name: str) -> Mapping[str, object]:
        return self._states()[name]

    def _states(self) -> Mapping[str, Mapping[str, object]]:
        found = json.loads(self._home.state.read_text(encoding="utf-8"))["processes"]
        assert isinstance(found, dict)
        return found


@contextmanager
def running_stack(environment: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A stack in a folder that is removed afterwards.

    Args:
        environment: settings of its processes, such as `PARLEY_INFERENCE_…`.
    """
    with tempfile.TemporaryDirectory(prefix="parley-test-") as name:
        # So that root's PostgreSQL runs as an unprivileged account, as it does in a checkout.
        Path(name).chmod(0o711)
        stack = Stack(Path(name) / "dev", environment)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


def _tail(path: Path) -> str:
    if not path.exists():
        return "(nothing)"
    return path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
