"""Gives every call a request id: the caller's own if it is sound, else a fresh one."""

from services.mesh import context, ids
from services.mesh.rpc import Call, Proceed


class RequestIdStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """The call's lines, spans and outgoing calls carry its request id."""
        sent = call.values(context.REQUEST_ID_KEY)
        call.request_id = sent[0] if len(sent) == 1 and context.is_request_id(sent[0]) else ids.new_id("req")
        with context.request(call.request_id):
            await proceed(call)
