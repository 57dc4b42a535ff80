"""One canonical line per call: who, what, how it ended, how long it took; never what was said."""

import logging
from time import monotonic
from typing import Final

from services.mesh import telemetry
from services.mesh.rpc import Call, Proceed

EVENT: Final = "rpc"
# Expected trouble is a warning; what only a bug or a lost dependency causes is an error.
_LEVELS: Final = {
    "OK": logging.INFO,
    "CANCELLED": logging.INFO,
    "INTERNAL": logging.ERROR,
    "UNKNOWN": logging.ERROR,
    "DATA_LOSS": logging.ERROR,
}

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
        level = logging.DEBUG if call.is_infrastructure else _LEVELS.get(call.code, logging.WARNING)
        if not _log.is_enabled_for(level):
            return
        line: dict[str, object] = {"method": call.method, "code": call.code}
        if call.reason:
            line["reason"] = call.reason
        line["duration_ms"] = round((monotonic() - call.started) * 1000, 3)
        line["messages"] = call.messages_sent
        if (principal := call.principal) is not None:
            line["organization_id"] = principal.organization_id
            line["subject_id"] = principal.subject_id
            if principal.caller is not None:
                line["caller"] = principal.caller
        if call.peer is not None:
            line["peer"] = call.peer
        if call.trace_id:
            line["trace_id"] = call.trace_id
        _log.log(level, EVENT, **line)
