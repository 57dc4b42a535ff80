"""What a vendor's batch endpoint is: many requests for one model handed over at once, answered within a day, for less.

The port of whoever runs batches; `openai_batches` and `anthropic_batches` are its adapters. Knows neither store nor
money.

Where a provider takes batches, its keys have an endpoint each: `routing.Line.batches`, asked inside `Line.used()`. A
batch belongs to the account of the key that submitted it: whoever asks for it later asks with the same key
(`routing.Key.id`), or one of the same account.
"""

from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

from services.inference.providers.base import ProviderEvent, Task
from services.inference.providers.failures import Failure, Kind

BATCH_BYTES_MAX: Final = 32_000_000
"""Of the requests of one batch, whatever more the vendor takes: they are held in memory until they are sent."""
ID_CHARS_MAX: Final = 31
"""Of a marker or an item's id; both together, and what parts them, are the 64 characters that both vendors take."""
SUBMIT_S: Final = 120.0
"""What one request of a submission may take."""
LANDING_S: Final = 300.0
"""For so long after it was begun a submission whose fate is not known may still be taken by the vendor."""
UNSURE: Final = frozenset(
    {Kind.OVERLOADED, Kind.SERVER_ERROR, Kind.UNREACHABLE, Kind.SLOW, Kind.STALLED, Kind.CUT, Kind.CORRUPT}
)
"""Kinds of failure of `submit` after which the vendor may have taken the batch all the same: `find` tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTerms:
    """On what terms a provider takes batches, as `providers.toml` declares them.

    Attributes:
        price_factor: what a batch's tokens cost, as a part of the ordinary price; see `ModelCard.at_factor`.
        items_max: requests of one batch.
        bytes_max: size of the requests of one batch.
        source: where the figures were read.
        date: day of the source.
    """

    price_factor: Decimal
    items_max: int
    bytes_max: int
    source: str
    date: date


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One request of a batch.

    Attributes:
        id: unique in its batch; letters, digits and `_`, at most `ID_CHARS_MAX`.
        task: what is asked; its time limits mean nothing here.
    """

    id: str
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One attempt to hand a batch over; written down before it is made, so that `find` can tell what became of it.

    Attributes:
        marker: never used for any other submission; letters, digits and `_`, at most `ID_CHARS_MAX`.
        model: `<provider>/<model>` of all its items, for errors.
        submitted_at: when it was begun.
        items_count: how many items it has.
    """

    marker: str
    model: str
    submitted_at: datetime
    items_count: int


class Fate(StrEnum):
    """What became of a submission."""

    TAKEN = "taken"
    NOT_TAKEN = "not_taken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Found:
    """What `find` found.

    Attributes:
        fate: `UNKNOWN` wants another look later, which may take until the batches of that time have ended: a day.
        batch_id: the vendor's; empty unless it was taken.
    """

    fate: Fate
    batch_id: str = ""


class State(StrEnum):
    """Where a batch is.

    RUNNING: not at its end, which may also mean that it is about to be cancelled.
    ENDED: whole, or cut short by its time or by `cancel`; each item has its result.
    REFUSED: the vendor looked at it and ran none of it; nothing is billed, there are no results.
    GONE: the vendor does not know it, or no longer has its results; whether it ran, and cost, nobody can tell.
    """

    RUNNING = "running"
    ENDED = "ended"
    REFUSED = "refused"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a batch is and how far.

    Attributes:
        finished_count: items at their end, as far as the vendor tells before all are.
        failure: why it was refused.
    """

    state: State
    finished_count: int = 0
    failure: Failure | None = None


class Unrun(StrEnum):
    """Why an item was not run, which costs nothing."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer of an item: `Text` and `PartDelta` events, and one `Ended`, as `Provider.generate` gives them."""

    events: tuple[ProviderEvent, ...]


ItemOutcome: TypeAlias = Answered | Failure | Unrun


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of an item; a `Failure` says by its kind whether it is worth another try."""

    item_id: str
    outcome: ItemOutcome


class BatchEndpoint(Protocol):
    """A vendor's batch endpoint, with one key.

    Every method raises `Failure` when the vendor refuses or cannot be reached, by the same tables as ordinary calls
    (`faults.py`); the wait that the vendor asks for is in `failure.error.retry_after_s`.
    """

    @property
    def terms(self) -> BatchTerms:
        """On what terms it takes batches."""
        ...

    def size_of(self, item: BatchItem) -> int:
        """Bytes that the request of an item takes.

        Raises:
            InvalidArgument: the vendor's format has no words for what is asked.
        """
        ...

    async def submit(self, submission: Submission, items: Sequence[BatchItem]) -> str:
        """Hands a batch over, once and without repeats; `items` are within the terms (see `split`).

        Returns:
            The vendor's id of the batch.

        Raises:
            Failure: of a kind in `UNSURE`, the vendor may have taken it: ask `find` before anything is submitted
                again. Of any other kind it was not taken.
        """
        ...

    async def find(self, submission: Submission, *, others: Collection[str] = ()) -> Found:
        """What became of a submission whose reply was lost, or whose sender died.

        OpenAI's batches carry the marker. Anthropic's show whose they are only by their results, so that a batch that
        may be the one looked for leaves its fate unknown until it has ended.

        Args:
            submission: as it was written down.
            others: the vendor's ids of batches that are known to be other submissions; they need no look.
        """
        ...

    async def progress(self, batch_id: str) -> Progress:
        """Where a batch is; what has ended is GONE once the vendor keeps no results any more, weeks later."""
        ...

    def results(self, batch_id: str, submission: Submission) -> AsyncGenerator[ItemResult, None]:
        """The results of a batch that has ended, in any order, line by line in bounded memory.

        A failure halfway means: ask again from the start, and pass over what is known. An item of which no result comes
        though there was no failure was not run (a vendor need not name those of a cancelled batch), or its line was
        garbled: it may be asked for again.

        Raises:
            Failure: the results cannot be read to their end.
        """
        ...

    async def cancel(self, batch_id: str) -> None:
        """Asks for the end of a batch, which comes later; its results tell what had been answered by then.

        Does nothing where the batch is at its end, or unknown.
        """
        ...

    async def discard(self, batch_id: str) -> None:
        """Removes a batch that is at its end, requests and results, from the vendor, as far as it lets us.

        Does nothing where it is unknown.
        """
        ...


def split(endpoint: BatchEndpoint, items: Iterable[BatchItem]) -> Iterator[list[BatchItem]]:
    """Items in their order, in batches within the endpoint's terms and our own bound of bytes.

    An item that is larger than a batch may be is a batch of its own, for the vendor to refuse.

    Raises:
        InvalidArgument: the vendor's format has no words for an item.
    """
    bytes_max = min(endpoint.terms.bytes_max, BATCH_BYTES_MAX)
    batch: list[BatchItem] = []
    size = 0
    for item in items:
        item_size = endpoint.size_of(item)
        if batch and (size + item_size > bytes_max or len(batch) == endpoint.terms.items_max):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item_size
    if batch:
        yield batch
