"""`python -m tests.load.streams`: holds N answers of durable turns open at once, each to the end that is stored.

Edge, conversation, worker, inference, PostgreSQL and Valkey are the real ones. Every answer goes on until all are open
and were held for a while; then they end, spread over a time, and are compared with what PostgreSQL has of them.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import uvloop

from tests.load.asking import Plan, Progress, Question, Words
from tests.load.conversations import Stored, stored_answers
from tests.load.generator import Generator
from tests.load.meter import Reading, memory_bytes
from tests.load.platform import TUNNEL, Platform, platform
from tests.load.schedule import steady
from tests.load.serving import Served, served
from tests.load.tally import Course, Tally, percentile
from tests.load.wish import Wish, now_us

ENDLESS: Final = 1_000_000
"""Tokens of an answer that only ends when the double is told so."""
FIRST_US: Final = 500_000
LEAD_S: Final = 2.0
"""Until the first question; the generator starts in it."""
WATCH_S: Final = 5.0
BEGIN_S_MAX: Final = 120.0
"""For the first text of an answer, after the last question: those without any are waited for no longer, and told."""
STALL_S: Final = 30.0
"""Of a provider, by the shipped settings."""
ANSWER_S_MAX: Final = 590.0
"""As long as a turn may take, less what its end may."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of a run; see the arguments of the command."""

    streams: int
    tokens_per_s: float
    opened_per_s: float
    hold_s: float
    ends_s: float

    @property
    def apart_us(self) -> int:
        """Between two tokens of an answer."""
        return round(1_000_000 / self.tokens_per_s)

    @property
    def patience(self) -> dict[str, str]:
        """What keeps inference from giving a provider up that is silent for so long."""
        silence_s = 2 / self.tokens_per_s
        return {"PARLEY_INFERENCE_STALL_S": f"{silence_s:g}"} if silence_s > STALL_S else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What was measured while all were open.

    Attributes:
        window_us: its beginning and end.
        spent_s: CPU by role.
        grown_bytes: memory by role, more than before the first was opened.
        open: how many were.
    """

    window_us: tuple[int, int]
    spent_s: Mapping[str, float]
    grown_bytes: Mapping[str, int]
    open: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000, help="open at once")
    parser.add_argument("--tokens-per-s", type=float, default=0.1, help="of each answer")
    parser.add_argument("--opened-per-s", type=float, default=40.0)
    parser.add_argument("--hold-s", type=float, default=20.0, help="how long all are open")
    parser.add_argument("--ends-s", type=float, default=90.0, help="over how long they end")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the stack's processes")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    options = Options(
        streams=given.streams,
        tokens_per_s=given.tokens_per_s,
        opened_per_s=given.opened_per_s,
        hold_s=given.hold_s,
        ends_s=given.ends_s,
    )
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="parley-streams-")))
        folder.chmod(0o711)  # as in `tests.load`
        double = opened.enter_context(served("tests.load.paced"))
        settings = {**TUNNEL, **options.patience, **dict(setting.split("=", 1) for setting in given.setting)}
        subject = opened.enter_context(
            platform("platform", folder / "stack", double, streams=options.streams, environment=settings)
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            held, tally, stored = runner.run(run(subject, double, options, folder))
    for line in report(options, held, tally, stored):
        sys.stdout.write(line + "\n")


async def run(
    subject: Platform, double: Served, options: Options, folder: Path
) -> tuple[Held, Tally, dict[str, Stored]]:
    """What was measured, what readers saw, and what is stored."""
    paths = await subject.conversations(options.streams)
    pids = subject.subject.pids
    before = {role: memory_bytes(pid) for role, pid in pids.items()}
    generator = Generator(plan_of(subject, options, paths), folder)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(generator.run())
        watching = group.create_task(_watch(generator))
        await _all_begun(generator, options)
        first = Reading.of(pids)
        await asyncio.sleep(options.hold_s)
        last = Reading.of(pids)
        open_now = generator.progress.open
        grown = {role: memory_bytes(pid) - before[role] for role, pid in pids.items()}
        held = Held(window_us=(first.at_us, last.at_us), spent_s=last.since(first), grown_bytes=grown, open=open_now)
        double.say(f"end {now_us()} {round(options.ends_s * 1_000_000)}")
        tally = await running
        watching.cancel()
    known = [course.turn_id for course in tally.courses if course.turn_id]
    return held, tally, await stored_answers(subject.database_url, known)


def plan_of(subject: Platform, options: Options, paths: list[str]) -> Plan:
    """One question in each conversation, at a steady rate."""
    wish = Wish(tokens=ENDLESS, apart_us=options.apart_us, first_us=FIRST_US)
    body = orjson.dumps({"new": {"text": wish.words}}).decode()
    instants = steady(options.opened_per_s, options.streams)
    return Plan(
        port=subject.endpoint.port,
        key=subject.endpoint.key,
        words=Words.TURN,
        begin_us=now_us() + round(LEAD_S * 1_000_000),
        answer_s_max=ANSWER_S_MAX,
        apart_us=options.apart_us,
        questions=[Question(at_us, path, body) for at_us, path in zip(instants, paths, strict=True)],
    )


async def _all_begun(generator: Generator, options: Options) -> None:
    try:
        async with asyncio.timeout(LEAD_S + options.streams / options.opened_per_s + BEGIN_S_MAX):
            await generator.until(lambda told: told.begun + told.failed >= options.streams)
    except TimeoutError:
        told = generator.progress
        _log.warning("%d have no text after %.0f s", options.streams - told.begun - told.failed, BEGIN_S_MAX)


async def _watch(generator: Generator) -> None:
    """Says every few seconds how far it is."""
    before, begun_us = Progress(), now_us()
    while True:
        await asyncio.sleep(WATCH_S)
        told = generator.progress
        _log.info("%s", progress_line(told, before, (now_us() - begun_us) / 1_000_000))
        before = told


def progress_line(told: Progress, before: Progress, at_s: float) -> str:
    """How far it is, and why answers were lost."""
    tokens_per_s = (told.tokens - before.tokens) / WATCH_S
    counts = f"asked {told.asked}, open {told.open}, ended {told.ended}, lost {told.lost}"
    causes = "".join(f"; {count}: {cause}" for cause, count in told.causes.items())
    return f"{at_s:4.0f} s: {counts}, {tokens_per_s:.0f} tokens/s{causes}"


def differs(course: Course, stored: Mapping[str, Stored]) -> str:
    """How what a reader saw of a whole answer is not what PostgreSQL has of it; empty where it is."""
    found = stored.get(course.turn_id)
    if found is None:
        return "is not stored"
    if found.state != "completed":
        return f"is stored as {found.state}"
    if found.text != course.text:
        return "is stored as another text"
    return ""


def report(options: Options, held: Held, tally: Tally, stored: Mapping[str, Stored]) -> Iterator[str]:
    """The lines of the report."""
    asked = len(tally.courses)
    opened = sum(course.opened_us > 0 for course in tally.courses)
    differences = Counter(differs(course, stored) for course in tally.whole)
    late_ms = [late / 1_000 for late in tally.arrivals.within(*held.window_us)]
    seconds = (held.window_us[1] - held.window_us[0]) / 1_000_000
    yield f"\n{asked} answers of {options.tokens_per_s:g} tokens/s each, {options.opened_per_s:g} opened per second"
    whole = f"whole {len(tally.whole)}, equal to what is stored {differences.pop('', 0)}"
    yield f"  opened {opened}, open at once {held.open}, {whole}"
    wrong = tally.lost() + differences
    yield f"  lost {asked - len(tally.whole)}" + "".join(f"; {count}: {why}" for why, count in wrong.items())
    yield f"  tokens/s while all were open {len(late_ms) / seconds:.0f} of {options.tokens_per_s * held.open:.0f}"
    yield f"  added latency, ms: p50 {percentile(late_ms, 0.5):.1f}, p99 {percentile(late_ms, 0.99):.1f}"
    first_ms = tally.first_ms(FIRST_US)
    first = f"p50 {percentile(first_ms, 0.5):.0f}, p99 {percentile(first_ms, 0.99):.0f}"
    yield f"  from question to first token, ms, less what the provider waits: {first}"
    yield f"\n  {'process':<22}{'cores':>8}{'us CPU/token':>14}{'us CPU/s, stream':>18}{'KiB/stream':>12}"
    spent_s = {**held.spent_s, "all": sum(held.spent_s.values())}
    grown = {**held.grown_bytes, "all": sum(held.grown_bytes.values())}
    for role, spent in spent_s.items():
        cores, streams = spent / seconds, max(1, held.open)
        costs = f"{1_000_000 * spent / max(1, len(late_ms)):>14.0f}{1_000_000 * cores / streams:>18.0f}"
        yield f"  {role:<22}{cores:>8.2f}{costs}{grown[role] / 1_024 / streams:>12.1f}"


if __name__ == "__main__":
    main()
