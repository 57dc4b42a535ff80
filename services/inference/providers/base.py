"""What a provider is: one method that turns an assembled prompt into events, and a profile that says what it can.

Callers look at the profile, never at the class. `bounded` holds every provider to the same time limits and to the rule
that a stream without its end is an error.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol, TypeAlias

from services.inference.model import FinishReason, Message, Parameters, Passage, PassageCitation
from services.inference.prompts.tokens import TokenEstimate
from services.mesh.errors import ProviderTimeout, ProviderUnavailable

# An answer that is longer is cut off as a fault: no catalogued model writes as much (128,000 tokens of ~5 characters).
ANSWER_CHARS_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a provider can.

    Attributes:
        name: first part of its models' names.
        tokens: how its tokens are estimated before it has counted them.
        cites: it emits citations itself, and needs no instructions or marks for them.
    """

    name: str
    tokens: TokenEstimate
    cites: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Time limits of one attempt, in seconds.

    Attributes:
        connect_s: until a connection stands.
        first_event_s: from the request to the first event of the answer.
        stall_s: between two events.
        total_s: for the whole attempt; never more than the caller has left.
    """

    connect_s: float = 5.0
    first_event_s: float = 60.0
    stall_s: float = 30.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a provider gets.

    Attributes:
        model: the provider's own name of the model.
        system: instructions, with those on passages where the provider does not cite itself.
        turns: few-shot pairs, history and question; the question carries the passages.
        messages: history and question as they were asked.
        passages: evidence, best first.
        output_tokens_max: length of the answer; None leaves it to the provider.
    """

    model: str
    system: str
    turns: tuple[Message, ...]
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...]
    parameters: Parameters
    output_tokens_max: int | None
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens as the provider settled them; `input_tokens` and `output_tokens` include the parts."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, not empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Cited:
    """A citation of text that has been sent."""

    citation: PassageCitation


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of the answer; without it the answer is not complete. `counts` is None when they were not reported."""

    finish_reason: FinishReason
    counts: TokenCounts | None = None


ProviderEvent: TypeAlias = Text | Cited | Ended


class Provider(Protocol):
    """A source of answers."""

    @property
    def profile(self) -> Profile:
        """What it can."""
        ...

    def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        """Answers: `Text` and `Cited` events, then one `Ended`.

        Closing the generator, or cancelling it, closes the upstream connection before it returns.

        Raises:
            MeshError: what went wrong, in words that hold neither the provider's text nor its key.
        """
        ...

    async def close(self) -> None:
        """Gives its connections back."""
        ...


async def bounded(provider: Provider, task: Task, *, label: str) -> AsyncGenerator[ProviderEvent, None]:
    """The events of one attempt, held to `task.limits` and to a proper end.

    Args:
        provider: who answers.
        task: what is asked.
        label: name of the model for errors.

    Raises:
        ProviderTimeout: nothing came in time.
        ProviderUnavailable: the stream ended without its end, or does not stop.
        MeshError: whatever the provider raises.
    """
    limits = task.limits
    ends_at = monotonic() + limits.total_s
    patience_s = limits.first_event_s
    characters = 0
    async with aclosing(provider.generate(task)) as events:
        while True:
            try:
                async with asyncio.timeout(min(patience_s, ends_at - monotonic())):
                    event = await anext(events)
            except StopAsyncIteration:
                raise ProviderUnavailable("the answer broke off before its end", metadata={"model": label}) from None
            except TimeoutError:
                raise ProviderTimeout("the provider did not answer in time", metadata={"model": label}) from None
            yield event
            match event:
                case Ended():
                    return
                case Text(text):
                    characters += len(text)
                    if characters > ANSWER_CHARS_MAX:
                        raise ProviderUnavailable("the answer does not end", metadata={"model": label})
                case Cited():
                    pass
            patience_s = limits.stall_s
