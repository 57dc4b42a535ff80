"""`python -m tests.load.whole`: what a token, a turn and a stateless request cost, each beside a bare proxy.

The proxy passes the same answers of the same double on, in the same run and by turns; so does a stack whose processes
speak plain grpc.aio to each other. Figures are medians over the rounds.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import uvloop

from tests.load.platform import GRPC, TUNNEL, Platform, platform
from tests.load.serving import served
from tests.load.subjects import Subject, bare
from tests.load.trials import Figures, Trials, rows

PLATFORM: Final = "platform"
PLAIN: Final = "plain grpc"
STACKS: Final[Mapping[str, Mapping[str, str]]] = {PLATFORM: TUNNEL, PLAIN: GRPC}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.whole", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="leave the stack on plain grpc.aio out")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="parley-whole-")))
        folder.chmod(0o711)  # as in `tests.load`
        double = opened.enter_context(served("tests.load.paced"))
        stacks = [
            platform(name, folder / str(number), double, streams=Trials.STREAMS, environment=environment)
            for number, (name, environment) in enumerate(STACKS.items())
            if name != PLAIN or not options.alone
        ]
        with ThreadPoolExecutor() as starts:  # each takes a while to get ready
            platforms: Sequence[Platform] = list(starts.map(opened.enter_context, stacks))
        proxy: Subject = opened.enter_context(bare(double))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found: Mapping[str, Figures] = runner.run(Trials(double, proxy, platforms, folder).run(options.rounds))
    for line in rows(found):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
