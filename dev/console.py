"""What a person sees of the stack, and the log file of each process."""

import os
import sys
import threading
from pathlib import Path
from typing import TextIO

_LOG_BYTES_MAX = 5_000_000
"""Per process, and once more for the file before: enough for a day of work, and no disk fills up."""
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Console:
    """Prints the stack's own lines, and the lines of its processes behind their names.

    Args:
        stream: where lines go; a terminal gets colours, unless NO_COLOR is set (https://no-color.org).
        names: the processes, so that their prefixes have one width.
    """

    def __init__(self, stream: TextIO, names: list[str]) -> None:
        self._stream: TextIO | None = stream
        self._width = max((len(name) for name in names), default=0)
        self._coloured = stream.isatty() and not os.environ.get("NO_COLOR")
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Print a line of the stack itself."""
        self._print(f"\x1b[1m{line}\x1b[0m" if self._coloured and line else line)

    def relay(self, name: str, line: str) -> None:
        """Print a line of a process."""
        prefix = f"{name:<{self._width}} |"
        if self._coloured:
            prefix = f"\x1b[{self._colours.get(name, 0)}m{prefix}\x1b[0m"
        self._print(f"{prefix} {line}")

    def _print(self, line: str) -> None:
        with self._lock:
            if self._stream is None:
                return
            try:
                print(line, file=self._stream, flush=True)
            except BrokenPipeError:
                # Whoever read along has left (`make run | head`); the stack goes on, its log files hold the rest.
                self._stream = None
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LogFile:
    """A log file of bounded size: when full it becomes `<name>.1`, in place of the one before."""

    def __init__(self, path: Path, *, bytes_max: int = _LOG_BYTES_MAX) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._bytes_max = bytes_max
        self._file = path.open("ab")

    def write(self, line: str) -> None:
        """Append a line, which a reader of the file sees at once."""
        if self._file.tell() >= self._bytes_max:
            self._file.close()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._file = self.path.open("ab")
        self._file.write(line.encode("utf-8", "replace") + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
