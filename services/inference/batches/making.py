"""What people do with batches: hand them in, look at them, fetch results, cancel and delete them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from services.inference.batches.model import (
    BATCH_PREFIX,
    CUSTOM_ID_RULE,
    ITEM_PREFIX,
    ITEMS_MAX,
    Batch,
    BatchState,
    Item,
    Owner,
    is_custom_id,
)
from services.inference.batches.paying import Till, Wanted
from services.inference.batches.planning import Codec, Plan, Planner
from services.inference.batches.store import BatchShelf
from services.inference.money.purse import Payer, Purpose
from services.inference.prompts.model import Repeat
from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import (
    ContextLengthExceeded,
    FieldViolation,
    InvalidArgument,
    ModelUnknown,
    NotFound,
    QuotaExhausted,
    Unavailable,
    invalid_field,
)
from services.mesh.ids import is_id, new_id

GIVEN_UP_S: Final = 120.0
"""A batch that is still being prepared after so long has lost whoever prepared it; twice the time of the call."""
PLANNED_AT_ONCE: Final = 16
TOLD_MAX: Final = 20
"""Faults that one answer has room for; the message says how many there are."""
RESULT_BYTES_MAX: Final = 1_048_576
"""Of the answers on one page; one that is longer is a page of its own."""
_RESULTS_READ: Final = 20
_REFUSED: Final = (InvalidArgument, NotFound, ModelUnknown, ContextLengthExceeded)

_log = telemetry.logger("inference.batches")


@dataclass(frozen=True, slots=True)
class Entry:
    """A wish as it comes: its caller's name for it, and the request as bytes."""

    custom_id: str
    request: bytes


@dataclass(frozen=True, slots=True)
class Results:
    """A page of results."""

    items: tuple[Item, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class _Planned:
    entry: Entry
    purpose: Purpose
    plan: Plan


class Batches:
    """Batches of the calling user.

    Args:
        shelf: keeps them.
        planner: says who would answer an item, and what that may cost.
        till: reserves it.
        codec: reads requests.
        window_s: after this long, what has no answer fails.
        clock: says when something happened.
    """

    def __init__(
        self,
        shelf: BatchShelf,
        planner: Planner,
        till: Till,
        codec: Codec,
        *,
        window_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._shelf = shelf
        self._planner = planner
        self._till = till
        self._codec = codec
        self._window = timedelta(seconds=window_s)
        self._clock = clock

    async def create(self, payer: Payer, entries: Sequence[Entry], repeat: Repeat | None) -> Batch:
        """Keeps a batch, with all that it may cost reserved; nothing is kept unless all of it can be.

        Raises:
            InvalidArgument: items are at fault, each named with its field.
            QuotaExhausted: a budget has no room, or the organization has too many open batches.
            ModelUnpriced: a budget limits money, and nobody knows what a model costs.
            IdempotencyMismatch: the request id was used for something else.
            Unavailable: an earlier call with this request id is at it.
        """
        _check_entries(entries)
        planned = await self._planned(payer, entries)
        is_bound = await self._till.binding(payer, [one.plan.estimate for one in planned])
        now = self._clock.now()
        batch = Batch(
            id=new_id(BATCH_PREFIX),
            organization_id=payer.organization_id,
            user_id=payer.user_id,
            credential_id=payer.credential_id,
            state=BatchState.PREPARING,
            created_at=now,
            due_at=now + self._window,
        )
        items = [self._item(number, one, now, is_bound=is_bound) for number, one in enumerate(planned)]
        given_up_at = now + timedelta(seconds=GIVEN_UP_S)
        kept = await self._shelf.create(batch, items, repeat, given_up_at=given_up_at)
        if kept.id != batch.id:
            if kept.state is BatchState.PREPARING:
                raise Unavailable("an earlier call with this request id is at it; try again", retry_after_s=1.0)
            return kept
        if is_bound:
            await self._reserve(kept, items, planned)
        return await self._started(kept, items)

    async def get(self, owner: Owner, batch_id: str) -> Batch:
        """A batch.

        Raises:
            NotFound: the owner has none of this id.
        """
        found = await self._shelf.find(owner, batch_id) if is_id(BATCH_PREFIX, batch_id) else None
        if found is None:
            raise NotFound.of("batch")
        return found

    async def page(self, owner: Owner, *, before: str, limit: int) -> list[Batch]:
        """The owner's batches, newest first."""
        return await self._shelf.page(owner, before=before, limit=limit)

    async def results(self, owner: Owner, batch_id: str, *, after: int, limit: int) -> Results:
        """Items that have a result, by number; at most `limit`, and fewer where their answers are long.

        Raises:
            NotFound: the owner has no such batch.
        """
        batch = await self.get(owner, batch_id)
        found: list[Item] = []
        size = 0
        while len(found) <= limit:
            chunk = await self._shelf.results(owner, batch.id, after=after, limit=_RESULTS_READ)
            for item in chunk:
                size += len(item.answer)
                if len(found) == limit or (found and size > RESULT_BYTES_MAX):
                    return Results(tuple(found), has_more=True)
                found.append(item)
                after = item.number
            if len(chunk) < _RESULTS_READ:
                break
        return Results(tuple(found), has_more=False)

    async def cancel(self, owner: Owner, batch_id: str) -> Batch:
        """Asks for the end of a batch: what has not begun ends now, what a vendor has in hand when it gives it back.

        Raises:
            NotFound: the owner has no such batch.
        """
        batch = await self.get(owner, batch_id)
        await self._shelf.cancel(owner, batch.id, self._clock.now())
        return await self.get(owner, batch.id)

    async def delete(self, owner: Owner, batch_id: str) -> None:
        """Removes a batch with all texts; one that has not ended is cancelled.

        Raises:
            NotFound: the owner has no such batch.
        """
        batch = await self.get(owner, batch_id)
        if not await self._shelf.delete(owner, batch.id, self._clock.now()):
            raise NotFound.of("batch")

    async def _planned(self, payer: Payer, entries: Sequence[Entry]) -> list[_Planned]:
        """How each entry would be answered.

        Raises:
            InvalidArgument: some cannot be.
        """
        found: list[_Planned] = []
        faults: list[FieldViolation] = []
        for first in range(0, len(entries), PLANNED_AT_ONCE):
            chunk = list(enumerate(entries[first : first + PLANNED_AT_ONCE], first))
            for one in await asyncio.gather(*(self._plan(payer, number, entry) for number, entry in chunk)):
                if isinstance(one, _Planned):
                    found.append(one)
                else:
                    faults += one
            # To read many long prompts takes a while, in which others are served too.
            await asyncio.sleep(0)
        if faults:
            raise _refusal(faults)
        return found

    async def _plan(self, payer: Payer, number: int, entry: Entry) -> "_Planned | list[FieldViolation]":
        try:
            wish, purpose = self._codec.decode(entry.request)
            plan = await self._planner.plan(wish, replace(payer, purpose=purpose))
        except _REFUSED as error:
            path = f"items[{number}].request"
            named = [FieldViolation(f"{path}.{one.field}", one.description) for one in error.fields]
            return named or [FieldViolation(path, error.message)]
        return _Planned(entry, purpose, plan)

    def _item(self, number: int, planned: _Planned, now: datetime, *, is_bound: bool) -> Item:
        plan, request = planned.plan, planned.entry.request
        return Item(
            id=new_id(ITEM_PREFIX),
            number=number,
            custom_id=planned.entry.custom_id,
            request=self._codec.pin(request, plan.wish.prompt_revision) if plan.wish.prompt_revision else request,
            model=plan.target.name,
            purpose=planned.purpose,
            call_id=new_id("call"),
            ready_at=now,
            output_tokens_max=plan.fit.output_tokens_kept if is_bound else None,
            is_batched=plan.is_batched,
        )

    async def _reserve(self, batch: Batch, items: Sequence[Item], planned: Sequence[_Planned]) -> None:
        wanted = [Wanted(item, one.plan.estimate) for item, one in zip(items, planned, strict=True)]
        try:
            await self._till.hold(batch, wanted)
        except QuotaExhausted:
            # After any other error something may be held: whoever finds the batch given up gives it back.
            await self._shelf.discard(batch)
            raise

    async def _started(self, batch: Batch, items: Sequence[Item]) -> Batch:
        if not await self._shelf.start(batch, self._clock.now()):
            await self._till.release(batch, items)
            raise Unavailable("preparing the batch took too long; try again", retry_after_s=1.0)
        _log.info(
            "batch_created",
            batch=batch.id,
            organization_id=batch.organization_id,
            items=len(items),
            batched=sum(item.is_batched for item in items),
        )
        return replace(batch, state=BatchState.RUNNING)


def _check_entries(entries: Sequence[Entry]) -> None:
    """Whether there are as many as there may be, each with a name of its own.

    Raises:
        InvalidArgument: there are none or too many, or names are malformed or taken.
    """
    if not 1 <= len(entries) <= ITEMS_MAX:
        raise invalid_field("items", f"must hold 1 to {ITEMS_MAX} items")
    faults = list(_faults_of_names(entries))
    if faults:
        raise _refusal(faults)


def _faults_of_names(entries: Sequence[Entry]) -> Iterator[FieldViolation]:
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        path = f"items[{number}].custom_id"
        if not is_custom_id(entry.custom_id):
            yield FieldViolation(path, CUSTOM_ID_RULE)
        elif entry.custom_id in seen:
            yield FieldViolation(path, f"is that of items[{seen[entry.custom_id]}] already")
        seen.setdefault(entry.custom_id, number)


def _refusal(faults: Sequence[FieldViolation]) -> InvalidArgument:
    told = faults[:TOLD_MAX]
    more = f"; the first {TOLD_MAX} of {len(faults)} faults" if len(faults) > TOLD_MAX else ""
    return InvalidArgument("; ".join(f"{one.field}: {one.description}" for one in told) + more, fields=told)
