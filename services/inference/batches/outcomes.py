"""What becomes of an item after an attempt: the rules, without any input or output."""

from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.inference.batches.model import ATTEMPTS_MAX, VENDOR_ATTEMPTS_MAX, Batch, BatchState, Item, ItemState
from services.inference.batches.pacing import Pace
from services.inference.providers.failures import ACTIONS, TRANSIENT, Action, Failure
from services.mesh.errors import (
    DeadlineExceeded,
    MeshError,
    Overloaded,
    ProviderMisconfigured,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Reason,
    RetrievalUnavailable,
    Unavailable,
)

# A limit passes by itself, and to wait for it is no attempt.
_LIMITS: Final = (RateLimited, QuotaExhausted)
_PASSING: Final = (
    DeadlineExceeded,
    Overloaded,
    ProviderMisconfigured,
    ProviderTimeout,
    ProviderUnavailable,
    RetrievalUnavailable,
    Unavailable,
)


class Stop(StrEnum):
    """Why nothing more of a batch is begun."""

    CANCELLED = "cancelled"
    OVERDUE = "overdue"


def stop_of(batch: Batch, now: datetime) -> Stop | None:
    """Whether a batch is to come to its end as it is."""
    if batch.deleted_at is not None or batch.state is BatchState.CANCELLING:
        return Stop.CANCELLED
    return Stop.OVERDUE if now >= batch.due_at else None


def succeeded(item: Item, answer: bytes, *, is_batched: bool) -> Item:
    """It was answered."""
    return replace(
        item, state=ItemState.SUCCEEDED, answer=answer, is_batched=is_batched, reason="", message="", handover_id=""
    )


def failed(item: Item, error: MeshError) -> Item:
    """It is not tried again."""
    return replace(item, state=ItemState.FAILED, reason=error.reason.value, message=error.message, handover_id="")


def stopped(item: Item, stop: Stop) -> Item:
    """Nobody begins it any more; one that was tried in vain tells of that."""
    if stop is Stop.CANCELLED:
        return replace(
            item,
            state=ItemState.CANCELLED,
            reason=Reason.CANCELLED.value,
            message="the batch was cancelled",
            handover_id="",
        )
    if item.reason:
        return replace(item, state=ItemState.FAILED, handover_id="")
    return failed(item, DeadlineExceeded("there was no answer by the time at which the batch was due"))


def again(item: Item, error: MeshError, ready_at: datetime, *, is_batched: bool) -> Item:
    """It is tried once more, unless it was tried often enough."""
    if item.attempts >= ATTEMPTS_MAX:
        return failed(item, error)
    return replace(
        item,
        state=ItemState.WAITING,
        reason=error.reason.value,
        message=error.message,
        ready_at=ready_at,
        is_batched=is_batched,
        handover_id="",
    )


def after_batch(item: Item, failure: Failure, pace: Pace, now: datetime) -> Item:
    """A vendor's batch failed it: what may be gone a moment later is tried there again, all else the ordinary way."""
    if ACTIONS[failure.kind] is Action.GIVE_UP:
        return failed(item, failure.error)
    stays = failure.kind in TRANSIENT and item.attempts < VENDOR_ATTEMPTS_MAX
    ready_at = pace.retry_at(item.attempts, now, asked_s=failure.error.retry_after_s if stays else None)
    return again(item, failure.error, ready_at, is_batched=stays)


def after_answering(item: Item, error: MeshError, batch: Batch, pace: Pace, now: datetime) -> Item:
    """The ordinary way failed it, after all its own repeats and fallbacks."""
    is_limit = isinstance(error, _LIMITS)
    ready_at = pace.retry_at(item.attempts, now, asked_s=error.retry_after_s)
    if not isinstance(error, _LIMITS + _PASSING) or ready_at >= batch.due_at:
        return failed(item, error)
    waits = replace(item, attempts=item.attempts - 1) if is_limit else item
    return again(waits, error, ready_at, is_batched=False)
