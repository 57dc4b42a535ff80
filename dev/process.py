"""A process as the table describes it, and a child process that runs."""

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LINE_BYTES_MAX = 16_384
"""A longer line is shown in pieces."""
_TAIL_LINES = 25
"""As many last lines of a process stand in the message about its failure."""


@dataclass(frozen=True, slots=True)
class Process:
    """One entry of the process table.

    Attributes:
        name: shown to people; also the name of its log file.
        command: makes the command line, before every start; may block, and may fail with DevError.
        after: names of the processes that have to be ready (or done) before this one starts.
        is_ready: asks the running process with the given id whether it can be used; may block for a second.
        one_shot: it is done when it ends with status 0; all others run until they are stopped.
        environment: all environment variables of the process.
        ports: what it listens on, by purpose.
        stop_signal: asks it to drain and leave.
        start_s_max: it has to be ready within this time.
        stop_s_max: it has to leave within this time, or it is killed.
    """

    name: str
    command: Callable[[], list[str]]
    after: tuple[str, ...] = ()
    is_ready: Callable[[int], bool] = lambda _: True
    one_shot: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    ports: Mapping[str, int] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    start_s_max: float = 60.0
    stop_s_max: float = 15.0


class Child:
    """A started process whose output is passed on line by line."""

    def __init__(self, running: asyncio.subprocess.Process, output: int, relay: Callable[[str], None]) -> None:
        self._running = running
        self._output = output
        self._relay = relay
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.silent = asyncio.Event()

    @classmethod
    async def start(
        cls, command: list[str], *, environment: Mapping[str, str], folder: Path, relay: Callable[[str], None]
    ) -> "Child":
        """Start it in a session of its own, so that Ctrl-C at the terminal reaches the stack alone."""
        # A pipe of our own: with asyncio's, a process counts as ended only when its children have closed it too.
        output, its_end = os.pipe()
        try:
            running = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=its_end,
                stderr=its_end,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(its_end)
        return cls(running, output, relay)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._running.pid

    @property
    def status(self) -> int | None:
        """How it ended: its exit status, or minus the signal's number; None while it runs."""
        return self._running.returncode

    async def ended(self) -> int:
        """Wait until it has ended; returns its status."""
        return await self._running.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; harmless when it has ended."""
        if self._running.returncode is None:
            self._running.send_signal(number)

    def sweep(self) -> None:
        """Kill what an ended process left behind in its session: it could hold a port that the next one needs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)

    async def read(self) -> None:
        """Pass its output on until it is closed; belongs into a task that lives as long as the process."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._output, "rb", 0)
        )
        try:
            rest = b""
            while block := await reader.read(_LINE_BYTES_MAX):
                *lines, rest = (rest + block).split(b"\n")
                if len(rest) >= _LINE_BYTES_MAX:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._pass(line)
            if rest:
                self._pass(rest)
        finally:
            transport.close()
            self.silent.set()

    def _pass(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        self.tail.append(text)
        self._relay(text)


def described(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def in_order(table: list[Process]) -> list[Process]:
    """The table so that every process stands behind those it needs.

    Raises:
        ValueError: a name appears twice, a needed process is not in the table, or two wait for each other.
    """
    names = [process.name for process in table]
    if len(set(names)) < len(names):
        raise ValueError(f"a name appears twice in the process table: {sorted(names)}")
    ordered: list[Process] = []
    placed: set[str] = set()
    waiting = list(table)
    while waiting:
        free = [process for process in waiting if placed.issuperset(process.after)]
        if not free:
            raise ValueError(f"these wait for each other or for something unknown: {[each.name for each in waiting]}")
        ordered += free
        placed.update(process.name for process in free)
        waiting = [process for process in waiting if process.name not in placed]
    return ordered
