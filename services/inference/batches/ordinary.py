"""Items that no vendor's batch endpoint answers: by the same way as any other wish, a few at once."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from services.inference.batches import metrics
from services.inference.batches.model import Batch, Claim, Item
from services.inference.batches.outcomes import after_answering, failed, succeeded
from services.inference.batches.pacing import Pace
from services.inference.batches.paying import Till
from services.inference.batches.planning import Codec
from services.inference.batches.store import BatchQueue
from services.inference.generating.answering import Answers
from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import Internal, MeshError

_log = telemetry.logger("inference.batches")


class Ordinary:
    """Answers items.

    Args:
        queue: where they are kept.
        answers: makes answers, and pays for them as for any other.
        till: gives back what was reserved for them until then.
        codec: reads wishes and keeps answers.
        pace: how many at once.
        clock: says when.
    """

    def __init__(
        self, queue: BatchQueue, answers: Answers, till: Till, codec: Codec, *, pace: Pace, clock: Clock
    ) -> None:
        self._queue = queue
        self._answers = answers
        self._till = till
        self._codec = codec
        self._pace = pace
        self._clock = clock

    async def answer_some(self, claim: Claim) -> None:
        """Answers as many of the items that wait as are answered at once.

        An item whose answer was made by a runner that died before it was kept is answered again, and both are paid.

        Raises:
            LeaseLostError: somebody else has the batch.
            MeshError: PostgreSQL is away.
        """
        waiting = await self._queue.waiting(claim, now=self._clock.now(), is_batched=False, limit=self._pace.answers)
        if not waiting:
            return
        # A runner that an item kills must not be followed by others without end.
        begun = [replace(item, attempts=item.attempts + 1) for item in waiting]
        await self._queue.write(claim, begun)
        await self._till.release(claim.batch, begun)
        await self._answer_all(claim, begun)

    async def _answer_all(self, claim: Claim, items: Sequence[Item]) -> None:
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(self._answer(claim, item), name=f"answer {item.id}")

    async def _answer(self, claim: Claim, item: Item) -> None:
        after = await self._answered(claim.batch, item)
        await self._queue.write(claim, [after])
        metrics.count(after)

    async def _answered(self, batch: Batch, item: Item) -> Item:
        try:
            wish, _ = self._codec.decode(item.request)
            answer = await self._answers.answer(wish, batch.payer(item))
            return succeeded(item, self._codec.encode(answer), is_batched=False)
        except MeshError as error:
            return after_answering(item, error, batch, self._pace, self._clock.now())
        except Exception:  # noqa: BLE001 - the worker loop: an item that breaks it is told as failed, the others go on
            _log.exception("batch_item_broke", batch=batch.id, item=item.id)
            return failed(item, Internal())
