"""What batches cost: reserved item by item before anything is sent, settled once whoever does it, given back unused.

A reservation and its line in the ledger are known by the call that is kept with the item, so that any runner can settle
what another one has begun, and to settle it again changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from services.inference.batches.model import Batch, Item
from services.inference.catalog import ModelCard
from services.inference.model import Usage
from services.inference.money.books import Books
from services.inference.money.limits import KnownLimits
from services.inference.money.metered import check_price, cost_nanos_of, refusal
from services.inference.money.model import Consumed, Hold, Limits, Posting, Refused
from services.inference.money.purse import Estimate, Payer
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.ids import is_id

HOLDS_PER_CALL: Final = 200
"""Reservations that are decided together: the locks of their budgets are held meanwhile, some ten milliseconds."""
HELD_AFTER_DUE_S: Final = 7_200.0
"""Reservations outlive their batch by this much: what was handed over is cancelled when it is due, and ends later."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An item, and what it may consume."""

    item: Item
    estimate: Estimate


class Till:
    """Pays for batches.

    Args:
        books: the ledger with its reservations.
        limits: who is bound by what.
        allows_unpriced: whether models without a price may be used under a budget of money.
        clock: says when a refused batch may come again.
    """

    def __init__(
        self,
        books: Books,
        limits: KnownLimits,
        *,
        allows_unpriced: Callable[[], bool],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._books = books
        self._limits = limits
        self._allows_unpriced = allows_unpriced
        self._clock = clock

    async def binding(self, payer: Payer, estimates: Sequence[Estimate]) -> bool:
        """Whether a budget of money binds the payer, so that everything has to be reserved.

        Raises:
            ModelUnpriced: one does, and nobody knows what a model costs.
            Unavailable: nobody knows, because PostgreSQL is away.
        """
        known = await self._limits.of(payer.organization_id)
        key = payer.credential_id if is_id("key", payer.credential_id) else ""
        subjects = filter(None, (payer.organization_id, payer.user_id, key))
        binding: dict[str, Limits] = {subject: known[subject] for subject in subjects if subject in known}
        for estimate in estimates:
            check_price(binding, estimate, allows_unpriced=self._allows_unpriced())
        return any(limits.bounds_cost for limits in binding.values())

    async def hold(self, batch: Batch, wanted: Sequence[Wanted]) -> None:
        """Reserves what all items may cost, on every budget of the payer; all of it or nothing.

        Raises:
            QuotaExhausted: a budget has no room; it tells what, how much, and until when.
            Unavailable: PostgreSQL is away. Some may stand: whoever finds the batch gives them back.
        """
        if self._books.owes({batch.organization_id}):  # what calls that are over still hold must not stand in the way
            await self._books.flush()
        holds = [_hold(batch, one) for one in wanted]
        held_nanos = 0
        for first in range(0, len(holds), HOLDS_PER_CALL):
            chunk = holds[first : first + HOLDS_PER_CALL]
            for hold, decision in zip(chunk, await self._books.store.reserve(chunk), strict=True):
                if isinstance(decision, Refused):
                    await self._books.settle([Posting(call=one.call, consumed=None) for one in holds])
                    total_nanos = sum(one.cost_nanos for one in holds)
                    others = replace(decision, reserved_nanos=max(0, decision.reserved_nanos - held_nanos))
                    raise refusal(others, total_nanos, self._clock.now(), hold.call)
                held_nanos += hold.cost_nanos

    async def release(self, batch: Batch, items: Sequence[Item]) -> None:
        """Items consume nothing, or are paid for elsewhere."""
        await self._settle([Posting(call=batch.call(item), consumed=None) for item in items if item.call_id])

    async def settle(self, batch: Batch, consumed: Sequence[tuple[Item, Consumed]]) -> None:
        """Items consumed this much."""
        await self._settle([Posting(call=batch.call(item), consumed=one) for item, one in consumed if item.call_id])

    async def _settle(self, postings: Sequence[Posting]) -> None:
        if postings:
            await self._books.settle(postings)


def consumed_of(usage: Usage, card: ModelCard | None) -> Consumed:
    """A usage as the ledger has it, at the prices of `card`."""
    return Consumed(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nanos=None if card is None else card.cost_nanos(usage),
        is_estimated=usage.estimated,
    )


def _hold(batch: Batch, wanted: Wanted) -> Hold:
    return Hold(
        call=batch.call(wanted.item),
        input_tokens=wanted.estimate.input_tokens,
        output_tokens=wanted.estimate.output_tokens,
        cost_nanos=cost_nanos_of(wanted.estimate),
        expires_at=batch.due_at + timedelta(seconds=HELD_AFTER_DUE_S),
    )
