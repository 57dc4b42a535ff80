"""Shows how much waits in the queue: what workers are scaled on, and what alerts look at."""

from math import nan
from typing import Final

from services.conversation.queue.port import Queue
from services.mesh import telemetry
from services.mesh.errors import MeshError

_DEPTH: Final = telemetry.gauge(
    "parley_conversation_queue_depth_messages", "Turns that wait or were received and not claimed; NaN when unknown."
)
_OLDEST: Final = telemetry.gauge(
    "parley_conversation_queue_oldest_age_seconds", "Time since the oldest of them was published; NaN when unknown."
)
_DEAD: Final = telemetry.gauge(
    "parley_conversation_queue_dead_messages", "Dead letters that were not redriven; NaN when unknown."
)
_log = telemetry.logger("conversation.queue")


class QueueGauges:
    """Measures one queue; every process of conversation shows the same figures."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def measure(self) -> None:
        """One look. A queue that is away shows no figure rather than its last one."""
        try:
            load = await self._queue.load()
        except MeshError as error:
            _log.warning("queue_not_measured", reason=error.reason)
            for gauge in (_DEPTH, _OLDEST, _DEAD):
                gauge.set(nan)
            return
        _DEPTH.set(load.depth)
        _OLDEST.set(load.oldest_age_s)
        _DEAD.set(load.dead)
