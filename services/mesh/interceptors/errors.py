"""The catch-all translator: every exception leaves as google.rpc.Status, and nothing else does.

A security control: grpc.aio sends the text of an unhandled exception to the client.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import grpc
import grpc.aio

from services.mesh import telemetry
from services.mesh.errors import MeshError, Reason
from services.mesh.rpc import Call, Proceed
from services.mesh.status import public, to_wire

_log = telemetry.logger("mesh.errors")
READ_OUT_S_MAX: Final = 5.0
EARLY_S_MAX: Final = 0.05
"""How long before its time by our clock a client may hang up whose time has passed by its own."""
_NAME_BY_NUMBER: Final = {code.value[0]: code.name for code in grpc.StatusCode}


class ErrorStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Translates, and notes how the call ended for the stages outside."""
        try:
            await proceed(call)
            call.code = _code_of(call)
        except asyncio.CancelledError:
            if call.is_told:
                raise
            # The client left, its deadline passed, or the server stops: gRPC has its own status for each.
            remaining_s = call.client_remaining_s()
            is_late = remaining_s is not None and remaining_s <= EARLY_S_MAX
            call.code = "DEADLINE_EXCEEDED" if is_late else "CANCELLED"
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
        if call.requests is not None:
            await _read_out(call.requests)
        await call.context.abort_with_status(to_wire(shown))


async def _read_out(requests: AsyncIterator[object]) -> None:
    """Takes what the client still sends, for a while.

    To gRPC's client a send that meets a status is an error of its own: it reports INTERNAL, and the status is lost.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(READ_OUT_S_MAX):
            async for _ in requests:
                pass


def _code_of(call: Call) -> str:
    """What the handler set through gRPC's own interface; 0 or None when it set nothing."""
    code: object = call.context.code()  # gRPC's stub promises a StatusCode
    if not code:
        return "OK"
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _NAME_BY_NUMBER.get(code, "UNKNOWN") if isinstance(code, int) else "UNKNOWN"
