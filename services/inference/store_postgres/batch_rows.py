"""Batches, items and handovers as rows, for both sides of their store."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import RowMapping, func, select

from services.inference.batches.model import Batch, BatchState, Counts, Handover, Item, ItemState
from services.inference.money.purse import Purpose
from services.inference.tables import BATCH_ITEMS
from services.mesh.postgres.database import ReadOnly

Row = dict[str, Any]
"""Any: columns hold anything."""

_BATCH: Final = ("id", "organization_id", "user_id", "credential_id", "created_at", "due_at", "ended_at", "deleted_at")
_ITEM: Final = (
    *("id", "number", "custom_id", "model", "call_id", "output_tokens_max", "is_batched", "attempts", "ready_at"),
    *("handover_id", "reason", "message"),
)
_HANDOVER: Final = ("id", "model", "key_id", "items_count", "submitted_at", "vendor_id", "cancelled_at")


def batch_row(batch: Batch) -> Row:
    """A batch, but for its counts."""
    return {name: getattr(batch, name) for name in _BATCH} | {"state": batch.state.value}


def batch_of(row: RowMapping, counts: Mapping[str, Counts]) -> Batch:
    """A batch, with its counts from `counts_of`."""
    return Batch(
        **{name: row[name] for name in _BATCH},
        state=BatchState(row["state"]),
        counts=counts.get(row["id"], Counts()),
    )


async def counts_of(read: ReadOnly, organization_id: str, batch_ids: Sequence[str]) -> dict[str, Counts]:
    """Items by state of each batch that has any."""
    columns = BATCH_ITEMS.c
    query = (
        select(columns.batch_id, columns.state, func.count())
        .where(columns.organization_id == organization_id, columns.batch_id.in_(batch_ids))
        .group_by(columns.batch_id, columns.state)
    )
    found: dict[str, dict[str, int]] = {}
    for batch_id, state, count in (await read.execute(query)).all():
        found.setdefault(batch_id, {})[state] = count
    return {batch_id: Counts(**states) for batch_id, states in found.items()}


def item_row(organization_id: str, batch_id: str, item: Item) -> Row:
    """An item of a batch."""
    return {name: getattr(item, name) for name in _ITEM} | {
        "organization_id": organization_id,
        "batch_id": batch_id,
        "request": item.request,
        "answer": item.answer,
        "purpose": item.purpose.value,
        "state": item.state.value,
    }


def item_of(row: RowMapping) -> Item:
    """An item."""
    return Item(
        **{name: row[name] for name in _ITEM},
        request=bytes(row["request"]),
        answer=bytes(row["answer"]),
        purpose=Purpose(row["purpose"]),
        state=ItemState(row["state"]),
    )


def handover_row(organization_id: str, batch_id: str, handover: Handover) -> Row:
    """A handover of a batch."""
    return {name: getattr(handover, name) for name in _HANDOVER} | {
        "organization_id": organization_id,
        "batch_id": batch_id,
    }


def handover_of(row: RowMapping) -> Handover:
    """A handover."""
    return Handover(**{name: row[name] for name in _HANDOVER})
