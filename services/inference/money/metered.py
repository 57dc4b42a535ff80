"""The purse that counts: limits per minute, then budgets of money, then the call, then its line in the ledger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self

from services.inference.catalog import ModelCard
from services.inference.model import Usage
from services.inference.money import metrics
from services.inference.money.books import Books
from services.inference.money.limits import KnownLimits
from services.inference.money.model import (
    Call,
    Consumed,
    Decision,
    Granted,
    Hold,
    Limits,
    Posting,
    Refused,
    call_of,
)
from services.inference.money.purse import Estimate, Payer, Reservation
from services.inference.money.rates import Charge, Measure
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import FieldViolation, MeshError, ModelUnpriced, QuotaExhausted, RateLimited
from services.mesh.groupcommit import GroupCommit
from services.mesh.ids import is_id, new_id

HELD_RETRY_S: Final = 5.0
"""When to come back to a budget that running calls hold: their answers take seconds, and give back what is over."""
BATCH_MAX: Final = 64
"""Holds that are decided together; the locks of their budgets are held meanwhile, ~5 ms."""


@dataclass(slots=True, eq=False)
class _Wanted:
    """A hold on its way; its caller may leave meanwhile, and then it has to be given back."""

    hold: Hold
    is_left: bool = False


class MeteredPurse:
    """Implements `purse.Purse`; an asynchronous context, within which it may be used.

    Args:
        books: the ledger, with its reservations and the buckets per minute.
        limits: who is bound by what.
        slack_s: seconds after the time limit of an attempt at which its reservation lapses.
        allows_unpriced: whether models without a price may be used under a budget of money.
        clock: decides which day and month pay.
    """

    def __init__(
        self,
        books: Books,
        limits: KnownLimits,
        *,
        slack_s: float,
        allows_unpriced: Callable[[], bool],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._books = books
        self._allows_unpriced = allows_unpriced
        self._limits = limits
        self._slack_s = slack_s
        self._clock = clock
        self._holds: GroupCommit[_Wanted, Decision] = GroupCommit(
            self._hold_all, name="inference_reservations", batch_max=BATCH_MAX
        )

    async def __aenter__(self) -> Self:
        await self._holds.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._holds.__aexit__(kind, error, traceback)

    async def reserve(self, payer: Payer, estimate: Estimate) -> Reservation:
        """See `purse.Purse.reserve`."""
        limits = await self._limits.of(payer.organization_id)
        call = call_of(
            payer,
            call_id=new_id("call"),
            api_key_id=payer.credential_id if is_id("key", payer.credential_id) else "",
            model=estimate.model,
            at=self._clock.now(),
        )
        if not limits:  # what most organizations have
            metrics.RESERVATIONS.labels("free").inc()
            return _Metered(self._books, call, estimate.card)
        binding = {subject: limits[subject] for subject in call.subjects if subject in limits}
        check_price(binding, estimate, allows_unpriced=self._allows_unpriced())
        charges = _charges(call, binding, estimate)
        if charges:
            try:
                await self._books.rates.take(charges)
            except RateLimited:
                metrics.RESERVATIONS.labels("refused_rate").inc()
                raise
        room_nanos = await self._hold(call, binding, estimate, charges)
        return _Metered(
            self._books,
            call,
            estimate.card,
            tokens=tuple(charge for charge in charges if charge.measure is Measure.TOKENS),
            output_tokens_max=_affordable(estimate, room_nanos),
        )

    async def _hold(
        self, call: Call, binding: Mapping[str, Limits], estimate: Estimate, charges: Sequence[Charge]
    ) -> int | None:
        """Holds the cost of an attempt; gives the room beside it, None when no money is limited."""
        cost_nanos = cost_nanos_of(estimate)
        if not cost_nanos or not any(limits.bounds_cost for limits in binding.values()):
            metrics.RESERVATIONS.labels("free").inc()
            return None
        lease = timedelta(seconds=estimate.time_s + self._slack_s)
        wanted = _Wanted(
            Hold(
                call=call,
                input_tokens=estimate.input_tokens,
                output_tokens=estimate.output_tokens,
                cost_nanos=cost_nanos,
                expires_at=call.at + lease,
            )
        )
        try:
            decision = await self._holds.add(wanted)
        except BaseException:
            wanted.is_left = True
            # Held already, or nobody knows: giving back what is not there does nothing.
            self._give_back(wanted, charges)
            raise
        if isinstance(decision, Refused):
            await self._books.rates.correct([_corrected(charge, 0) for charge in charges])
            metrics.RESERVATIONS.labels("refused_cost").inc()
            raise refusal(decision, cost_nanos, self._clock.now(), call)
        metrics.RESERVATIONS.labels("held").inc()
        return decision.room_nanos

    async def _hold_all(self, batch: Sequence[_Wanted]) -> list[Decision]:
        store = self._books.store
        decisions = await store.reserve([wanted.hold for wanted in batch])
        refused = [number for number, decision in enumerate(decisions) if isinstance(decision, Refused)]
        if refused and await self._is_room_made([batch[number].hold for number in refused]):
            again = await store.reserve([batch[number].hold for number in refused])
            for number, decision in zip(refused, again, strict=True):
                decisions[number] = decision
        for wanted, decision in zip(batch, decisions, strict=True):
            if wanted.is_left and isinstance(decision, Granted):
                self._give_back(wanted)
        return decisions

    async def _is_room_made(self, refused: Sequence[Hold]) -> bool:
        """Stores the lines of calls that are over, if any of them may still hold what the refused ones lack."""
        if not self._books.owes({hold.call.organization_id for hold in refused}):
            return False
        try:
            await self._books.flush()
        except MeshError:  # PostgreSQL is away again; what was said of the budget stands
            return False
        return True

    def _give_back(self, wanted: _Wanted, charges: Sequence[Charge] = ()) -> None:
        corrections = tuple(_corrected(charge, 0) for charge in charges)
        self._books.post(Posting(call=wanted.hold.call, consumed=None), corrections)


class _Metered:
    """Implements `purse.Reservation`: the line that is written when the attempt is over."""

    __slots__ = ("_books", "_call", "_card", "_is_over", "_tokens", "output_tokens_max")

    def __init__(
        self,
        books: Books,
        call: Call,
        card: ModelCard | None,
        *,
        tokens: tuple[Charge, ...] = (),
        output_tokens_max: int | None = None,
    ) -> None:
        self._books = books
        self._call = call
        self._card = card
        self._tokens = tokens
        self._is_over = False
        self.output_tokens_max = output_tokens_max

    def commit(self, usage: Usage) -> None:
        """See `purse.Reservation.commit`."""
        consumed = Consumed(
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_nanos=None if self._card is None else self._card.cost_nanos(usage),
            is_estimated=usage.estimated,
        )
        self._end(consumed, usage.input_tokens + usage.output_tokens)

    def release(self) -> None:
        """See `purse.Reservation.release`."""
        self._end(None, 0)

    def _end(self, consumed: Consumed | None, tokens: int) -> None:
        if self._is_over:
            return
        self._is_over = True
        corrections = tuple(_corrected(charge, tokens) for charge in self._tokens)
        self._books.post(Posting(call=self._call, consumed=consumed), corrections)


def check_price(binding: Mapping[str, Limits], estimate: Estimate, *, allows_unpriced: bool) -> None:
    """Refuses what a budget of money cannot hold, unless the operator lets it pass.

    Raises:
        ModelUnpriced: a budget limits money, and nobody knows what the model costs.
    """
    if estimate.card is not None or allows_unpriced:
        return
    bounded = next((subject for subject, limits in binding.items() if limits.bounds_cost), None)
    if bounded is not None:
        metrics.RESERVATIONS.labels("refused_price").inc()
        raise ModelUnpriced(
            f"the budget of {bounded!r} limits money, and {estimate.model!r} has no price: the operator can give "
            "it one ([[model]] in providers.toml), or let such models pass (unpriced = 'allow')",
            metadata={"model": estimate.model, "subject_id": bounded},
        )


def _charges(call: Call, binding: Mapping[str, Limits], estimate: Estimate) -> list[Charge]:
    """What the attempt takes of each minute; a repeat is no further request."""
    found: list[Charge] = []
    for subject_id, limits in binding.items():
        for measure, per_minute, amount in (
            (Measure.REQUESTS, limits.requests_per_minute, 0 if estimate.is_repeat else 1),
            (Measure.TOKENS, limits.tokens_per_minute, estimate.input_tokens + estimate.output_tokens),
        ):
            if per_minute is not None and amount:
                found.append(
                    Charge(
                        organization_id=call.organization_id,
                        subject_id=subject_id,
                        measure=measure,
                        per_minute=per_minute,
                        amount=amount,
                    )
                )
    return found


def _corrected(charge: Charge, amount: int) -> Charge:
    """What is to be taken beyond what was taken at first, which is a whole minute's at most."""
    return Charge(
        organization_id=charge.organization_id,
        subject_id=charge.subject_id,
        measure=charge.measure,
        per_minute=charge.per_minute,
        amount=amount - min(charge.amount, charge.per_minute),
    )


def cost_nanos_of(estimate: Estimate) -> int:
    """What the attempt will cost at most; 0 when the price is unknown, and let pass."""
    if estimate.card is None:
        return 0
    return estimate.card.cost_nanos(
        Usage(input_tokens=estimate.input_tokens, output_tokens=estimate.output_tokens, estimated=True)
    )


def _affordable(estimate: Estimate, room_nanos: int | None) -> int | None:
    """How long the answer may become; None when money does not bound it before the model does."""
    if room_nanos is None or estimate.card is None:
        return None
    more = estimate.card.output_tokens_for(room_nanos, input_tokens=estimate.input_tokens)
    affordable = estimate.output_tokens + more
    return affordable if affordable < estimate.card.output_tokens_max else None


def refusal(refused: Refused, cost_nanos: int, now: datetime, call: Call) -> QuotaExhausted:
    """What is spent, how much, and until when."""
    resets_at = refused.period.ends_at(refused.period.starts_on(call.at.date()))
    is_spent = refused.spent_nanos + cost_nanos > refused.limit_nanos
    state = (
        f"{_dollars(refused.spent_nanos)} of {_dollars(refused.limit_nanos)} US dollars of this {refused.period} are "
        f"spent, {_dollars(refused.reserved_nanos)} are held by running calls, and this one may cost "
        f"{_dollars(cost_nanos)}"
    )
    until = f"until {resets_at:%Y-%m-%d %H:%M} UTC" if is_spent else "while those run"
    return QuotaExhausted(
        f"the budget of {refused.subject_id!r} has no room {until}: {state}",
        fields=[FieldViolation(refused.subject_id, state)],
        metadata={
            "subject_id": refused.subject_id,
            "period": refused.period.value,
            "limit_nanos": str(refused.limit_nanos),
            "spent_nanos": str(refused.spent_nanos),
            "reserved_nanos": str(refused.reserved_nanos),
            "wanted_nanos": str(cost_nanos),
            "reset_time": resets_at.isoformat(),
        },
        retry_after_s=max(1.0, (resets_at - now).total_seconds()) if is_spent else HELD_RETRY_S,
    )


def _dollars(nanos: int) -> str:
    """An amount to read: as many decimals as it has, two at least."""
    whole, rest = divmod(nanos, 1_000_000_000)
    return f"{whole}.{f'{rest:09}'.rstrip('0').ljust(2, '0')}"
