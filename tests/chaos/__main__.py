"""`python -m tests.chaos run | check FOLDER | mutants`; see the package's docstring."""

import argparse
import os
import random
import sys
import time
from pathlib import Path
from typing import Final

import uvloop

from dev.home import ROOT
from tests.chaos import report
from tests.chaos.breaking import CONTROL, Catch, hunt, table
from tests.chaos.check import summary
from tests.chaos.mutants import MUTANTS
from tests.chaos.run import PEACE_S, Options, Result, arena, judged

START_S: Final = 40.0
OVERHEAD_S: Final = PEACE_S + 14.0
"""Of a seed beside its faults: recovery, peace, the last answers, the judgement."""
RATE: Final = 20.0
MUTANTS_RATE: Final = 8.0
"""A mutant is seen in single turns, and its runs are short: what catches it must not be a lack of processor time."""
_FOLDER: Final = ROOT / ".state" / "chaos"


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--seed", type=int, action="append", help="replay this one; may be repeated")
    run.add_argument("--seeds", type=int, default=3, help="how many random seeds, where none is given")
    run.add_argument("--minutes", type=float, default=5.0, help="of the whole run")
    run.add_argument("--rate", type=float, default=RATE, help="questions per second")
    run.add_argument("--queue", choices=("valkey", "kafka"), default="valkey", help="where turns wait")
    run.add_argument("--calm", action="store_true", help="load without faults")
    check = commands.add_parser("check")
    check.add_argument("folder", type=Path)
    breaks = commands.add_parser("mutants")
    breaks.add_argument("--only", default="", help="those whose name contains it")
    breaks.add_argument("--rate", type=float, default=MUTANTS_RATE, help="questions per second")
    options = parser.parse_args()
    match options.command:
        case "check":
            return _check(options.folder)
        case "mutants":
            return uvloop.run(_break(options))
        case _:
            return uvloop.run(_run(options))


async def _run(given: argparse.Namespace) -> int:
    seeds = given.seed or [random.SystemRandom().randrange(10_000) for _ in range(given.seeds)]
    faults_s = max(10.0, (given.minutes * 60.0 - START_S) / len(seeds) - OVERHEAD_S)
    options = Options(
        faults_s=faults_s,
        rate=given.rate,
        folder=_FOLDER / f"{time.strftime('%H%M%S')}-{os.getpid()}",
        queue=given.queue,
        is_calm=given.calm,
    )
    _say(f"seeds {' '.join(map(str, seeds))}; replay one with `make chaos SEED={seeds[0]} MINUTES=…`")
    async with arena(options, _say) as field:
        results: list[Result] = [await field.run(seed, options, _say) for seed in seeds]
    _say(f"the runner itself took {time.process_time():.0f} s of processor time")
    _say(f"\n{report.table(results)}")
    return 1 if any(result.verdict.violations for result in results) else 0


async def _break(given: argparse.Namespace) -> int:
    catches: list[Catch] = []
    for mutant in (mutant for mutant in (*MUTANTS, CONTROL) if given.only in mutant.name):
        _say(f"\n== {mutant.name}")
        folder = _FOLDER / f"mutants-{os.getpid()}" / mutant.slug
        catches.append(await hunt(mutant, rate=given.rate, folder=folder, say=_say))
        _say(f"== {'caught' if catches[-1].is_caught else 'not caught'} after {catches[-1].took_s:.0f} s")
    _say(f"\n{table(catches)}")
    return 0 if all(catch.is_right for catch in catches) else 1


def _check(folder: Path) -> int:
    """Judges a run again."""
    verdict = judged(folder)
    for violation in verdict.violations:
        _say(str(violation))
    _say(str(summary(verdict.violations)))
    return 1 if verdict.violations else 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - it speaks to the person who started it


if __name__ == "__main__":
    sys.exit(main())
