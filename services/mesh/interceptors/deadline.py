"""Every unary call has a deadline: the caller's, or the method's own; what cannot finish is refused at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from services.mesh import deadline
from services.mesh.errors import DeadlineExceeded
from services.mesh.rpc import Call

REMAINING_S_MIN: Final = 0.005
"""A unary answer takes about 1 ms to travel; with less than this the caller would never see it."""
STREAM_S_MAX: Final = 3_600.0
"""Streams may be long, and none is eternal: clients resume, and draining servers must come to an end."""


class DeadlineStage:
    """See the module."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Bounds the call, and what it calls, to the nearer of the two deadlines.

        Raises:
            DeadlineExceeded: too little is left, or the time passed.
        """
        if call.is_infrastructure:
            yield
            return
        remaining_s = call.client_remaining_s()
        if remaining_s is not None and remaining_s < REMAINING_S_MIN:
            raise DeadlineExceeded("the call arrived too late to be answered in its time")
        own_s = STREAM_S_MAX if call.is_stream else call.policy.timeout_s
        bound_s = own_s if remaining_s is None else min(own_s, remaining_s)
        scope = asyncio.timeout(bound_s)
        try:
            with deadline.within(bound_s):
                async with scope:
                    yield
        except TimeoutError as error:
            if scope.expired():
                raise DeadlineExceeded from error
            raise
