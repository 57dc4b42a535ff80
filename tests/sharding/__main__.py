"""`python -m tests.sharding`; see the package's docstring."""

import argparse
import sys
import time
from typing import Final

import uvloop

from tests.sharding.run import Result, run

_SHOWN_MAX: Final = 20


def main() -> int:
    """Run once; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.sharding")
    parser.add_argument("--rate", type=float, default=20.0, help="questions per second")
    parser.add_argument("--rounds", type=int, default=2, help="how often everything goes there and back")
    options = parser.parse_args()
    result = uvloop.run(run(rate=options.rate, rounds=options.rounds, say=_say))
    _say(table(result))
    return 0 if is_good(result) else 1


def is_good(result: Result) -> bool:
    """Whether nothing was lost, nobody was told of a failure, and the load was what it should have been."""
    verdict = result.verdict
    return not (result.failures or verdict.violations or verdict.lost or verdict.duplicated or verdict.failed)


def table(result: Result) -> str:
    """The figures, and the first of what went wrong."""
    verdict = result.verdict
    asked = (
        f"{result.asked} asked, {result.dropped} not asked, {verdict.acknowledged} acknowledged, "
        f"{verdict.completed} completed, {verdict.cancelled} cancelled, {verdict.failed} failed"
    )
    wrong = (
        f"{verdict.lost} lost, {verdict.duplicated} duplicated, {len(result.failures)} failures told, "
        f"{len(verdict.violations)} violations"
    )
    moved = (
        f"{result.moves} moves; longest wait for an acknowledgement {result.wait_s_max:.2f} s; "
        f"turns by server {result.stored}"
    )
    failures = [f"  FAILURE {failure}" for failure in result.failures[:_SHOWN_MAX]]
    violations = [f"  VIOLATION {violation}" for violation in sorted(verdict.violations)[:_SHOWN_MAX]]
    return "\n".join([asked, wrong, moved, *failures, *violations])


def _say(words: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
