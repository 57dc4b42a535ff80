"""One call to one target: what it is asked, and who is told how it went: standings, metrics and the purse."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from services.inference import genai, metrics
from services.inference.generating.continuation import Way, prefix_of, resumed, turns_after, way_of
from services.inference.model import ContextReport, Generation, Usage
from services.inference.money.purse import Reservation
from services.inference.parts import PartDelta, PartsRead
from services.inference.prompts.assembly import Assembled, assemble
from services.inference.providers.base import Accepted, Ended, Limits, Task, TokenCounts
from services.inference.providers.failures import Failure
from services.inference.routing import Target
from services.inference.standing.standings import SLOW_PART, Admission, Standings
from services.mesh.clock import Clock
from services.mesh.errors import ContextLengthExceeded

# Share of the window that is kept for the answer when nobody says how long it may be.
_ANSWER_SHARE: Final = 4
# Tokens that an answer needs at least; a window that cannot give them is too small for the prompt.
_ANSWER_TOKENS: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A wish as one target can take it.

    Attributes:
        assembled: the prompt within the window.
        way: how the target goes on with what stands.
        standing: the answer so far.
        output_tokens_max: how much more may be written; None leaves it to the provider.
        output_tokens_kept: room in the window that is kept for the answer.
    """

    assembled: Assembled
    way: Way
    standing: str
    output_tokens_max: int | None
    output_tokens_kept: int

    @property
    def tokens(self) -> int:
        """That the call will consume, as far as one can tell."""
        return self.assembled.report.input_tokens + (self.output_tokens_max or 0)

    def task(self, target: Target, wish: Generation, limits: Limits, affordable: int | None) -> Task:
        """What the provider gets; `affordable` is the length of answer that is paid for."""
        assembled, is_shown = self.assembled, bool(self.standing) and self.way is Way.INSTRUCTED
        return Task(
            model=target.model,
            system=assembled.system,
            turns=(*assembled.turns, *turns_after(self.standing)) if is_shown else assembled.turns,
            messages=assembled.messages,
            passages=assembled.passages,
            parameters=wish.parameters,
            output_tokens_max=min(filter(None, (self.output_tokens_max, affordable)), default=None),
            limits=limits,
            tools=wish.prompt.tools,
            prefix=prefix_of(self.standing) if self.way is Way.PREFIX else "",
        )


def fitted(target: Target, wish: Generation, *, standing: str, way: Way, window_assumed: int) -> Fitted:
    """The wish within the window of `target`, with the answer so far where the target is shown it.

    Raises:
        ContextLengthExceeded: it does not fit.
    """
    card, wanted, profile = target.card, wish.parameters.output_tokens_max, target.profile
    window = window_assumed if card is None else card.context_tokens
    if card is not None and wanted is not None:
        wanted = min(wanted, card.output_tokens_max)
    shown = 0
    if standing and way is not Way.RESTART:
        shown = sum(profile.tokens.of_message(turn.text) for turn in turns_after(standing))
        wanted = None if wanted is None else max(1, wanted - profile.tokens.of(standing))
    kept = wanted or min(_ANSWER_TOKENS, window // _ANSWER_SHARE)
    budget = min(window - kept - shown, wish.prompt.input_tokens_max or window)
    try:
        assembled = assemble(wish.prompt, tokens=profile.tokens, budget=budget, is_grounded=not profile.cites)
    except ContextLengthExceeded as error:
        raise ContextLengthExceeded(error.message, metadata={**error.metadata, "model": target.name}) from None
    return Fitted(assembled=assembled, way=way, standing=standing, output_tokens_max=wanted, output_tokens_kept=kept)


def first_fitted(target: Target, wish: Generation, *, window_assumed: int) -> Fitted:
    """As `fitted`, for the first attempt: with what an earlier call began, where the target can go on with it.

    Raises:
        ContextLengthExceeded: it does not fit.
    """
    way, standing = way_of(target.profile, wish), resumed(target.profile, wish)
    if standing:
        with suppress(ContextLengthExceeded):  # it leaves too little room, and is let go
            return fitted(target, wish, standing=standing, way=way, window_assumed=window_assumed)
    return fitted(target, wish, standing="", way=way, window_assumed=window_assumed)


class Attempt:
    """A call that is made: what it wrote by itself, and what it consumed.

    Args:
        target: who is asked.
        admission: with which key.
        reservation: what is held for it.
        standings: told how it went.
        clock: where the time comes from.
    """

    def __init__(
        self, target: Target, admission: Admission, reservation: Reservation, standings: Standings, clock: Clock
    ) -> None:
        self.target = target
        self.admission = admission
        self._reservation = reservation
        self._standings = standings
        self._clock = clock
        self._started = clock.monotonic()
        self._report = ContextReport()
        self._written = PartsRead()
        self._pieces: list[str] = []
        self._has_written = False
        self._first_s = 0.0
        self._is_asked = False
        self._is_over = False
        self._question: genai.Question | None = None

    def ask(self, report: ContextReport) -> None:
        """The prompt goes out now."""
        self._is_asked = True
        self._report = report
        self._started = self._clock.monotonic()
        self._question = genai.ask(self.target.profile.name, self.target.model)

    def accept(self, event: Accepted) -> None:
        """The provider said what the key may still ask."""
        self._standings.allow(self.admission, event.allowance)

    def write(self, piece: str | PartDelta) -> None:
        """Something has come."""
        if not self._has_written:
            self._has_written = True
            self._first_s = self._clock.monotonic() - self._started
            metrics.first_token(self.target, self._first_s)
            self._standings.began(self.admission, self._first_s)
        if isinstance(piece, str):
            self._pieces.append(piece)
        else:
            self._written.add(piece)

    def finish(self, ended: Ended) -> Usage:
        """It came to its end: what it consumed."""
        usage = self._usage(ended.counts)
        if not self._is_over:
            self._is_over = True
            seconds = self._clock.monotonic() - self._started
            self._standings.succeeded(
                self.admission,
                seconds=seconds,
                is_slow=self._first_s > self.target.limits.first_event_s * SLOW_PART,
            )
            metrics.answered(self.target, ended.finish_reason, usage, seconds)
            genai.answered(self._question, usage, outcome=ended.finish_reason.value, first_s=self._first_s)
            self._reservation.commit(usage)
        return usage

    def fail(self, failure: Failure, *, is_blamed: bool) -> Usage | None:
        """It failed, through its own fault or for want of the caller's time; what it wrote until then is paid for."""
        usage = self._usage(None) if self._has_written else None
        if not self._is_over:
            self._is_over = True
            if is_blamed:
                self._standings.failed(self.admission, failure, wait_s=failure.error.retry_after_s)
            else:
                self._standings.abandoned(self.admission)
            metrics.failed(self.target, failure.kind, usage)
            genai.broke_off(self._question, usage, why=failure.kind.value)
            self._settle(usage)
        return usage

    def abandon(self) -> Usage | None:
        """Nobody wants it any more; a provider that was asked has read the prompt."""
        if self._is_over:
            return None
        self._is_over = True
        usage = self._usage(None) if self._is_asked else None
        genai.broke_off(self._question, usage, why="")
        self._standings.abandoned(self.admission)
        if usage is not None:
            metrics.abandoned(self.target, usage)
        self._settle(usage)
        return usage

    def _settle(self, usage: Usage | None) -> None:
        if usage is None:
            self._reservation.release()
        else:
            self._reservation.commit(usage)

    def _usage(self, counts: TokenCounts | None) -> Usage:
        if counts is None:
            tokens = self.target.profile.tokens
            usage = Usage(
                input_tokens=self._report.input_tokens,
                output_tokens=tokens.of("".join(self._pieces)) + tokens.of_parts(self._written.parts()),
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


def total(usages: list[Usage]) -> Usage:
    """What all attempts at one answer consumed; its cost is known when that of each is."""
    costs = [usage.cost_micros for usage in usages if usage.cost_micros is not None]
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cached_input_tokens=sum(usage.cached_input_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        cost_micros=sum(costs) if len(costs) == len(usages) else None,
        estimated=any(usage.estimated for usage in usages),
    )
