"""`python -m tests.load`: what a stateless call through edge and inference costs in CPU, and what it cost before."""

import argparse
import asyncio
import logging
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import uvloop

from tests.load.bench import measured
from tests.load.report import tables
from tests.load.serving import served
from tests.load.subjects import ROOT, Subject, bare, checkout, stack


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--against", metavar="REVISION", help="measure this revision as well")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tokens-per-s", type=float, default=50.0, help="what the provider writes, per answer")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with ExitStack() as opened:
        subjects = _subjects(opened, options.against, options.tokens_per_s)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(measured(subjects, rounds=options.rounds))
    for line in tables(figures):
        sys.stdout.write(line + "\n")


def _subjects(opened: ExitStack, against: str | None, tokens_per_s: float) -> list[Subject]:
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="parley-load-")))
    folder.chmod(0o711)  # so that root's PostgreSQL runs as an unprivileged account, as it does in a checkout
    provider = opened.enter_context(served("tests.load.double", "--tokens-per-s", str(tokens_per_s)))
    stacks = [stack("now", ROOT, folder / "now", provider)]
    if against is not None:
        tree = opened.enter_context(checkout(against, folder / "tree"))
        stacks.insert(0, stack("before", tree, folder / "before", provider))
    with ThreadPoolExecutor() as starts:  # each takes a while to get ready
        return [opened.enter_context(bare(provider)), *starts.map(opened.enter_context, stacks)]


if __name__ == "__main__":
    main()
