"""What batches need of a database. Two implementations pass one suite: PostgreSQL, and memory for tests."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.inference.batches.model import OPEN_MAX, Backlog, Batch, Claim, Handover, Item, Owner
from services.inference.prompts.model import Repeat
from services.mesh.errors import FieldViolation, QuotaExhausted


class LeaseLostError(Exception):
    """Another runner has the batch, or it is gone; what was to be written was not."""


class BatchShelf(Protocol):
    """Batches as their owners see them."""

    async def create(
        self, batch: Batch, items: Sequence[Item], repeat: Repeat | None, *, given_up_at: datetime
    ) -> Batch:
        """Keeps a batch that is being prepared, or gives the one that an earlier call with this request id made.

        When nobody has started it by `given_up_at`, a runner claims it, and clears up after whoever died.

        Raises:
            QuotaExhausted: the organization has `open_max` batches that have not ended.
            IdempotencyMismatch: the owner used the request id for something else.
        """
        ...

    async def start(self, batch: Batch, at: datetime) -> bool:
        """What it may cost is reserved: it may be worked on from `at`; False when it was given up meanwhile."""
        ...

    async def discard(self, batch: Batch) -> None:
        """Takes back a batch that was not started."""
        ...

    async def find(self, owner: Owner, batch_id: str) -> Batch | None:
        """A batch that was started and is not deleted, with its counts."""
        ...

    async def page(self, owner: Owner, *, before: str, limit: int) -> list[Batch]:
        """Such batches, newest first, from the first one older than `before`; empty for the newest."""
        ...

    async def results(self, owner: Owner, batch_id: str, *, after: int, limit: int) -> list[Item]:
        """Items that have a result, by number, from the first one behind `after`."""
        ...

    async def cancel(self, owner: Owner, batch_id: str, at: datetime) -> bool:
        """Asks for the end of a batch; False when there is none. One that has ended stays as it is."""
        ...

    async def delete(self, owner: Owner, batch_id: str, at: datetime) -> bool:
        """Removes a batch and all texts in it; of one that has not ended, what is needed to settle it stays a while."""
        ...


class BatchQueue(Protocol):
    """Batches as runners see them. Each write raises `LeaseLostError` when the claim no longer holds."""

    async def claim(self, *, lease: str, until: datetime, now: datetime) -> Claim | None:
        """The batch that has waited longest for its time, for this lease only until it lapses."""
        ...

    async def renew(self, claim: Claim, *, until: datetime) -> None:
        """The lease holds longer."""
        ...

    async def waiting(self, claim: Claim, *, now: datetime, is_batched: bool, limit: int) -> list[Item]:
        """Items that may be tried now, by number."""
        ...

    async def unfinished(self, claim: Claim, *, limit: int) -> list[Item]:
        """Items that wait, ready or not."""
        ...

    async def submitted(self, claim: Claim, handover_id: str) -> list[Item]:
        """Items of a handover that have no result."""
        ...

    async def handovers(self, claim: Claim) -> list[Handover]:
        """What was handed over and is not closed, oldest first."""
        ...

    async def vendor_ids(self, key_id: str, *, since: datetime) -> list[str]:
        """Vendor's names of all batches that were submitted with a key, of all organizations."""
        ...

    async def hand_over(self, claim: Claim, handover: Handover, items: Sequence[Item]) -> None:
        """Writes down that `items` are about to be handed over, with the state that they carry."""
        ...

    async def taken(self, claim: Claim, handover: Handover) -> None:
        """Keeps the vendor's name of a handover, and when its end was asked for."""
        ...

    async def close(self, claim: Claim, handover_id: str, at: datetime) -> None:
        """Nothing more is expected of a handover."""
        ...

    async def write(self, claim: Claim, items: Sequence[Item]) -> None:
        """Keeps items as they are now; of those that have a result the request is forgotten."""
        ...

    async def release(self, claim: Claim, *, at: datetime, now: datetime) -> None:
        """Anybody may claim it from `at`; from `now` when it was cancelled or deleted since it was claimed."""
        ...

    async def next_ready(self, claim: Claim) -> datetime | None:
        """When the first item that waits may be tried; None when none waits."""
        ...

    async def end(self, claim: Claim, *, at: datetime) -> None:
        """Every item has its result; one that was deleted is removed."""
        ...

    async def purge(self, claim: Claim) -> None:
        """Removes the batch and all that belongs to it."""
        ...

    async def forget(self, before: datetime, limit: int) -> int:
        """Removes batches that ended before `before`, of all organizations; gives how many."""
        ...

    async def backlog(self) -> Backlog:
        """What is open, of all organizations."""
        ...


class BatchStore(BatchShelf, BatchQueue, Protocol):
    """Everything."""


def check_open(count: int, open_max: int = OPEN_MAX) -> None:
    """Whether there is room for a batch beside so many.

    Raises:
        QuotaExhausted: there is none.
    """
    if count >= open_max:
        raise QuotaExhausted(
            f"an organization has at most {open_max} batches that have not ended; wait for one or cancel it",
            fields=[FieldViolation("batches", f"{open_max} open batches")],
        )
