"""Rate, errors and duration of every method, and how many calls are in flight."""

from time import monotonic
from typing import Final

from services.mesh import telemetry
from services.mesh.rpc import Call, Proceed

_DURATION: Final = telemetry.histogram(
    "parley_mesh_rpc_duration_seconds",
    "Time from a call's arrival to its end, streams included.",
    ["method", "code"],
)
_IN_FLIGHT: Final = telemetry.gauge(
    "parley_mesh_rpc_in_flight_count", "Calls that have arrived and not ended.", ["method"]
)
_SENT: Final = telemetry.counter("parley_mesh_rpc_messages", "Response messages sent.", ["method"])
_FAILED: Final = telemetry.counter(
    "parley_mesh_rpc_errors", "Calls that ended with an error, by its reason.", ["method", "reason"]
)
_CALLED: Final = telemetry.counter(
    "parley_mesh_rpc_calls",
    "Calls that ended, by the workload that made them: `none` of ours for people's own and for public ones.",
    ["caller", "service", "code"],
)


class MetricsStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Counts the call. Labels are bounded: by the contract, by enums, and callers by settings."""
        in_flight = _IN_FLIGHT.labels(call.method)
        in_flight.inc()
        try:
            await proceed(call)
        finally:
            in_flight.dec()
            _DURATION.labels(call.method, call.code).observe(monotonic() - call.started)
            _SENT.labels(call.method).inc(call.messages_sent)
            caller = call.principal.caller if call.principal else None
            _CALLED.labels(caller or "none", call.method[1:].partition("/")[0], call.code).inc()
            if call.reason:
                _FAILED.labels(call.method, call.reason).inc()
