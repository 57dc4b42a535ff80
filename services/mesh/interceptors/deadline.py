"""Every unary call has a deadline: the caller's, or the method's own; what cannot finish is refused at once."""

import asyncio
from typing import Final

from services.mesh import deadline
from services.mesh.errors import DeadlineExceeded
from services.mesh.rpc import Call, Proceed

REMAINING_S_MIN: Final = 0.005
"""A unary answer takes about 1 ms to travel; with less than this the caller would never see it."""
STREAM_S_MAX: Final = 3_600.0
"""Streams may be long, and none is eternal: clients resume, and draining servers must come to an end."""


class DeadlineStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Bounds the call, and what it calls, to the nearer of the two deadlines.

        Raises:
            DeadlineExceeded: too little is left, or the time passed.
        """
        if call.is_infrastructure:
            await proceed(call)
            return
        remaining_s = call.client_remaining_s()
        if remaining_s is not None and remaining_s < REMAINING_S_MIN:
            raise DeadlineExceeded("the call arrived too late to be answered in its time")
        own_s = STREAM_S_MAX if call.is_stream else call.policy.timeout_s
        if remaining_s is not None and remaining_s <= own_s:
            with deadline.within(remaining_s):  # gRPC itself ends the call at the caller's deadline
                await proceed(call)
            return
        scope = asyncio.timeout(own_s)
        try:
            with deadline.within(own_s):
                async with scope:
                    await proceed(call)
        except TimeoutError as error:
            if scope.expired():
                raise DeadlineExceeded from error
            raise
