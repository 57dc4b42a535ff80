"""`python -m tests.storm`: calls between two processes while the network breaks, for as long as one likes.

    python -m tests.storm --seed 7 --minutes 5 --streams 2000        # as `make storm SEED=7 MINUTES=5`

One line per round: how calls ended, and what befell the network. A call that saw what it should not ends the run.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import uvloop

from services.mesh import telemetry
from tests.storm.client import Storm
from tests.storm.plans import Served
from tests.storm.server import read, serve

_LINE_BYTES_MAX = 64 * 1024 * 1024


@asynccontextmanager
async def process() -> AsyncIterator[asyncio.subprocess.Process]:
    """A server in a process of its own."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.storm",
        "--serve",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
    )
    try:
        yield started
    finally:
        assert started.stdin is not None
        started.stdin.close()
        await started.wait()


async def run(*, seed: int, seconds: float, streams: int, calls: int) -> int:
    """Storms; gives the number of things that were wrong."""
    async with process() as server:
        assert server.stdout is not None
        assert server.stdin is not None
        lines, asking = server.stdout, server.stdin

        async def closed() -> Mapping[str, Served]:
            asking.write(b"\n")
            return read(await lines.readline())

        ends = time.monotonic() + seconds
        storm = Storm(int(await lines.readline()), closed, seed=seed)
        async with aclosing(storm.rounds(streams=streams, calls=calls)) as rounds:
            async for told in rounds:
                tell({"calls": dict(told.codes), "troubles": dict(told.troubles), "wrong": told.wrong[:20]})
                if told.wrong or time.monotonic() > ends:
                    return len(told.wrong)
    return 0


def tell(round_: Mapping[str, object]) -> None:
    """A line for whoever runs it."""
    sys.stdout.write(json.dumps(round_) + "\n")
    sys.stdout.flush()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--streams", type=int, default=2_000, help="calls at once")
    parser.add_argument("--calls", type=int, default=10_000, help="calls of a round")
    options = parser.parse_args()
    telemetry.configure_logging("storm", level="ERROR", form="json")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.serve:
            runner.run(serve())
            return
        wrong = runner.run(
            run(seed=options.seed, seconds=options.minutes * 60, streams=options.streams, calls=options.calls)
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
