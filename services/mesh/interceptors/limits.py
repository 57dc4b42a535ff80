"""Sheds load on purpose: above the limit a call is refused at once, with a reason, before gRPC drops it without one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.mesh.limiter import InFlightLimiter
from services.mesh.rpc import Call


class LimitStage:
    """See the module. Health is exempt: a full server is alive."""

    def __init__(self, limiter: InFlightLimiter) -> None:
        self._limiter = limiter

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Holds a place while the call runs.

        Raises:
            Overloaded: none is free.
        """
        if call.is_infrastructure:
            yield
            return
        with self._limiter.slot():
            yield
