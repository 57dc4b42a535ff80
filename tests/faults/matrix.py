"""The cases, and how one is run: real adapters and a real route over two doubles that speak the vendors' formats."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from services.inference.generating.course import Tactics
from services.inference.generating.generator import Generator
from services.inference.model import Event, Finished, Generation, ProviderSwitched, TextDelta
from services.inference.providers.failures import Failure
from services.inference.routes.compiling import Wishes
from services.inference.routes.shelf import Shelf
from services.inference.routing import Router
from services.inference.standing.standings import Admission, Standings
from services.mesh.errors import MeshError, Reason
from tests.support.inference import prompt
from tests.support.provider_double import Fault, ProviderDouble, running_double
from tests.support.waiting import until

PIECES: Final = (
    "The sky is blue [1], ",
    "for air scatters ",
    "short waves most. ",
    "At dusk the light ",
    "goes a longer way ",
    "and it turns red [1].",
)
TEXT: Final = "".join(PIECES)
VENDORS: Final = ("openai", "anthropic")
NOBODY_PORT: Final = 9
"""The discard port, where nobody listens."""

# The faulty target is given up early; the healthy one is given all the time that a busy machine may need.
_HASTY: Final = "{ connect_s = 2, first_event_s = 0.4, stall_s = 0.4, total_s = 60 }"
_PATIENT: Final = "{ connect_s = 30, first_event_s = 60, stall_s = 60, total_s = 100 }"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fault, and what has to come of it.

    Attributes:
        name: for people.
        fault: what the first target does.
        after: pieces after which it does so.
        headers: beside an error.
        has_second_key: the first target has a key that is well beside the one that is not.
        flaps: whether it does so every other time.
        is_refused: nobody listens there.
        is_patient: it is given all the time it wants.
        error: where policy asks for an error instead of an answer.
    """

    name: str
    fault: Fault = Fault.NONE
    after: int = 3
    headers: dict[str, str] = field(default_factory=dict)
    has_second_key: bool = False
    flaps: bool = False
    is_refused: bool = False
    is_patient: bool = False
    error: Reason | None = None


CASES: Final = (
    Case(name="none"),
    Case(name="429 with Retry-After", fault=Fault.RATE_LIMITED, headers={"retry-after": "20"}),
    Case(name="429 with retry-after-ms", fault=Fault.RATE_LIMITED, headers={"retry-after-ms": "300"}),
    Case(name="429 without Retry-After", fault=Fault.RATE_LIMITED),
    Case(name="quota spent", fault=Fault.QUOTA_SPENT),
    Case(name="500", fault=Fault.SERVER_ERROR),
    Case(name="503", fault=Fault.UNAVAILABLE),
    Case(name="529", fault=Fault.OVERLOADED),
    Case(name="refused connection", is_refused=True),
    Case(name="reset before headers", fault=Fault.RESET),
    Case(name="reset after headers", fault=Fault.RESET_AFTER_HEADERS),
    Case(name="no answer", fault=Fault.SILENCE),
    Case(name="slow first token", fault=Fault.SLOW_START),
    Case(name="stall mid-stream", fault=Fault.STALL),
    Case(name="cut mid-stream", fault=Fault.CUT),
    Case(name="cut mid-event", fault=Fault.CUT_MID_EVENT),
    Case(name="clean end without an end", fault=Fault.NO_END),
    Case(name="missing end marker", fault=Fault.NO_END_MARK),
    Case(name="error event mid-stream", fault=Fault.ERROR_EVENT),
    Case(name="invalid JSON", fault=Fault.GARBAGE),
    Case(name="invalid UTF-8", fault=Fault.INVALID_UTF8),
    Case(name="10 MB line", fault=Fault.HUGE_EVENT),
    Case(name="wrong content type", fault=Fault.HTML),
    Case(name="duplicated chunks", fault=Fault.DUPLICATED),
    Case(name="reordered chunks", fault=Fault.REORDERED),
    Case(name="context length", fault=Fault.CONTEXT_LENGTH),
    Case(name="content filter", fault=Fault.CONTENT_FILTER, error=Reason.CONTENT_FILTERED),
    Case(name="revoked key", fault=Fault.UNAUTHORIZED),
    Case(name="revoked key, another in the pool", fault=Fault.UNAUTHORIZED, has_second_key=True),
    Case(name="flapping", fault=Fault.SERVER_ERROR, flaps=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a case.

    Attributes:
        outcome: `whole`, the reason of an error, or `TRUNCATED` and `WRONG`, which must not be.
        gap_s: the longest pause between two texts, or before the first one, that the reader saw.
        after_fault_s: from the newest fault that was noticed to the next text; None without a fault.
        first_calls, second_calls: requests that reached the two targets.
        switches: offsets at which another target went on.
    """

    outcome: str
    gap_s: float
    after_fault_s: float | None
    first_calls: int
    second_calls: int
    switches: tuple[int, ...]


class _Watched(Standings):
    """Notes when a fault is noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed_at: list[float] = []

    def failed(self, admission: Admission, failure: Failure, *, wait_s: float | None) -> None:
        self.noticed_at.append(monotonic())
        super().failed(admission, failure, wait_s=wait_s)


@dataclass(slots=True)
class Stage:
    """Two targets behind one route.

    Attributes:
        first: where the fault is.
        second: is well.
        router: knows them.
        generator: asks them.
        noticed_at: when faults were noticed.
    """

    first: ProviderDouble
    second: ProviderDouble
    router: Router
    generator: Generator
    noticed_at: list[float]


@asynccontextmanager
async def staged(
    case: Case, vendors: tuple[str, str], folder: Path, *, has_prefix: bool = False
) -> AsyncIterator[Stage]:
    """The case set up: a first target of the first vendor, a second one of the second."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running_double())
        second = await stack.enter_async_context(running_double())
        for double in (first, second):
            double.pieces, double.goes_on = PIECES, True
        first.fault, first.after, first.retry_after, first.flaps = case.fault, case.after, case.headers, case.flaps
        first.only_key = "sk-first-0" if case.has_second_key else ""
        path = folder / "providers.toml"
        path.write_text(_configuration(case, vendors, (first, second), has_prefix=has_prefix))
        variables = {"FIRST_0": "sk-first-0", "FIRST_1": "sk-first-1", "SECOND_0": "sk-second-0"}
        shelf = Shelf(path, Wishes(variables=lambda name: variables.get(name, ""), built_in={}))
        stack.push_async_callback(shelf.close)
        standings = _Watched()
        generator = Generator(
            shelf.router, total_s=100.0, context_tokens_assumed=32_768, tactics=Tactics(standings=standings)
        )
        yield Stage(first, second, shelf.router, generator, standings.noticed_at)


async def run(stage: Stage) -> Row:
    """Asks once, as a reader would who cannot take anything back."""
    text, switches, gaps = "", [], [0.0]
    last = monotonic()
    resumed_at: float | None = None
    outcome = "TRUNCATED"
    try:
        async for event in stage.generator.stream(Generation(prompt=prompt(), model="smart")):
            text, outcome = _read(event, text, outcome)
            if isinstance(event, TextDelta):
                now = monotonic()
                gaps.append(now - last)
                last = now
                if stage.noticed_at and resumed_at is None and now > stage.noticed_at[-1]:
                    resumed_at = now
            elif isinstance(event, ProviderSwitched):
                switches.append(event.offset)
    except MeshError as error:
        outcome = error.reason.value
    after_fault_s = None if resumed_at is None else resumed_at - stage.noticed_at[-1]
    return Row(
        outcome=outcome,
        gap_s=max(gaps),
        after_fault_s=after_fault_s,
        first_calls=len(stage.first.seen),
        second_calls=len(stage.second.seen),
        switches=tuple(switches),
    )


async def freed_after_s(stage: Stage, *, texts: int) -> float:
    """Leaves after so many pieces of text, and tells how long the first target's connection outlived the reader."""
    has_read = asyncio.Event()
    reading = asyncio.create_task(_read_some(stage, texts, has_read))
    await until(lambda: stage.first.open_requests > 0)
    if texts:
        await has_read.wait()
    left_at = monotonic()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await until(lambda: stage.first.open_requests == 0, every_s=0.001)
    return monotonic() - left_at


async def _read_some(stage: Stage, texts: int, has_read: asyncio.Event) -> None:
    async with aclosing(stage.generator.stream(Generation(prompt=prompt(), model="smart"))) as events:
        async for event in events:
            texts -= isinstance(event, TextDelta)
            if texts == 0 and isinstance(event, TextDelta):
                has_read.set()


def _read(event: Event, text: str, outcome: str) -> tuple[str, str]:
    """The reader's text after an event, and how the answer stands then."""
    match event:
        case TextDelta(offset, piece):
            return text[:offset] + piece, outcome
        case Finished(answer):
            return text, "whole" if text == answer.text == TEXT else f"WRONG: {text!r}"
        case _:
            return text, outcome


def _configuration(case: Case, vendors: tuple[str, str], doubles: Sequence[ProviderDouble], *, has_prefix: bool) -> str:
    keys = 2 if case.has_second_key else 1
    entries = []
    for name, vendor, double, count, limits in zip(
        ("first", "second"), vendors, doubles, (keys, 1), (_limits(case), _PATIENT), strict=True
    ):
        port = NOBODY_PORT if case.is_refused and name == "first" else double.port
        url = f"http://127.0.0.1:{port}" + ("/v1" if vendor == "openai" else "")
        pool = ", ".join(f'{{ name = "k{number}", env = "{name.upper()}_{number}" }}' for number in range(count))
        kind = "openai-compatible" if vendor == "openai" else vendor
        quirks = "{ assistant_prefix = true }" if has_prefix else "{}"
        entries.append(
            f'[[provider]]\nname = "{name}"\nkind = "{kind}"\nbase_url = "{url}"\nkeys = [{pool}]\n'
            f"limits = {limits}\nquirks = {quirks}\n"
        )
    models = "".join(
        f'[[model]]\nname = "{name}/m"\ndisplay_name = "M"\ncontext_tokens = {window}\noutput_tokens_max = 1000\n'
        'input_price = "1"\noutput_price = "2"\nsource = "a test"\ndate = 2026-11-22\n'
        for name, window in (("first", 8_000), ("second", 64_000))
    )
    route = '[[route]]\nname = "smart"\ntargets = [{ model = "first/m" }, { model = "second/m" }]\n'
    return "\n".join([*entries, models, route])


def _limits(case: Case) -> str:
    """Only faults of time are met by time: on a busy machine a short limit would turn the others into one."""
    is_of_time = case.fault in {Fault.SILENCE, Fault.SLOW_START, Fault.STALL}
    return _HASTY if is_of_time and not case.is_patient else _PATIENT
