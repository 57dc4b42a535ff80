"""Sheds load on purpose: above the limit a call is refused at once, with a reason, before gRPC drops it without one."""

from services.mesh.limiter import InFlightLimiter
from services.mesh.rpc import Call, Proceed


class LimitStage:
    """See the module. Health is exempt: a full server is alive."""

    def __init__(self, limiter: InFlightLimiter) -> None:
        self._limiter = limiter

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Holds a place while the call runs.

        Raises:
            Overloaded: none is free.
        """
        if call.is_infrastructure:
            await proceed(call)
            return
        with self._limiter.slot():
            await proceed(call)
