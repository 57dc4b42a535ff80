"""The catch-all translator: every exception leaves as google.rpc.Status, and nothing else does.

A security control: grpc.aio sends the text of an unhandled exception to the client.
"""

import asyncio
from typing import Final

import grpc
import grpc.aio

from services.mesh import telemetry
from services.mesh.errors import MeshError, Reason
from services.mesh.rpc import Call, Proceed
from services.mesh.status import public, to_wire

_log = telemetry.logger("mesh.errors")
_NAME_BY_NUMBER: Final = {code.value[0]: code.name for code in grpc.StatusCode}


class ErrorStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Translates, and notes how the call ended for the stages outside."""
        try:
            await proceed(call)
            call.code = _code_of(call)
        except asyncio.CancelledError:
            # The client left, its deadline passed, or the server stops: gRPC has its own status for each.
            remaining_s = call.client_remaining_s()
            call.code = "DEADLINE_EXCEEDED" if remaining_s is not None and remaining_s <= 0 else "CANCELLED"
            call.reason = call.code
            raise
        except grpc.aio.AbortError:
            call.code = _code_of(call)
            raise
        except Exception as error:  # noqa: BLE001 - the translator; see the module
            await self._abort(call, error)

    async def _abort(self, call: Call, error: Exception) -> None:
        shown = public(error)
        call.code, call.reason = shown.code, shown.reason
        if shown.reason is Reason.INTERNAL:
            _log.error("rpc_failed", method=call.method, exc_info=error)
        elif not isinstance(error, MeshError):
            _log.warning("rpc_failed", method=call.method, reason=shown.reason, error=repr(error))
        elif error.__cause__ is not None:
            _log.warning("rpc_failed", method=call.method, reason=shown.reason, cause=repr(error.__cause__))
        await call.context.abort_with_status(to_wire(shown))


def _code_of(call: Call) -> str:
    """What the handler set through gRPC's own interface; 0 or None when it set nothing."""
    code: object = call.context.code()  # gRPC's stub promises a StatusCode
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _NAME_BY_NUMBER.get(code, "UNKNOWN") if isinstance(code, int) else "OK"
