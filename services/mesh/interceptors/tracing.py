"""A span per call, child of the caller's span (W3C traceparent in metadata).

OpenTelemetry's own grpc.aio instrumentation breaks handlers that call `context.write` and loses spans of cancelled
streams, so this one is ours. Names follow its semantic conventions for RPC.
"""

from collections.abc import Mapping
from typing import Final

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.mesh import spans
from services.mesh.rpc import Call, Proceed

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_KEYS: Final = ("traceparent", "tracestate")
_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class TracingStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Opens the span when this process exports spans, and else hands the caller's trace on."""
        if call.is_infrastructure:
            await proceed(call)
            return
        carrier = {pair[0]: pair[1] for pair in call.metadata if pair[0] in _KEYS}
        if spans.are_sent():
            await self._traced(call, carrier, proceed)
        else:
            # No collector here, and perhaps one further on: the caller's trace is passed through. Even a span that
            # records nothing costs as much as all other stages together.
            await self._passed_on(call, carrier, proceed)

    async def _passed_on(self, call: Call, carrier: Mapping[str, str], proceed: Proceed) -> None:
        if not carrier:
            await proceed(call)
            return
        parent = _PROPAGATOR.extract(carrier)
        call.trace_id = _trace_id(trace.get_current_span(parent))
        token = context.attach(parent)
        try:
            await proceed(call)
        finally:
            context.detach(token)

    async def _traced(self, call: Call, carrier: Mapping[str, str], proceed: Proceed) -> None:
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
            call.trace_id = _trace_id(span)
            span.set_attribute("parley.request_id", call.request_id)
            try:
                await proceed(call)
            finally:
                span.set_attribute("rpc.grpc.status_code_name", call.code)
                if call.code in _SERVER_FAULTS:
                    span.set_status(trace.StatusCode.ERROR, call.reason)


def _trace_id(span: trace.Span) -> str:
    span_context = span.get_span_context()
    return f"{span_context.trace_id:032x}" if span_context.is_valid else ""
