"""Prompts, tasks and fake providers for tests of inference."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.inference.catalog import Catalog
from services.inference.generating.course import Tactics
from services.inference.generating.generator import Generator
from services.inference.generating.retries import IMPATIENT, Patience
from services.inference.model import (
    Event,
    FinishReason,
    Generation,
    Message,
    Parameters,
    Passage,
    Prompt,
    Role,
)
from services.inference.prompts.tokens import TokenEstimate
from services.inference.providers.base import (
    Ended,
    Limits,
    Profile,
    Provider,
    ProviderEvent,
    Task,
    Text,
    TokenCounts,
    bounded,
)
from services.inference.providers.failures import Failure
from services.inference.routing import Book, Key, Line, Router, Source
from services.inference.standing.standings import Standings
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import MeshError

SKY: Final = Passage(
    "Colours of the sky",
    "The sky is blue because air scatters short waves most. At dusk the sky turns red. Clouds are white.",
)
SEA: Final = Passage("Seas", "The sea is salty. It covers most of the planet.")
QUESTION: Final = "Why is the sky blue?"
PATIENT: Final = Limits(connect_s=5, first_event_s=20, stall_s=20, total_s=20)
HASTY: Final = Limits(connect_s=5, first_event_s=0.3, stall_s=0.3, total_s=20)


def user(text: str) -> Message:
    return Message(Role.USER, text)


def assistant(text: str) -> Message:
    return Message(Role.ASSISTANT, text)


def prompt(question: str = QUESTION, *passages: Passage) -> Prompt:
    return Prompt(messages=(user(question),), passages=passages or (SKY, SEA))


def task(
    model: str = "some-model",
    *,
    limits: Limits = PATIENT,
    parameters: Parameters | None = None,
    output_tokens_max: int | None = None,
    passages: Sequence[Passage] = (SKY, SEA),
) -> Task:
    return Task(
        model=model,
        system="Be brief.",
        turns=(user(QUESTION),),
        messages=(user(QUESTION),),
        passages=tuple(passages),
        parameters=parameters or Parameters(),
        output_tokens_max=output_tokens_max,
        limits=limits,
    )


async def collect(provider: Provider, wanted: Task) -> list[ProviderEvent]:
    """All events of one bounded attempt."""
    return [event async for event in bounded(provider, wanted, label="label")]


async def collect_until(provider: Provider, wanted: Task) -> tuple[list[ProviderEvent], MeshError]:
    """The events of an attempt that fails, and its error."""
    events: list[ProviderEvent] = []
    try:
        async for event in bounded(provider, wanted, label="label"):
            events.append(event)  # noqa: PERF401 - those before the error are wanted
    except Failure as failure:
        return events, failure.error
    raise AssertionError(f"no error after {events}")


def said(events: Sequence[ProviderEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


@dataclass
class FakeProvider:
    """Plays a list of steps: text to say, an error to raise, or the end; remembers the tasks that it got."""

    name: str
    steps: Sequence[str | Exception | ProviderEvent] = ("Fine.", Ended(FinishReason.STOP))
    cites: bool = False
    takes_prefix: bool = False
    counts: TokenCounts | None = None
    tasks: list[Task] = field(default_factory=list)
    closed: int = 0

    @property
    def profile(self) -> Profile:
        tokens = TokenEstimate(ascii_chars_per_token=1)
        return Profile(name=self.name, tokens=tokens, cites=self.cites, takes_prefix=self.takes_prefix)

    async def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        self.tasks.append(task)
        try:
            for step in self.steps:
                match step:
                    case str():
                        yield Text(step)
                    case Exception():
                        raise step
                    case _:
                        yield step
        finally:
            self.closed += 1

    async def close(self) -> None:
        pass


def router(
    *providers: Provider,
    catalog: Catalog | None = None,
    default: str = "",
    fallbacks: Sequence[str] = (),
    limits: Limits = PATIENT,
) -> Router:
    """A router over fakes: each is a provider with one key, under its own name."""
    sources = {
        provider.profile.name: Source(
            name=provider.profile.name, keys=(Key(id=f"{provider.profile.name}/key", line=Line(provider)),)
        )
        for provider in providers
    }
    return Router(
        Book(
            sources=sources,
            catalog=catalog or Catalog({}),
            default=default or f"{providers[0].profile.name}/m",
            fallback=tuple(fallbacks),
            limits=limits,
        )
    )


def generator(
    known: Router,
    *,
    window: int = 100_000,
    clock: Clock = SYSTEM_CLOCK,
    patience: Patience = IMPATIENT,
    standings: Standings | None = None,
    total_s: float = PATIENT.total_s,
) -> Generator:
    """A generator that asks nobody twice, unless it is told to."""
    tactics = Tactics(standings=standings or Standings(clock=clock), patience=patience, chance=lambda: 0.0)
    return Generator(known, total_s=total_s, context_tokens_assumed=window, tactics=tactics, clock=clock)


async def events_of(answers: Generator, wish: Generation) -> list[Event]:
    """All events of an answer."""
    return [event async for event in answers.stream(wish)]
