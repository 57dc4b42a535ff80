"""CPU time of processes from /proc: what a request costs, however busy the machine is otherwise."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")
# Fields of /proc/PID/stat behind the name in brackets, which may hold blanks; proc(5) counts from 1 before it.
_PARENT, _OWN, _REAPED = 1, slice(11, 13), slice(13, 15)


def cpu_s(pid: int) -> float:
    """Seconds in user and system mode of a process, its threads and its children, those that have ended too."""
    family = [fields for fields in _stats() if fields[0] == pid or int(fields[1][_PARENT]) == pid]
    ticks = sum(_sum(fields[_OWN]) for _, fields in family)
    ticks += sum(_sum(fields[_REAPED]) for found, fields in family if found == pid)
    return ticks / _TICKS_PER_S


def family(pid: int) -> list[int]:
    """The process and its children."""
    return [found for found, fields in _stats() if found == pid or int(fields[_PARENT]) == pid]


def _sum(fields: Iterable[str]) -> int:
    return sum(int(field) for field in fields)


def _stats() -> list[tuple[int, list[str]]]:
    found = []
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            found.append((int(folder.name), text.rpartition(")")[2].split()))
    return found
