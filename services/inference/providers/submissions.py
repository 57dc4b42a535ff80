"""What the adapters of both vendors' batch endpoints share: ids that tell whose a request is, and lines of results."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime, timedelta
from typing import Final

from services.inference.providers.batching import LANDING_S, BatchItem, Fate, Found, ItemOutcome, ItemResult, Submission
from services.inference.providers.failures import Failure, Kind
from services.inference.providers.sse import MalformedStream, at, parse, text_at

# The longest answer that is taken, a million characters, is 6 MB of JSON when each is escaped; thoughts come on top.
LINE_BYTES_MAX: Final = 16_777_216
CUSTOM_ID_CHARS_MAX: Final = 64
"""What both vendors take, out of letters, digits, `_` and `-`."""
CALL_S: Final = 60.0
"""What a call that carries no batch may take; of results, the wait for the next piece."""
PAGE_MAX: Final = 100
"""Batches on a page of a vendor's list; the most that OpenAI gives."""
PAGES_MAX: Final = 100
"""Pages that are looked through for a batch."""

UNKNOWN: Final = frozenset({Kind.MODEL_UNKNOWN})
"""What 404 is by both vendors' tables; here it means that there is no such batch or file."""
UNKNOWN_OR_ENDED: Final = UNKNOWN | {Kind.REFUSED}
"""What the answer to a cancellation may be that comes too late."""

_SEPARATOR: Final = "-"
# By so much the vendor's clock may differ from ours.
_SKEW: Final = timedelta(minutes=5)


def custom_id(submission: Submission, item: BatchItem) -> str:
    """What the vendor is told as the id of an item; in no other submission an item has the same."""
    return f"{submission.marker}{_SEPARATOR}{item.id}"


def item_id(submission: Submission, text: str) -> str:
    """The item that the vendor means by an id; empty when it is none of this submission."""
    marker, _, found = text.partition(_SEPARATOR)
    return found if marker == submission.marker else ""


def may_be(submission: Submission, created_at: datetime) -> bool:
    """Whether a batch of this time may be the submission's."""
    landed_at = submission.submitted_at + timedelta(seconds=LANDING_S)
    return submission.submitted_at - _SKEW <= created_at <= landed_at + _SKEW


def is_before(submission: Submission, created_at: datetime) -> bool:
    """Whether a batch of this time is older than the submission."""
    return created_at < submission.submitted_at - _SKEW


def unfound(submission: Submission, now: datetime) -> Found:
    """What it means that the vendor has no batch of the submission."""
    has_landed = now >= submission.submitted_at + timedelta(seconds=LANDING_S) + _SKEW
    return Found(Fate.NOT_TAKEN if has_landed else Fate.UNKNOWN)


@contextmanager
def ignoring(kinds: frozenset[Kind]) -> Iterator[None]:
    """Failures of these kinds end the body, and nothing else."""
    try:
        yield
    except Failure as failure:
        if failure.kind not in kinds:
            raise


def id_in(said: object) -> str:
    """The id of what the vendor made or lists.

    Raises:
        MalformedStream: there is none.
    """
    found = text_at(said, "id")
    if not found:
        raise MalformedStream("what was made has no id")
    return found


def listed(page: object) -> list[object]:
    """What a page of a list holds.

    Raises:
        MalformedStream: it is no page.
    """
    found = at(page, "data")
    if not isinstance(found, list):
        raise MalformedStream("a list is none")
    return found


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Lines of a body that are not empty; one that is longer than the bound is passed over."""
    held = bytearray()
    is_too_long = False
    async for chunk in chunks:
        for number, piece in enumerate(chunk.split(b"\n")):
            if number:  # the end of a line is between two pieces
                if held:
                    yield bytes(held)
                held.clear()
                is_too_long = False
            is_too_long = is_too_long or len(held) + len(piece) > LINE_BYTES_MAX
            if is_too_long:
                held.clear()
            else:
                held += piece
    if held:
        yield bytes(held)


async def results(
    found: AsyncGenerator[bytes, None], submission: Submission, outcome: Callable[[object], ItemOutcome]
) -> AsyncGenerator[ItemResult, None]:
    """Results in lines that are readable and name an item of the submission.

    Args:
        found: the lines; closed when this is.
        submission: whose results are wanted.
        outcome: what a line says of its item.
    """
    async with aclosing(found):
        async for line in found:
            try:
                said = parse(line)
            except MalformedStream:
                continue  # nobody can tell whose it is
            known = item_id(submission, text_at(said, "custom_id"))
            if known:
                yield ItemResult(known, outcome(said))
