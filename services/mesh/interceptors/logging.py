"""One canonical line per call: who, what, how it ended, how long it took; never what was said."""

from time import monotonic
from typing import Final

from services.mesh import telemetry
from services.mesh.rpc import Call, Proceed

EVENT: Final = "rpc"
# Expected trouble is a warning; what only a bug or a lost dependency causes is an error.
_ERRORS: Final = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
_QUIET: Final = frozenset({"OK", "CANCELLED"})

_log = telemetry.logger("mesh.rpc")


class LoggingStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Writes the line when the call has ended, however it ended."""
        try:
            await proceed(call)
        finally:
            self._write(call)

    def _write(self, call: Call) -> None:
        principal = call.principal
        line: dict[str, object] = {
            "method": call.method,
            "code": call.code,
            "reason": call.reason or None,
            "duration_ms": round((monotonic() - call.started) * 1000, 3),
            "messages": call.messages_sent,
            "organization_id": principal.organization_id if principal else None,
            "subject_id": principal.subject_id if principal else None,
            "caller": principal.caller if principal else None,
            "peer": call.peer,
            "trace_id": call.trace_id or None,
        }
        present = {key: value for key, value in line.items() if value is not None}
        if call.is_infrastructure:
            _log.debug(EVENT, **present)
        elif call.code in _QUIET:
            _log.info(EVENT, **present)
        elif call.code in _ERRORS:
            _log.error(EVENT, **present)
        else:
            _log.warning(EVENT, **present)
