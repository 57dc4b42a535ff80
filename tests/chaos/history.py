"""The history: every operation that clients and provider saw, one JSON line each, for the checker and for people."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Record: TypeAlias = dict[str, Any]  # Any: what an operation says of itself; always with `t` and `op`


class Notes(Protocol):
    """Where operations are noted."""

    def now(self) -> float:
        """Seconds since it began."""
        ...

    def add(self, op: str, **facts: Any) -> None:  # Any: as in Record
        """Notes an operation with its facts."""
        ...


class History:
    """Writes records in the order in which they happened.

    Args:
        path: of the file; it is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1 << 20)
        self._begun = time.monotonic()

    def now(self) -> float:
        """Seconds since the history began."""
        return round(time.monotonic() - self._begun, 4)

    def add(self, op: str, **facts: Any) -> None:  # Any: as in Record
        """Notes an operation with its facts."""
        self._file.write(json.dumps({"t": self.now(), "op": op, **facts}, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Makes what was noted readable."""
        self._file.flush()

    def close(self) -> None:
        """Ends the history."""
        self._file.close()


def read(path: Path) -> Iterator[Record]:
    """The records of a file; a last line that was cut off is left out."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
