"""What operators see of batches."""

from typing import Final

from services.inference.batches.model import UNFINISHED, Item
from services.inference.batches.store import BatchQueue
from services.mesh.clock import Clock
from services.mesh.tasks import Loop, periodic
from services.mesh.telemetry import counter, gauge

EVERY_S: Final = 15.0

ITEMS: Final = counter(
    "parley_inference_batch_items",
    "Items of batches by how they ended (succeeded, failed, cancelled), and where: in a vendor's batch or not.",
    ["outcome", "is_batched"],
)
ATTEMPTS: Final = counter(
    "parley_inference_batch_attempts_failed", "Attempts at items that are made again, by why they failed.", ["reason"]
)
HANDOVERS: Final = counter(
    "parley_inference_batch_handovers",
    "Vendors' batches: taken, found (their reply was lost), refused, lost (nobody can tell), ended.",
    ["provider", "outcome"],
)
UNSETTLED: Final = counter(
    "parley_inference_batch_items_unsettled", "Items that a vendor may have billed without telling how much."
)
OPEN: Final = gauge("parley_inference_batches_open_count", "Batches of all organizations that have not ended.")
OLDEST: Final = gauge(
    "parley_inference_batches_oldest_seconds", "Age of the oldest batch that has not ended; 0 without any."
)


def count(item: Item) -> None:
    """An item as it is after an attempt."""
    if item.state in UNFINISHED:
        ATTEMPTS.labels(item.reason).inc()
    else:
        ITEMS.labels(item.state.value, "yes" if item.is_batched else "no").inc()


def backlog_loop(queue: BatchQueue, clock: Clock) -> Loop:
    """Measures what is open, again and again."""

    async def measure() -> None:
        backlog = await queue.backlog()
        OPEN.set(backlog.batches)
        oldest_at = backlog.oldest_at
        OLDEST.set(0.0 if oldest_at is None else max(0.0, (clock.now() - oldest_at).total_seconds()))

    return periodic("inference_batch_gauges", measure, every_s=EVERY_S)
