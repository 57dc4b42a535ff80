"""A server as a child process of this one: started, awaited, killed and stopped. Tests use it, and `make kafka`."""

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from dev.errors import DevError

_POLL_S = 0.02
_TAIL_CHARACTERS = 2_000


class ChildServer(ABC):
    """See the module.

    Attributes:
        name: for people.
        stop_signal: asks it to write what it holds and to leave.
        start_s_max: it has to be ready within this time.
        stop_s_max: it has to leave within this time, or it is killed.
        port: what it listens on.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    start_s_max: ClassVar[float]
    stop_s_max: ClassVar[float]

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Prepares what it needs; returns its command line. Raises DevError."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether this process, and no other, can be used."""

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers; see `launch` and `wait_ready`."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it. It dies with the thread that calls this, so that has to be the main thread.

        Raises:
            DevError: it cannot be prepared.
        """
        command = self.command()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            DevError: it ended instead, or something else answers on the port; the message holds the end of its log.
        """
        deadline = time.monotonic() + self.start_s_max
        while not self.is_ready():
            if not self.is_running or time.monotonic() > deadline:
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARACTERS:]
                self.stop()
                raise DevError(f"{self.name} did not start on port {self.port}; its log ends with:\n{tail}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """End it as a power failure would; `start` takes its data up again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop it; harmless when it does not run."""
        if self._process is None:
            return
        if self.is_running:
            self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(self.stop_s_max)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None
