"""What a provider is: one method that turns an assembled prompt into events, and a profile that says what it can.

Callers look at the profile, never at the class. `bounded` holds every provider to the same time limits and to the rule
that a stream without its end is an error; whatever goes wrong with a provider leaves it as a `Failure`.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol, TypeAlias

from services.inference.model import FinishReason, Message, Parameters, Passage, PassageCitation
from services.inference.parts import PartDelta, Tool, ToolCall
from services.inference.prompts.tokens import TokenEstimate
from services.inference.providers.allowances import Allowance
from services.inference.providers.failures import Failure, Kind
from services.inference.providers.watch import Watch
from services.mesh.errors import MeshError, ProviderTimeout, ProviderUnavailable

# An answer that is longer is cut off as a fault: no catalogued model writes as much (128,000 tokens of ~5 characters).
ANSWER_CHARS_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a provider can.

    Attributes:
        name: first part of its models' names.
        tokens: how its tokens are estimated before it has counted them.
        cites: it emits citations itself, and needs no instructions or marks for them.
        takes_prefix: it goes on with an answer that `Task.prefix` begins.
    """

    name: str
    tokens: TokenEstimate
    cites: bool = False
    takes_prefix: bool = False


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
        tools: what the model may ask to be run.
        prefix: the answer so far, which the model goes on with; only where the profile says that it can.
    """

    model: str
    system: str
    turns: tuple[Message, ...]
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...]
    parameters: Parameters
    output_tokens_max: int | None
    limits: Limits
    tools: tuple[Tool, ...] = ()
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens as the provider settled them; `input_tokens` and `output_tokens` include the parts."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, not empty; of a refusal when the model will not answer."""

    text: str
    is_refusal: bool = False


@dataclass(frozen=True, slots=True)
class Cited:
    """A citation of text that has been sent."""

    citation: PassageCitation


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of the answer; without it the answer is not complete. `counts` is None when they were not reported."""

    finish_reason: FinishReason
    counts: TokenCounts | None = None
    stop_text: str = ""
    refusal_category: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has taken the request; it says what the key may still ask."""

    allowance: Allowance


ProviderEvent: TypeAlias = Accepted | Text | PartDelta | Cited | Ended


class Provider(Protocol):
    """A source of answers."""

    @property
    def profile(self) -> Profile:
        """What it can."""
        ...

    def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        """Answers: `Text`, `PartDelta` and `Cited` events, then one `Ended`.

        Closing the generator, or cancelling it, closes the upstream connection before it returns.

        Raises:
            Failure: what went wrong, in words that hold neither the provider's text nor its key.
            MeshError: the same of a provider that knows no kinds of failure.
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
        Failure: nothing came in time, the stream ended without its end or does not end, or the provider failed.
    """
    limits = task.limits
    started = monotonic()
    ends_at = started + limits.total_s
    next_at = started + limits.first_event_s
    lateness = Kind.SLOW
    characters = 0
    async with aclosing(provider.generate(task)) as events:
        with Watch() as watch:
            while True:
                event = await _next(events, watch, min(next_at, ends_at), lateness, label)
                yield event
                match event:
                    case Ended():
                        return
                    case Text() | PartDelta():
                        characters += _length(event)
                        lateness = Kind.STALLED
                    case Cited() | Accepted():
                        pass
                if characters > ANSWER_CHARS_MAX:
                    error = ProviderUnavailable("the answer does not end", metadata={"model": label})
                    raise Failure(Kind.ENDLESS, error)
                if lateness is Kind.STALLED:
                    next_at = monotonic() + limits.stall_s


async def _next(
    events: AsyncGenerator[ProviderEvent, None], watch: Watch, until: float, lateness: Kind, label: str
) -> ProviderEvent:
    try:
        return await watch.wait(anext(events), until=until)
    except StopAsyncIteration:
        error = ProviderUnavailable("the answer broke off before its end", metadata={"model": label})
        raise Failure(Kind.CUT, error) from None
    except TimeoutError:
        late = ProviderTimeout("the provider did not answer in time", metadata={"model": label})
        raise Failure(lateness, late) from None
    except MeshError as error:
        raise Failure.of(error) from error


def _length(event: Text | PartDelta) -> int:
    if isinstance(event, Text):
        return len(event.text)
    return len(event.piece.arguments if isinstance(event.piece, ToolCall) else event.piece.text)
