"""The table at the end of a run."""

from collections.abc import Sequence
from typing import Final

from tests.chaos.run import Result

_HEAD: Final = (
    *("seed", "turns acknowledged", "lost", "duplicated", "completed", "failed openly", "cancelled"),
    *("questions held back", "strikes", "kills", "takeovers", "longest takeover", "slowest recovery", "violations"),
)


def table(results: Sequence[Result]) -> str:
    """One column per seed, and one of all."""
    columns = [_HEAD, *(_column(str(result.seed), [result]) for result in results)]
    if len(results) > 1:
        columns.append(_column("all", results))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *others]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _column(name: str, results: Sequence[Result]) -> tuple[str, ...]:
    verdicts = [result.verdict for result in results]
    sums = [sum(getattr(verdict, field) for verdict in verdicts) for field in _SUMMED]
    return (
        name,
        *(str(number) for number in sums),
        str(sum(result.dropped for result in results)),
        str(sum(result.strikes for result in results)),
        str(sum(result.kills for result in results)),
        str(sum(verdict.takeovers for verdict in verdicts)),
        f"{max(verdict.takeover_s_max for verdict in verdicts):.1f} s",
        f"{max(verdict.recovery_s for verdict in verdicts):.1f} s",
        str(sum(len(verdict.violations) for verdict in verdicts)),
    )


_SUMMED: Final = ("acknowledged", "lost", "duplicated", "completed", "failed", "cancelled")
