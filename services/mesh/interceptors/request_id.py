"""Gives every call a request id: the caller's own if it is sound, else a fresh one."""

import random
import time

from services.mesh import context, ids
from services.mesh.rpc import Call, Proceed


class RequestIdStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """The call's lines, spans and outgoing calls carry its request id."""
        sent = call.values(context.REQUEST_ID_KEY)
        call.request_id = sent[0] if len(sent) == 1 and context.is_request_id(sent[0]) else _fresh()
        with context.request(call.request_id):
            await proceed(call)


def _fresh() -> str:
    # As `ids.new_id`, but for a name of nothing that is kept: what nobody could guess would be a system call each.
    return f"req_{ids.encode(ids.uuid7(time.time_ns() // 1_000_000, random.getrandbits(74)))}"
