# ruff: noqa: T201 - it speaks to a person at a terminal
"""`python -m tests.simulation --seed 7 | --seeds 10000 --jobs 2 | --mutants`; see the package's docstring."""

import argparse
import os
import resource
import sys
import time
from collections import Counter
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
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that run them")
    parser.add_argument("--mutants", action="store_true", help="break the program on purpose, and look who notices")
    options = parser.parse_args()
    if options.mutants:
        return _mutants()
    if options.seed is not None:
        return _replay(options.seed)
    return _many(range(options.first, options.first + options.seeds), options.jobs)


def _replay(seed: int) -> int:
    result = simulate(seed)
    print("\n".join(result.trace))
    print(f"\n{_line(result)}")
    return 1 if result.violations else 0


def _many(seeds: range, jobs: int) -> int:
    began = time.monotonic()
    turns = events = takeovers = steps = failed = 0
    virtual_s = recovery_s = 0.0
    faults: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for result in _results(seeds, jobs):
        turns, takeovers, virtual_s = turns + result.turns, takeovers + result.takeovers, virtual_s + result.virtual_s
        events, steps, recovery_s = events + result.events, steps + result.steps, max(recovery_s, result.recovery_s)
        faults.update(result.faults)
        asked.update(result.asked)
        if result.violations:
            failed += 1
            print(f"{_line(result)}\n  replay: make simulate SEED={result.seed}", flush=True)
    print(f"{len(seeds)} seeds from {seeds.start}: {failed} failed; {turns} turns, {takeovers} taken over")
    print(f"{steps} steps, {events} events shown; {faults['kill_worker'] + faults['kill_api']} processes killed")
    print("asked: " + ", ".join(f"{what} {times}" for what, times in sorted(asked.items())))
    print("faults: " + ", ".join(f"{kind} {times}" for kind, times in sorted(faults.items())))
    spent = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(
        f"{virtual_s:.0f} virtual seconds in {time.monotonic() - began:.1f} s, {spent:.1f} s of processor time; "
        f"last end {recovery_s:.0f} s after peace"
    )
    return 1 if failed else 0


def _results(seeds: range, jobs: int) -> Iterator[Result]:
    with ProcessPoolExecutor(jobs) as pool:
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
