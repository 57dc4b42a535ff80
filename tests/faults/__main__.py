"""`python -m tests.faults`: prints what comes of every fault, what an outage costs, and how soon who leaves is gone."""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

from services.mesh import telemetry
from tests.faults.matrix import CASES, VENDORS, Case, Row, freed_after_s, run, staged
from tests.support.provider_double import Fault

_HEAD: Final = (
    f"{'fault':<34} {'first':<10} {'outcome':<18} {'gap ms':>7} {'after fault ms':>14} {'calls':>6}  went on at"
)
_LEAVINGS: Final = (
    ("before the headers", Fault.SILENCE, 0),
    ("before the first token", Fault.SLOW_START, 0),
    ("mid-stream", Fault.STALL, 3),
)


def _line(case: Case, vendor: str, row: Row) -> str:
    after = "-" if row.after_fault_s is None else f"{row.after_fault_s * 1_000:.0f}"
    offsets = ", ".join(str(offset) for offset in row.switches) or "-"
    calls = f"{row.first_calls}+{row.second_calls}"
    gap = f"{row.gap_s * 1_000:.0f}"
    return f"{case.name:<34} {vendor:<10} {row.outcome[:18]:<18} {gap:>7} {after:>14} {calls:>6}  {offsets}"


async def _matrix(folder: Path) -> bool:
    """Prints the table; whether every case came out as it has to."""
    is_sound = True
    sys.stdout.write(_HEAD + "\n")
    for case in CASES:
        for vendor, other in (VENDORS, VENDORS[::-1]):
            async with staged(case, (vendor, other), folder) as stage:
                row = await run(stage)
            is_sound &= row.outcome == ("whole" if case.error is None else case.error.value)
            sys.stdout.write(_line(case, vendor, row) + "\n")
            sys.stdout.flush()
    return is_sound


async def _outages(folder: Path, answers: int) -> bool:
    """Prints what an outage of the first target costs; whether every answer was whole."""
    is_sound = True
    sys.stdout.write(f"\n{f'{answers} answers while the first is ill':<34} {'first':<10} {'whole':>7} {'calls':>9}\n")
    for name, fault in (("500", Fault.SERVER_ERROR), ("cut mid-stream", Fault.CUT), ("429", Fault.RATE_LIMITED)):
        for vendor, other in (VENDORS, VENDORS[::-1]):
            async with staged(Case(name=name, fault=fault), (vendor, other), folder) as stage:
                rows = [await run(stage) for _ in range(answers)]
            whole = sum(row.outcome == "whole" for row in rows)
            is_sound &= whole == answers
            calls = f"{rows[-1].first_calls}+{rows[-1].second_calls}"
            sys.stdout.write(f"{name:<34} {vendor:<10} {whole:>7} {calls:>9}\n")
    return is_sound


async def _leavings(folder: Path, repeats: int) -> None:
    sys.stdout.write(f"\n{'the reader leaves':<34} {'first':<10} {'freed after ms, median':>22} {'most':>6}\n")
    for name, fault, texts in _LEAVINGS:
        for vendor, other in (VENDORS, VENDORS[::-1]):
            case = Case(name=name, fault=fault, is_patient=True)
            async with staged(case, (vendor, other), folder) as stage:
                times = [await freed_after_s(stage, texts=texts) * 1_000 for _ in range(repeats)]
            sys.stdout.write(f"{name:<34} {vendor:<10} {median(times):>22.1f} {max(times):>6.1f}\n")


def main() -> None:
    """Exits with 1 when a fault ends otherwise than in the whole answer, or the error that policy asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="readers who leave, per phase")
    parser.add_argument("--answers", type=int, default=200, help="during an outage")
    options = parser.parse_args()
    # The double breaks connections by raising, which its server would print with a stack each time.
    telemetry.configure_logging("faults", level="ERROR", form="text")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="parley-faults-") as name:
        is_sound = asyncio.run(_matrix(Path(name)))
        is_sound &= asyncio.run(_outages(Path(name), options.answers))
        asyncio.run(_leavings(Path(name), options.repeats))
    sys.exit(0 if is_sound else 1)


main()
