"""What processes spend and hold, read from /proc: CPU between two instants, and memory that is their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.load.cpu import cpu_s, family
from tests.load.wish import now_us

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds of each process since its start, at an instant."""

    at_us: int
    cpu_s: Mapping[str, float]

    @classmethod
    def of(cls, pids: Mapping[str, int]) -> "Reading":
        """Now."""
        return cls(now_us(), {role: cpu_s(pid) for role, pid in pids.items()})

    def since(self, earlier: "Reading") -> dict[str, float]:
        """CPU seconds from an earlier reading to this one."""
        return {role: spent - earlier.cpu_s[role] for role, spent in self.cpu_s.items()}

    def seconds_since(self, earlier: "Reading") -> float:
        """Time from an earlier reading to this one."""
        return (self.at_us - earlier.at_us) / 1_000_000


def memory_bytes(pid: int) -> int:
    """Of a process and its children; what several share is counted in parts (proportional set size)."""
    return 1024 * sum(_pss_kib(one) for one in family(pid))


def _pss_kib(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1])
