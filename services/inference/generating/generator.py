"""The use case: from a wish to an answer, event by event, however many targets it takes.

An attempt that fails is followed by another one, which goes on with the answer from where it stands. What was sent is
taken back only for callers that said that they can take it.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from services.inference import genai, metrics
from services.inference.generating.attempts import Attempt, Fitted, first_fitted, fitted, total
from services.inference.generating.continuation import Placed, Plain, Seam, Way, seam_of, way_of
from services.inference.generating.course import Course, Next, Tactics
from services.inference.generating.writing import Writing
from services.inference.model import (
    Answer,
    ContextReport,
    Event,
    Finished,
    Generation,
    ProviderSwitched,
    Started,
    Usage,
)
from services.inference.money.purse import FREE, NOBODY, Estimate, Payer, Purse
from services.inference.parts import PartDelta, ToolCall
from services.inference.prompts.assembly import measure
from services.inference.providers.base import Accepted, Cited, Ended, Limits, ProviderEvent, Task, Text, bounded
from services.inference.providers.failures import Failure
from services.inference.routing import Router, Target
from services.inference.standing.standings import Admission
from services.mesh import deadline
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import ContextLengthExceeded, MeshError, ModelUnpriced, Reason

LEFT_S_MIN: Final = 0.05
"""With less time than this nobody is asked any more."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a prompt; `is_estimated` when the model's own tokenizer did not count them."""

    input_tokens: int
    is_estimated: bool


class _Parted(Exception):  # noqa: N818 - no error: two answers part, and the reader cannot take back the first
    """What is written now does not go on with what stands."""


@dataclass(slots=True, kw_only=True)
class _Call:
    """One wish on its way.

    Attributes:
        course: who is asked.
        writing: the answer so far.
        started, ends_at: when it began, and when all attempts have to be over.
        spent: what attempts consumed that did not come to their end.
        failed: the newest attempt that failed, and why.
        answer: what came of it.
    """

    wish: Generation
    payer: Payer
    course: Course
    writing: Writing
    started: float
    ends_at: float
    spent: list[Usage] = field(default_factory=list)
    failed: tuple[Target, Reason] | None = None
    is_announced: bool = False
    attempts: int = 0
    switches: int = 0
    answer: Answer | None = None

    def note(self, target: Target, reason: Reason, usage: Usage | None) -> None:
        """An attempt at `target` failed."""
        self.failed = target, reason
        if usage is not None:
            self.spent.append(usage)

    def opening(self, leg: "_Leg") -> Iterator[Event]:
        """What a reader is told before an attempt."""
        target = leg.attempt.target
        if not self.is_announced:
            self.is_announced = True
            origin = target if self.failed is None else self.failed[0]
            report = leg.fit.assembled.report if self.failed is None else ContextReport()
            yield Started(model=origin.name, context=report, offset=self.writing.length)
            # The call that wrote what stands may have broken off before it told them.
            for citation in leg.citations:
                yield from self.writing.cite(citation)
        # Where an answer that begins again parts from what stands is known with its first text only.
        if not leg.is_open_restart:
            yield from self.switch(target, self.writing.length)

    def switch(self, target: Target, offset: int) -> Iterator[Event]:
        """That another target goes on, or the same one with an answer that has begun."""
        if self.failed is None:
            return
        (origin, reason), self.failed = self.failed, None
        if origin.name != target.name or self.writing.is_begun:
            self.switches += 1
            metrics.switched(origin, target, reason)
            yield ProviderSwitched(from_model=origin.name, to_model=target.name, reason=reason.value, offset=offset)


class Generator:
    """Generates answers.

    Args:
        router: which provider serves which model.
        total_s: bounds all attempts together; each has the limits of its target.
        context_tokens_assumed: window of a model that the catalog does not know.
        purse: what attempts are paid from.
        tactics: what decides who is asked.
        clock: where the time comes from.
    """

    def __init__(
        self,
        router: Router,
        *,
        total_s: float,
        context_tokens_assumed: int,
        purse: Purse = FREE,
        tactics: Tactics | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._router = router
        self._total_s = total_s
        self._window_assumed = context_tokens_assumed
        self._purse = purse
        self._tactics = tactics or Tactics()
        self._standings = self._tactics.standings
        self._clock = clock

    async def stream(self, wish: Generation, payer: Payer = NOBODY) -> AsyncGenerator[Event, None]:
        """The answer as it is written: Started first, Finished last.

        Raises:
            QuotaExhausted, RateLimited: the payer may not.
            ModelUnknown: a named model has no configured provider.
            ContextLengthExceeded: the prompt does not fit.
            DeadlineExceeded: the caller left too little time.
            MeshError: nobody could answer, or nobody could go on with the answer.
        """
        targets = self._router.targets(wish.model, wish.fallback_models)
        started = self._clock.monotonic()
        ends_at = started + deadline.budget_s(self._total_s)
        course = Course(targets, self._tactics)
        call = _Call(wish=wish, payer=payer, course=course, writing=Writing(), started=started, ends_at=ends_at)
        outcome = "abandoned"
        try:
            leg: _Leg | None = await self._leg(call, Next(course.target))
            while leg is not None:
                async with aclosing(self._ask(call, leg)) as events:
                    async for event in events:
                        yield event
                leg = None if leg.next is None else await self._leg(call, leg.next)
            outcome = "ok"
        except MeshError as error:
            outcome = error.reason.value
            raise
        finally:
            self._tell(call, outcome)

    async def _leg(self, call: _Call, step: Next) -> "_Leg":
        """The next attempt that may be made.

        Raises:
            MeshError: there is none.
        """
        while True:
            if step.pause_s:
                await asyncio.sleep(step.pause_s)
            ready = await self._prepare(call)
            if not isinstance(ready, Next):
                return _Leg(*ready, writing=call.writing)
            step = ready

    def _tell(self, call: _Call, outcome: str) -> None:
        history = genai.History(
            asked=call.wish.model,
            outcome=outcome,
            attempts=call.attempts,
            switches=call.switches,
            seconds=self._clock.monotonic() - call.started,
        )
        genai.tell(history, call.answer, total(call.spent) if call.answer is None else call.answer.usage)

    async def answer(self, wish: Generation, payer: Payer = NOBODY) -> Answer:
        """The whole answer. Nobody has seen any of it before, so it may begin again.

        Raises:
            MeshError: as `stream`.
        """
        async with aclosing(self.stream(replace(wish, accepts_restart=True), payer)) as events:
            async for event in events:
                match event:
                    case Finished(answer):
                        return answer
                    case _:
                        pass
        raise AssertionError("a stream ends with Finished or raises")

    async def count_tokens(self, wish: Generation, payer: Payer = NOBODY) -> TokenCount:
        """What the prompt of a wish would cost to read, nothing dropped.

        Raises:
            ModelUnknown: no configured provider serves the model.
        """
        profile = self._router.target(wish.model).profile
        return TokenCount(measure(wish.prompt, tokens=profile.tokens, is_grounded=not profile.cites), is_estimated=True)

    async def _prepare(self, call: _Call) -> "tuple[Fitted, Attempt, Task] | Next":
        """The next attempt, admitted and paid for, or who is to be tried instead.

        Raises:
            MeshError: nobody is left, or the payer may not.
        """
        target, left_s = call.course.target, call.ends_at - self._clock.monotonic()
        if left_s < LEFT_S_MIN:
            raise call.course.exhausted()
        try:
            if call.is_announced:
                way, standing = way_of(target.profile, call.wish), call.writing.text
                fit = fitted(target, call.wish, standing=standing, way=way, window_assumed=self._window_assumed)
            else:
                fit = first_fitted(target, call.wish, window_assumed=self._window_assumed)
                call.writing.begin_with(fit.standing)
        except ContextLengthExceeded as error:
            failure = Failure.of(error)
            metrics.failed(target, failure.kind)
            call.note(target, error.reason, None)
            return call.course.after(failure, left_s=left_s)
        admission = await call.course.admit(fit.tokens, left_s)
        if isinstance(admission, Next):
            return admission
        limits = replace(target.limits, total_s=min(target.limits.total_s, left_s))
        try:
            return await self._paid(call, fit, target, admission, limits)
        except ModelUnpriced as error:  # of a route, the others may well have a price
            call.note(target, error.reason, None)
            return call.course.after(Failure.of(error), left_s=left_s)

    async def _paid(
        self, call: _Call, fit: Fitted, target: Target, admission: Admission, limits: Limits
    ) -> tuple[Fitted, Attempt, Task]:
        """The attempt with what is held for it.

        Raises:
            MeshError: the payer may not.
        """
        estimate = Estimate(
            model=target.name,
            card=target.card,
            input_tokens=fit.assembled.report.input_tokens,
            output_tokens=fit.output_tokens_kept,
            time_s=limits.total_s,
            is_repeat=call.attempts > 0 or call.payer.is_repeat,
        )
        try:
            reservation = await self._purse.reserve(call.payer, estimate)
        except BaseException:
            self._standings.abandoned(admission)
            raise
        call.attempts += 1
        attempt = Attempt(target, admission, reservation, self._standings, self._clock)
        return fit, attempt, fit.task(target, call.wish, limits, reservation.output_tokens_max)

    async def _ask(self, call: _Call, leg: "_Leg") -> AsyncGenerator[Event, None]:
        """The events of one attempt; `leg.next` is who goes on after it.

        Raises:
            MeshError: nobody goes on.
        """
        attempt, target = leg.attempt, leg.attempt.target
        try:
            for event in call.opening(leg):
                yield event
            attempt.ask(leg.fit.assembled.report)
            with attempt.admission.key.line.used() as provider:
                async with aclosing(bounded(provider, leg.task, label=target.name)) as provided:
                    async for happened in provided:
                        for event in leg.steps(call, happened):
                            yield event
        except Failure as failure:
            left_s = call.ends_at - self._clock.monotonic()
            usage = attempt.fail(failure, is_blamed=left_s >= LEFT_S_MIN)
            call.note(target, failure.error.reason, usage)
            if call.writing.has_calls:
                # A tool call cannot be gone on with, nor taken back by every reader.
                raise failure.error from None
            leg.next = call.course.after(
                failure, key_id=attempt.admission.key.id, left_s=left_s, is_begun=call.writing.is_begun
            )
        except _Parted:
            usage = attempt.abandon()
            if usage is not None:
                call.spent.append(usage)
            leg.next = call.course.skip()
        finally:
            usage = attempt.abandon()
            if usage is not None:
                call.spent.append(usage)


class _Leg:
    """One attempt's part of the answer."""

    def __init__(self, fit: Fitted, attempt: Attempt, task: Task, *, writing: Writing) -> None:
        self.fit = fit
        self.attempt = attempt
        self.task = task
        self.next: Next | None = None
        self.is_open_restart = bool(fit.standing) and fit.way is Way.RESTART
        self._seam: Seam = seam_of(fit.way, fit.standing)
        self._first_number = writing.next_number
        self.citations = writing.read_marks(None if attempt.target.profile.cites else fit.assembled.passages)

    def steps(self, call: _Call, event: ProviderEvent) -> Sequence[Event]:
        """What a reader is told of an event.

        Raises:
            _Parted: it would have to take back what it has.
        """
        match event:
            case Text(text, is_refusal):
                self.attempt.write(text)
                placed = self._seam.feed(text)
                return () if placed is None else self._place(call, placed, is_refusal=is_refusal)
            case PartDelta(number, piece):
                self.attempt.write(event)
                # Thoughts may come before what is gone on with; a call of a tool comes after all of the text before it.
                held = self._settle(call) if isinstance(piece, ToolCall) else ()
                return [*held, call.writing.add_part(PartDelta(self._first_number + number, piece))]
            case Cited(citation):
                return call.writing.cite(citation)
            case Ended():
                last = self._settle(call)
                call.answer = _answer(call, self, event)
                return [*last, Finished(call.answer)]
            case Accepted():
                self.attempt.accept(event)
                return ()

    def _settle(self, call: _Call) -> Sequence[Event]:
        """What was held back of the text, now that something else comes."""
        placed = self._seam.end()
        self._seam = Plain(call.writing.length if placed is None else placed.offset + len(placed.text))
        return () if placed is None else self._place(call, placed, is_refusal=False)

    def _place(self, call: _Call, placed: Placed, *, is_refusal: bool) -> Sequence[Event]:
        if not self.is_open_restart:
            return call.writing.put(placed, is_refusal=is_refusal)
        if placed.offset < call.writing.length and not call.wish.accepts_restart:
            raise _Parted
        switched = list(call.switch(self.attempt.target, placed.offset))
        return [*switched, *call.writing.put(placed, is_refusal=is_refusal)]


def _answer(call: _Call, leg: _Leg, ended: Ended) -> Answer:
    writing = call.writing
    return Answer(
        text=writing.text,
        citations=writing.citations,
        finish_reason=ended.finish_reason,
        model=leg.attempt.target.name,
        usage=total([*call.spent, leg.attempt.finish(ended)]),
        context=leg.fit.assembled.report,
        parts=writing.parts,
        stop_text=ended.stop_text,
        refusal_category=ended.refusal_category,
    )
