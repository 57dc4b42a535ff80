# ruff: noqa: T201 - it speaks to a person at a terminal
"""`python -m tests.simulation --seed 7 | --seeds 10000 | --mutants`; see the package's docstring."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from tests.simulation.mutants import MUTANTS
from tests.simulation.run import Result, simulate

SEEDS: Final = 200
MUTANT_SEEDS_MAX: Final = 200


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="replay this one, with everything that happened in it")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="of the seeds")
    parser.add_argument("--mutants", action="store_true", help="break the program on purpose, and look who notices")
    options = parser.parse_args()
    if options.mutants:
        return _mutants()
    if options.seed is not None:
        return _replay(options.seed)
    return _many(range(options.first, options.first + options.seeds))


def _replay(seed: int) -> int:
    result = simulate(seed)
    print("\n".join(result.trace))
    print(f"\n{_line(result)}")
    return 1 if result.violations else 0


def _many(seeds: range) -> int:
    began = time.monotonic()
    turns = takeovers = failed = 0
    virtual_s = recovery_s = 0.0
    faults: dict[str, int] = {}
    for result in _results(seeds):
        turns, takeovers, virtual_s = turns + result.turns, takeovers + result.takeovers, virtual_s + result.virtual_s
        recovery_s = max(recovery_s, result.recovery_s)
        for kind, times in result.faults.items():
            faults[kind] = faults.get(kind, 0) + times
        if result.violations:
            failed += 1
            print(_line(result), flush=True)
    print(f"{len(seeds)} seeds from {seeds.start}: {failed} failed; {turns} turns, {takeovers} taken over")
    print("faults: " + ", ".join(f"{kind} {times}" for kind, times in sorted(faults.items())))
    print(
        f"{virtual_s:.0f} virtual seconds in {time.monotonic() - began:.1f} s; last end {recovery_s:.0f} s after peace"
    )
    return 1 if failed else 0


def _results(seeds: range) -> Iterator[Result]:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(simulate, seeds, chunksize=10)


def _mutants() -> int:
    missed = 0
    for name, change in MUTANTS.items():
        caught = next((r for seed in range(MUTANT_SEEDS_MAX) if (r := simulate(seed, change)).violations), None)
        missed += caught is None
        told = f"seed {caught.seed:3}  {caught.violations[0].strip()[:100]}" if caught else "NOT CAUGHT"
        print(f"{name:48} {told}", flush=True)
    print(f"{len(MUTANTS) - missed} of {len(MUTANTS)} mutants caught within {MUTANT_SEEDS_MAX} seeds")
    return 1 if missed else 0


def _line(result: Result) -> str:
    head = (
        f"seed {result.seed} ({result.kind}): {result.turns} turns, {result.takeovers} taken over, {result.steps} steps"
    )
    return "\n".join([head, *(f"  VIOLATION {each}" for each in result.violations)])


if __name__ == "__main__":
    sys.exit(main())
