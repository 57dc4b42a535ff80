"""Batches, their items, and what of them was handed over to a vendor."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.inference.money.model import Call, call_of
from services.inference.money.purse import Payer, Purpose
from services.mesh.ids import is_id

BATCH_PREFIX: Final = "bat"
ITEM_PREFIX: Final = "bti"
HANDOVER_PREFIX: Final = "bts"
ITEMS_MAX: Final = 1_000
"""Of a batch: what one message of the mesh carries, with requests of 4 KB each; more work is more batches."""
OPEN_MAX: Final = 100
"""Batches of an organization that have not ended."""
VENDOR_ATTEMPTS_MAX: Final = 2
"""Times that an item goes into a vendor's batch; after that it is answered the ordinary way."""
ATTEMPTS_MAX: Final = 5
"""All attempts at an item; the ordinary way has repeats and fallbacks of its own within each."""

_CUSTOM_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
CUSTOM_ID_RULE: Final = "must be 1 to 64 letters, digits, -, _, . and :"


class BatchState(StrEnum):
    """Where a batch is. PREPARING: what it may cost is being reserved; nobody has been told of it yet."""

    PREPARING = "preparing"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDED = "ended"


class ItemState(StrEnum):
    """Where an item is. SUBMITTED: it was written down for a vendor's batch, which may or may not have taken it."""

    WAITING = "waiting"
    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED: Final = frozenset({ItemState.WAITING, ItemState.SUBMITTED})


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a batch is; every query of the API names both."""

    organization_id: str
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Items by state."""

    waiting: int = 0
    submitted: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def unfinished(self) -> int:
        """Items that have no result."""
        return self.waiting + self.submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Wishes that were handed in together.

    Attributes:
        credential_id: API key or login session with which it was made; a key's budgets pay with the others.
        due_at: when what has no answer fails.
        deleted_at: its texts are gone; what remains is what is needed to end and settle what was begun.
        counts: as they stood when it was read.
    """

    id: str
    organization_id: str
    user_id: str
    credential_id: str
    state: BatchState
    created_at: datetime
    due_at: datetime
    ended_at: datetime | None = None
    deleted_at: datetime | None = None
    counts: Counts = Counts()

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        return Owner(self.organization_id, self.user_id)

    def payer(self, item: "Item") -> Payer:
        """Who pays for an item."""
        return Payer(
            organization_id=self.organization_id,
            user_id=self.user_id,
            credential_id=self.credential_id,
            purpose=item.purpose,
            is_repeat=item.attempts > 1,
        )

    def call(self, item: "Item") -> Call:
        """What is held for an item, and what its line in the ledger will say: the same whoever asks, however often."""
        return call_of(
            self.payer(item),
            call_id=item.call_id,
            api_key_id=self.credential_id if is_id("key", self.credential_id) else "",
            model=item.model,
            at=self.created_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A wish of a batch.

    Attributes:
        number: its place in the batch, from 0.
        custom_id: the caller's name for it.
        request: the wish as it came, with the prompt's revision fixed; empty once there is a result.
        model: the target that it was planned for.
        call_id: of its reservation; empty when that is left to lapse, because nobody can tell what was consumed.
        output_tokens_max: length of answer that its reservation pays for; None where no money is limited.
        is_batched: it is to go into a vendor's batch; with a result, that is where it came from.
        attempts: that were begun.
        ready_at: not to be tried before.
        handover_id: of the vendor's batch that it is in, or was written down for.
        answer: encoded.
        reason, message: why it failed; while it waits, why the newest attempt did.
    """

    id: str
    number: int
    custom_id: str
    request: bytes
    model: str
    purpose: Purpose
    call_id: str
    ready_at: datetime
    output_tokens_max: int | None = None
    is_batched: bool = False
    state: ItemState = ItemState.WAITING
    attempts: int = 0
    handover_id: str = ""
    answer: bytes = b""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Items that were handed over to a vendor together, or are about to be: it is written down first.

    Attributes:
        key_id: the key with which it was submitted, and is asked for.
        vendor_id: the vendor's name of its batch; empty until that is known.
        cancelled_at: when the vendor was asked to end it.
    """

    id: str
    model: str
    key_id: str
    items_count: int
    submitted_at: datetime
    vendor_id: str = ""
    cancelled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that one runner works on; what it writes counts only while the lease is its own."""

    batch: Batch
    lease: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much is open, for those who watch: batches, and when the oldest of them was made."""

    batches: int
    oldest_at: datetime | None


def is_custom_id(text: str) -> bool:
    """Whether an item can be called that."""
    return _CUSTOM_ID.fullmatch(text) is not None
