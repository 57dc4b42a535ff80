"""A span per call, child of the caller's span (W3C traceparent in metadata).

OpenTelemetry's own grpc.aio instrumentation breaks handlers that call `context.write` and loses spans of cancelled
streams, so this one is ours. Names follow its semantic conventions for RPC.
"""

from typing import Final

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.mesh.rpc import Call, Proceed

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_KEYS: Final = ("traceparent", "tracestate")
_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class TracingStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Opens the span; without a configured tracer this costs a no-op span."""
        if call.is_infrastructure:
            await proceed(call)
            return
        carrier = {key: value for key, value in call.metadata if key in _KEYS}
        service, _, method = call.method.removeprefix("/").partition("/")
        tracer = trace.get_tracer("parley.mesh")
        with tracer.start_as_current_span(
            call.method.removeprefix("/"),
            context=_PROPAGATOR.extract(carrier) if carrier else None,
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            record_exception=False,  # its text may hold what must not leave the process
            set_status_on_exception=False,
        ) as span:
            if span.get_span_context().is_valid:
                call.trace_id = f"{span.get_span_context().trace_id:032x}"
            span.set_attribute("parley.request_id", call.request_id)
            try:
                await proceed(call)
            finally:
                span.set_attribute("rpc.grpc.status_code_name", call.code)
                if call.code in _SERVER_FAULTS:
                    span.set_status(trace.StatusCode.ERROR, call.reason)
