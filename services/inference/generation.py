"""The use case: from a wish to an answer, event by event, over one model or, before the first text, the next one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from services.inference import metrics
from services.inference.citations import CitationReader
from services.inference.fallback import exhausted, may_switch
from services.inference.model import (
    Answer,
    ContextReport,
    Event,
    Finished,
    Generation,
    PassageCitation,
    Prompt,
    ProviderSwitched,
    Started,
    TextDelta,
    Usage,
)
from services.inference.parts import PartDelta, PartsRead
from services.inference.prompts.assembly import Assembled, assemble, measure
from services.inference.providers.base import Cited, Ended, Task, Text, TokenCounts, bounded
from services.inference.providers.failures import Failure
from services.inference.routing import Router, Target
from services.mesh import deadline
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import ContextLengthExceeded, MeshError

# Share of the window that is kept for the answer when nobody says how long it may be.
_ANSWER_SHARE: Final = 4
# Tokens that an answer needs at least; a window that cannot give them is too small for the prompt.
_ANSWER_TOKENS: Final = 4_096


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a prompt; `is_estimated` when the model's own tokenizer did not count them."""

    input_tokens: int
    is_estimated: bool


class Generator:
    """Generates answers.

    Args:
        router: which provider serves which model.
        total_s: bounds all attempts together; each has the limits of its target.
        context_tokens_assumed: window of a model that the catalog does not know.
        clock: where the time comes from.
    """

    def __init__(
        self, router: Router, *, total_s: float, context_tokens_assumed: int, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._router = router
        self._total_s = total_s
        self._window_assumed = context_tokens_assumed
        self._clock = clock

    async def stream(self, wish: Generation) -> AsyncGenerator[Event, None]:
        """The answer as it is written: Started first, Finished last.

        Raises:
            ModelUnknown: a named model has no configured provider.
            ContextLengthExceeded: the prompt does not fit.
            DeadlineExceeded: the caller left too little time.
            MeshError: no model could answer, or the answer broke off after it had begun.
        """
        targets = self._router.targets(wish.model, wish.fallback_models)
        ends_at = self._clock.monotonic() + deadline.budget_s(self._total_s)
        errors: list[MeshError] = []
        for target, following in zip(targets, [*targets[1:], None], strict=True):
            attempt = _Attempt(target, self._clock)
            try:
                async with aclosing(self._attempt(attempt, wish, ends_at, is_first=not errors)) as events:
                    async for event in events:
                        yield event
                return
            except (MeshError, Failure) as problem:
                error = problem.error if isinstance(problem, Failure) else problem
                attempt.record_failure(error)
                errors.append(error)
                if not may_switch(error, is_begun=attempt.is_begun):
                    raise error from None
                if following is None:
                    raise exhausted(errors, targets[0].name) from error
                if len(errors) == 1 and not attempt.is_announced:
                    yield Started(model=target.name, context=ContextReport())
                metrics.switched(target, following, error.reason)
                yield ProviderSwitched(
                    from_model=target.name, to_model=following.name, reason=error.reason.value, offset=0
                )

    async def answer(self, wish: Generation) -> Answer:
        """The whole answer.

        Raises:
            MeshError: as `stream`.
        """
        async with aclosing(self.stream(wish)) as events:
            async for event in events:
                match event:
                    case Finished(answer):
                        return answer
                    case _:
                        pass
        raise AssertionError("a stream ends with Finished or raises")

    def count_tokens(self, model: str, prompt: Prompt) -> TokenCount:
        """What `prompt` would cost to read, nothing dropped.

        Raises:
            ModelUnknown: no configured provider serves the model.
        """
        profile = self._router.target(model).profile
        return TokenCount(measure(prompt, tokens=profile.tokens, is_grounded=not profile.cites), is_estimated=True)

    async def _attempt(
        self, attempt: "_Attempt", wish: Generation, ends_at: float, *, is_first: bool
    ) -> AsyncGenerator[Event, None]:
        target = attempt.target
        assembled, output_tokens_max = self._fit(target, wish)
        attempt.begin(assembled)
        if is_first:
            attempt.is_announced = True
            yield Started(model=target.name, context=assembled.report)
        left_s = max(0.0, ends_at - self._clock.monotonic())
        task = Task(
            model=target.model,
            system=assembled.system,
            turns=assembled.turns,
            messages=assembled.messages,
            passages=assembled.passages,
            parameters=wish.parameters,
            output_tokens_max=output_tokens_max,
            limits=replace(target.limits, total_s=min(target.limits.total_s, left_s)),
            tools=wish.prompt.tools,
        )
        try:
            async with aclosing(bounded(target.keys[0].line.provider, task, label=target.name)) as provided:
                async for event in provided:
                    match event:
                        case Text(text, is_refusal):
                            for step in attempt.add(text, is_refusal=is_refusal):
                                yield step
                        case PartDelta():
                            yield attempt.add_part(event)
                        case Cited(citation):
                            yield attempt.cite(citation)
                        case Ended():
                            yield Finished(attempt.finish(event))
        except (GeneratorExit, asyncio.CancelledError):
            attempt.record_abandoned()
            raise

    def _fit(self, target: Target, wish: Generation) -> tuple[Assembled, int | None]:
        """The prompt within the model's window, and how long the answer may be."""
        card, wanted = target.card, wish.parameters.output_tokens_max
        window = self._window_assumed if card is None else card.context_tokens
        if card is not None and wanted is not None:
            wanted = min(wanted, card.output_tokens_max)
        reserve = wanted or min(_ANSWER_TOKENS, window // _ANSWER_SHARE)
        budget = min(window - reserve, wish.prompt.input_tokens_max or window)
        profile = target.profile
        try:
            return assemble(wish.prompt, tokens=profile.tokens, budget=budget, is_grounded=not profile.cites), wanted
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(error.message, metadata={**error.metadata, "model": target.name}) from None


class _Attempt:
    """What one model has said so far, and what it consumed."""

    def __init__(self, target: Target, clock: Clock) -> None:
        self.target = target
        self.is_announced = False
        self._clock = clock
        self._started = clock.monotonic()
        self._report = ContextReport()
        self._pieces: list[str] = []
        self._parts = PartsRead()
        self._has_parts = False
        self._length = 0
        self._citations: list[PassageCitation] = []
        self._reader: CitationReader | None = None
        self._is_over = False

    @property
    def is_begun(self) -> bool:
        """Whether any of the answer has been sent."""
        return bool(self._pieces) or self._has_parts

    def begin(self, assembled: Assembled) -> None:
        """The prompt stands."""
        self._report = assembled.report
        self._reader = None if self.target.profile.cites else CitationReader(assembled.passages)

    def add(self, text: str, *, is_refusal: bool) -> list[Event]:
        """Text has come: it and the citations that it completes."""
        self._note_first()
        delta = TextDelta(self._length, text, is_refusal)
        self._pieces.append(text)
        self._parts.add_text(text, is_refusal=is_refusal)
        self._length += len(text)
        found = self._reader.feed(text) if self._reader is not None else []
        self._citations.extend(found)
        return [delta, *found]

    def add_part(self, delta: PartDelta) -> PartDelta:
        """A piece of something other than text has come."""
        self._note_first()
        self._has_parts = True
        self._parts.add(delta)
        return delta

    def cite(self, citation: PassageCitation) -> PassageCitation:
        """The provider has cited by itself."""
        self._citations.append(citation)
        return citation

    def finish(self, ended: Ended) -> Answer:
        """The answer is whole."""
        self._is_over = True
        usage = self._usage(ended.counts)
        metrics.answered(self.target, ended.finish_reason, usage)
        return Answer(
            text="".join(self._pieces),
            citations=tuple(sorted(self._citations, key=lambda one: (one.start, one.end))),
            finish_reason=ended.finish_reason,
            model=self.target.name,
            usage=usage,
            context=self._report,
            parts=self._parts.parts(),
            stop_text=ended.stop_text,
        )

    def record_failure(self, error: MeshError) -> None:
        """The attempt failed; what it wrote until then was paid for."""
        metrics.failed(self.target, error.reason, self._usage(None) if self.is_begun else None)

    def record_abandoned(self) -> None:
        """The caller left before the end."""
        if not self._is_over:
            metrics.abandoned(self.target, self._usage(None))

    def _note_first(self) -> None:
        if not self.is_begun:
            metrics.first_token(self.target, self._clock.monotonic() - self._started)

    def _written(self) -> int:
        """Tokens of the answer so far, estimated."""
        tokens, parts = self.target.profile.tokens, self._parts.parts()
        return tokens.of_parts(parts) if parts else tokens.of("".join(self._pieces))

    def _usage(self, counts: TokenCounts | None) -> Usage:
        if counts is None:
            usage = Usage(
                input_tokens=self._report.input_tokens,
                output_tokens=self._written(),
                estimated=True,
            )
        else:
            usage = Usage(
                input_tokens=counts.input_tokens,
                output_tokens=counts.output_tokens,
                cached_input_tokens=min(counts.cached_input_tokens, counts.input_tokens),
                reasoning_tokens=counts.reasoning_tokens,
            )
        return usage if self.target.card is None else replace(usage, cost_micros=self.target.card.cost_micros(usage))
