"""Rate, errors and duration of every method, and how many calls are in flight."""

from time import monotonic
from typing import Final

from prometheus_client import Counter, Histogram

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


class _Method:
    """The series of one method: to find one by its labels costs three times as much as to count."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._service = path[1:].partition("/")[0]
        self._durations: dict[str, Histogram] = {}
        self._called: dict[tuple[str, str], Counter] = {}
        self.in_flight = 0
        _IN_FLIGHT.labels(path).set_function(lambda: self.in_flight)
        self._sent = _SENT.labels(path)

    def ended(self, call: Call) -> None:
        """Counts a call. Labels are bounded: by the contract, by enums, and callers by settings."""
        code = call.code
        duration = self._durations.get(code)
        if duration is None:
            duration = self._durations[code] = _DURATION.labels(self._path, code)
        duration.observe(monotonic() - call.started)
        if call.messages_sent:
            self._sent.inc(call.messages_sent)
        caller = (call.principal.caller if call.principal else None) or "none"
        called = self._called.get((caller, code))
        if called is None:
            called = self._called[caller, code] = _CALLED.labels(caller, self._service, code)
        called.inc()
        if call.reason:
            _FAILED.labels(self._path, call.reason).inc()


_METHODS: Final[dict[str, _Method]] = {}


class MetricsStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Counts the call."""
        method = _METHODS.get(call.method)
        if method is None:  # their number is bounded by the contract, for other methods do not exist
            method = _METHODS[call.method] = _Method(call.method)
        method.in_flight += 1
        try:
            await proceed(call)
        finally:
            method.in_flight -= 1
            method.ended(call)
